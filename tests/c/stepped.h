/* A process that is stepped through, an instruction at a time: what holds at each of them holds wherever it is interrupted.
 *
 * Without a sanitizer only: the order of the stores is the compiler's, so the plain build is the one to look at. */
#ifndef XENPV_TEST_STEPPED_H
#define XENPV_TEST_STEPPED_H

#include "harness.h"

#if !TEST_SANITIZED
/* life(with) in a process of its own, look(with) here after each of its instructions. What they share is mapped shared.
 * Where ptrace is not allowed, the test ends and says so. */
void step_through(void (*life)(void *with), void (*look)(void *with), void *with);
#endif

#endif
