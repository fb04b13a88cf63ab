/* The file of unanswered requests of one queue: what a successor needs to answer each of them exactly once.
 *
 * Responses may be given out of order, and each overwrites a ring slot that may hold a request not answered yet; after a
 * crash the ring alone does not say what was asked. So, in a file that outlives the process (tmpfs):
 *
 *   header    magic, version, entries, taken_to: the request index that the next take reads
 *   taken[]   by slot: the copy of the request, its request index, valid
 *   answered[] by response index: the slot and the request index answered, written before the response is published
 *
 * A request in `taken` was answered exactly if an `answered` entry below the ring's rsp_prod names it. A process that is
 * killed leaves its stores in program order, so only the compiler must keep the order: signal fences. */
#ifndef XENPV_JOURNAL_H
#define XENPV_JOURNAL_H

#include <stdint.h>

#include "wire.h"

#define XENPV_JOURNAL_MAGIC 0x6c6e6a76706e6578ull /* "xenpvjnl" */
#define XENPV_JOURNAL_VERSION 1u

struct xenpv_taken {
    uint8_t raw[XENPV_MAX_REQUEST];
    uint32_t index; /* request index */
    uint32_t valid;
    uint64_t reserved;
};

struct xenpv_answered {
    uint32_t response; /* response index */
    uint32_t request;  /* request index */
    uint32_t slot;
    uint32_t reserved;
};

struct xenpv_journal {
    uint64_t magic;
    uint32_t version;
    uint32_t entries;
    uint32_t taken_to;
    uint32_t reserved[11];
    struct xenpv_taken taken[];
};

static inline struct xenpv_answered *xenpv_journal_answered(struct xenpv_journal *journal)
{
    return (struct xenpv_answered *)(void *)(journal->taken + journal->entries);
}

/* Makes a fresh journal, or -EINVAL for one that is not of this ring. */
int xenpv_journal_attach(struct xenpv_journal *journal, uint32_t entries, uint32_t taken_to);
/* Slots whose requests a predecessor took and did not answer, for a ring whose rsp_prod is `answered_to`. The other slots
 * are freed. Returns how many stand in `slots`. */
uint32_t xenpv_journal_unanswered(struct xenpv_journal *journal, uint32_t answered_to, uint32_t *slots);

void xenpv_journal_take(struct xenpv_journal *journal, uint32_t slot, uint32_t index);
void xenpv_journal_answer(struct xenpv_journal *journal, uint32_t slot, uint32_t response);
void xenpv_journal_free(struct xenpv_journal *journal, uint32_t slot);

#endif
