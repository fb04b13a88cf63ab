/* The buckets of a histogram. */
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "latency.h"

TEST(every_value_below_the_limit_has_the_bucket_whose_bounds_hold_it)
{
    struct xenpv_histogram *histogram = calloc(1, sizeof *histogram);

    for (uint64_t value = 0; value < XENPV_HISTOGRAM_LIMIT; value += 1 + value / 97) {
        unsigned number = 0;
        memset(histogram->bucket, 0, sizeof histogram->bucket);
        xenpv_histogram_add(histogram, (int64_t)value);
        while (!histogram->bucket[number])
            number++;
        unsigned shift = number < 128 ? 0 : (number >> 6) - 1;
        uint64_t low = (uint64_t)(number - (shift << 6)) << shift;
        CHECK(low <= value && value < low + (UINT64_C(1) << shift));
        CHECK(shift == 0 || low >> shift >= 64); /* a bucket is at most a 64th of its values */
    }
    free(histogram);
}

TEST(what_has_no_bucket_is_counted_and_is_in_the_sum)
{
    struct xenpv_histogram *histogram = calloc(1, sizeof *histogram);

    xenpv_histogram_add(histogram, -3);
    xenpv_histogram_add(histogram, -1);
    xenpv_histogram_add(histogram, XENPV_HISTOGRAM_LIMIT - 1);
    xenpv_histogram_add(histogram, XENPV_HISTOGRAM_LIMIT);
    xenpv_histogram_add(histogram, UINT32_MAX);
    CHECK_EQ(histogram->underflow, 2);
    CHECK_EQ(histogram->overflow, 2);
    CHECK_EQ(histogram->bucket[1407], 1);
    CHECK_EQ(histogram->least, -3);
    CHECK_EQ(histogram->greatest, UINT32_MAX);
    CHECK_EQ(histogram->total, INT64_C(2) * XENPV_HISTOGRAM_LIMIT - 1 - 4 + UINT32_MAX);
    free(histogram);
}
