"""Builds the C core as a cffi extension in API mode.

`api.h` is the one declaration of what Python may call: cffi reads it here and the C files include it. CFLAGS of the
environment are appended by the compiler driver; `XENPV_CFLAGS="-Wall -Wextra -Werror"` is what CI adds.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import cffi

HERE = Path(__file__).parent if "__file__" in globals() else Path("xenpv/core")


def declarations(header: str) -> str:
    """The declarations of `header` without what only the C preprocessor understands."""
    lines = header.splitlines()
    preprocessor = ("#include", "#ifndef", "#endif", "#define XENPV_API_H")
    return "\n".join(line for line in lines if not line.startswith(preprocessor))


ffi = cffi.FFI()
ffi.cdef(declarations((HERE / "api.h").read_text()))
ffi.set_source(
    "xenpv.core._core",
    '#include "api.h"\n',
    sources=sorted(str(Path("xenpv/core") / path.name) for path in HERE.glob("*.c") if path.name != "_core.c"),
    depends=sorted(str(Path("xenpv/core") / path.name) for path in HERE.glob("*.h")),
    include_dirs=["xenpv/core"],
    extra_compile_args=["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-fvisibility=hidden",
                        *shlex.split(os.environ.get("XENPV_CFLAGS", ""))],
    extra_link_args=["-pthread"],
)

if __name__ == "__main__":
    os.chdir(HERE.parent.parent)
    ffi.compile(verbose=True)
