/* The table of standing mappings, against a plain list. */
#include <string.h>

#include "fake_hypervisor.h"
#include "harness.h"
#include "persistent.h"

#define REFS 300u

static struct fake_domain domain;
static struct xenpv_persistent table;
static struct xenpv_hypervisor *hv;

static void begin(uint32_t max)
{
    fake_domain_open(&domain);
    fake_grant(&domain, 0, REFS, 1);
    hv = fake_hypervisor(&domain);
    CHECK_EQ(xenpv_persistent_open(&table, max), 0);
}

static void end(void)
{
    xenpv_persistent_close(&table, hv);
    CHECK_EQ(domain.live, 0);
    hv->close(hv);
    fake_domain_close(&domain);
}

static uint32_t pin(uint32_t page)
{
    return xenpv_persistent_pin(&table, hv, 1, FAKE_FIRST_REF + page);
}

TEST(a_second_use_maps_nothing)
{
    begin(4);
    uint32_t first = pin(7), second = pin(7);
    CHECK(first != XENPV_NO_PIN);
    CHECK_EQ(first, second);
    CHECK_EQ(domain.maps, 1);
    CHECK_EQ(table.entry[first].pins, 2);
    table.entry[first].map.memory[5] = 9;
    CHECK_EQ(domain.memory[7 * 4096 + 5], 9);
    end();
}

TEST(no_table_no_pin)
{
    begin(0);
    CHECK_EQ(pin(1), XENPV_NO_PIN);
    CHECK_EQ(domain.maps, 0);
    end();
}

TEST(all_in_use_gives_no_pin_and_no_leak)
{
    begin(3);
    uint32_t pins[] = { pin(0), pin(1), pin(2) };
    CHECK_EQ(pin(3), XENPV_NO_PIN);
    CHECK_EQ(domain.live, 3);
    xenpv_persistent_unpin(&table, pins[1]);
    CHECK_EQ(pin(3), pins[1]); /* the only one that nobody uses */
    CHECK_EQ(domain.live, 3);
    CHECK_EQ(domain.grant[1].mapped, 0);
    end();
}

TEST(least_recently_used_goes_first)
{
    begin(4);
    for (uint32_t page = 0; page < 4; page++)
        xenpv_persistent_unpin(&table, pin(page));
    xenpv_persistent_unpin(&table, pin(0));
    for (uint32_t page = 4; page < 8; page++) {
        xenpv_persistent_unpin(&table, pin(page));
        CHECK_EQ(domain.grant[page == 7 ? 0 : page - 3].mapped, 0); /* 1, 2, 3 and only then 0 */
    }
    CHECK_EQ(domain.live, 4);
    end();
}

TEST(a_map_that_fails_takes_no_place)
{
    begin(4);
    xenpv_persistent_unpin(&table, pin(0));
    CHECK_EQ(pin(REFS), XENPV_NO_PIN); /* not granted */
    fake_grant(&domain, 9, 1, 0);
    CHECK_EQ(pin(9), XENPV_NO_PIN); /* granted read-only */
    CHECK_EQ(table.count, 1);
    for (uint32_t page = 0; page < 4; page++)
        CHECK(pin(page) != XENPV_NO_PIN);
    CHECK_EQ(domain.live, 4);
    end();
}

/* Random uses: what is pinned is right and stays, never more than the maximum stands, nothing is lost in the buckets. */
static void random_uses(uint32_t max, uint64_t seed)
{
    struct test_random r = { seed };
    uint32_t held[64], pages[64], count = 0, misses = 0;

    begin(max);
    for (uint32_t n = 0; n < 20000; n++) {
        if (count && (count == 64 || test_random(&r, 2))) {
            uint32_t i = test_random(&r, count);
            CHECK_EQ(table.entry[held[i]].ref, FAKE_FIRST_REF + pages[i]);
            CHECK_EQ(domain.grant[pages[i]].mapped, 1);
            xenpv_persistent_unpin(&table, held[i]);
            held[i] = held[--count];
            pages[i] = pages[count];
            continue;
        }
        uint32_t page = test_random(&r, REFS), before = domain.grant[page].mapped;
        int64_t maps = domain.maps;
        uint32_t at = pin(page);
        CHECK_EQ(domain.maps - maps, !before); /* found if and only if it stands */
        CHECK(domain.live <= max);
        if (at == XENPV_NO_PIN) {
            misses++;
            continue;
        }
        CHECK_EQ(table.entry[at].ref, FAKE_FIRST_REF + page);
        held[count] = at;
        pages[count++] = page;
    }
    CHECK(max >= 64 || misses > 0);
    end();
}

TEST(random_uses_agree_with_the_grants)
{
    random_uses(1, 1);
    random_uses(7, 2);
    random_uses(64, 3);
    random_uses(299, 4);
    random_uses(1000, 5);
}
