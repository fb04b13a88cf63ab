#include "journal.h"

#include "api.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

_Static_assert(sizeof(struct xenpv_taken) == 128, "two cache lines a request");
_Static_assert(offsetof(struct xenpv_journal, taken) == 64, "the header is one cache line");

uint64_t xenpv_journal_bytes(uint32_t entries)
{
    return offsetof(struct xenpv_journal, taken)
        + (uint64_t)entries * (sizeof(struct xenpv_taken) + sizeof(struct xenpv_answered));
}

int xenpv_journal_attach(struct xenpv_journal *journal, uint32_t entries, uint32_t taken_to)
{
    if (journal->magic == 0) {
        journal->version = XENPV_JOURNAL_VERSION;
        journal->entries = entries;
        journal->taken_to = taken_to;
        /* The magic last: a journal killed half made counts as none. */
        atomic_signal_fence(memory_order_seq_cst);
        journal->magic = XENPV_JOURNAL_MAGIC;
        return 0;
    }
    if (journal->magic != XENPV_JOURNAL_MAGIC || journal->version != XENPV_JOURNAL_VERSION || journal->entries != entries)
        return -EINVAL;
    return 0;
}

static int was_answered(struct xenpv_journal *journal, uint32_t slot, uint32_t answered_to)
{
    const struct xenpv_answered *answered = xenpv_journal_answered(journal);

    for (uint32_t i = 0; i < journal->entries; i++)
        /* At or past rsp_prod the answer was not published: the frontend never saw it. */
        if (answered[i].slot == slot && answered[i].request == journal->taken[slot].index
            && answered_to - answered[i].response - 1 < journal->entries)
            return 1;
    return 0;
}

uint32_t xenpv_journal_unanswered(struct xenpv_journal *journal, uint32_t answered_to, uint32_t *slots)
{
    uint32_t count = 0;

    for (uint32_t slot = 0; slot < journal->entries; slot++) {
        struct xenpv_taken *taken = &journal->taken[slot];
        if (!taken->valid)
            continue;
        /* Copied but not counted as taken: it still stands in the ring and is taken from there. Only the last one can be;
         * how old an index is says nothing, as a request may wait while any number of later ones is answered. */
        if (taken->index != journal->taken_to && !was_answered(journal, slot, answered_to))
            slots[count++] = slot;
        else
            taken->valid = 0;
    }
    return count;
}

void xenpv_journal_take(struct xenpv_journal *journal, uint32_t slot, uint32_t index)
{
    journal->taken[slot].index = index;
    atomic_signal_fence(memory_order_seq_cst); /* the copy and its index before "valid" */
    journal->taken[slot].valid = 1;
    atomic_signal_fence(memory_order_seq_cst); /* the copy before the count that says it was taken */
    journal->taken_to = index + 1;
}

void xenpv_journal_answer(struct xenpv_journal *journal, uint32_t slot, uint32_t response)
{
    struct xenpv_answered *answered = &xenpv_journal_answered(journal)[response & (journal->entries - 1)];

    /* The response index first: from here until it is published the entry names no answer, also half written. */
    answered->response = response;
    atomic_signal_fence(memory_order_seq_cst);
    answered->slot = slot;
    answered->request = journal->taken[slot].index;
    atomic_signal_fence(memory_order_seq_cst); /* before the response that it describes is published */
}

void xenpv_journal_free(struct xenpv_journal *journal, uint32_t slot)
{
    atomic_signal_fence(memory_order_seq_cst); /* after the publish: until then the request counts as unanswered */
    journal->taken[slot].valid = 0;
}
