"""The C core: memory order, the shared ring's verbs and both data-path loops.

`ffi` and `lib` are cffi's; they are for the wrappers alone (ring.py, stats.py, the hypervisors and the two queue.py): no
cffi object leaves its wrapper. Built by build.py from the C files beside it.
"""

try:
    from xenpv.core._core import ffi, lib
except ImportError as error:  # pragma: no cover - only in a tree that was never built
    raise ImportError(f"the C core is not built ({error}): run `pip install -e .` in the source tree") from error

__all__ = ["ffi", "lib"]
