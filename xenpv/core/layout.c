#include "api.h"
#include "ring.h"
#include "wire.h"

/* What the core believes, by the names that the test of layouts has: it holds this, construct and Xen's headers equal. */

#define BOTH(x86_64, x86_32, name) { "x86_64." name, x86_64 }, { "x86_32." name, x86_32 }

const struct xenpv_layout xenpv_layouts[] = {
    { "ring.req_prod", XENPV_REQ_PROD },
    { "ring.req_event", XENPV_REQ_EVENT },
    { "ring.rsp_prod", XENPV_RSP_PROD },
    { "ring.rsp_event", XENPV_RSP_EVENT },
    { "ring.backend_word", XENPV_BACKEND_WORD },
    { "ring.frontend_word", XENPV_FRONTEND_WORD },
    { "ring.entries", XENPV_RING_HEADER },
    { NULL, 0 },
};
