"""Every offset and size of the ring, thrice: Xen's public headers (compiled here), construct, and the core. The time page,
which is ours, twice.

A row of `HEADERS` names a struct of ours, the struct in blkif.h, and the fields whose name differs there; all other
fields are called alike. x86_32 is the same header with that ABI's alignment of 64-bit fields, four, on any machine.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from xenpv.wire import blkif, timepage

HEADERS: dict[str, tuple[str, dict[str, str]]] = {
    "segment": ("struct blkif_request_segment", {}),
    "rw": ("struct blkif_request", {"segments": "seg"}),
    "discard": ("struct blkif_request_discard", {}),
    "indirect": ("struct blkif_request_indirect", {}),
    "response": ("struct blkif_response", {}),
    "request": ("union blkif_sring_entry", {}),
    "ring": ("struct blkif_sring", {"private": "pvt", "entries": "ring"}),
}
OURS = {"ring.backend_word", "ring.frontend_word"}
"""Fields that Xen knows as padding."""
UNTOUCHED = {"ring.private"}
"""Fields that the core has no need of."""

PROBE = """\
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#define __XEN_INTERFACE_VERSION__ 0x00040400
#include <xen/grant_table.h>
#include <xen/io/ring.h>
#ifdef LIKE_X86_32
#pragma pack(push, 4)
#undef __i386__
#define __i386__ 1
#endif
#include <xen/io/blkif.h>
#ifdef LIKE_X86_32
#undef __i386__
#pragma pack(pop)
#endif
int main(void)
{
@LINES@
    return 0;
}
"""


def names(abi: str) -> list[str]:
    """The names of our table that Xen's headers know too, for this ABI."""
    return [name for name in blkif.layout() if name.startswith((f"{abi}.", "ring.")) and name not in OURS]


def expression(name: str) -> str:
    """What `name` is in C."""
    struct, field = name.split(".")[-2:]
    tag, others = HEADERS[struct]
    return f"sizeof({tag})" if field == "size" else f"offsetof({tag}, {others.get(field, field)})"


@pytest.mark.parametrize("abi", ["x86_64", "x86_32"])
def test_construct_says_what_xens_headers_say(abi: str, tmp_path: Path) -> None:
    cc = shutil.which(os.environ.get("CC", "cc"))
    if cc is None:
        pytest.skip("no C compiler (apt install gcc)")
    if not Path("/usr/include/xen/io/blkif.h").exists():
        pytest.skip("no public Xen headers (apt install libxen-dev)")
    lines = [f'    printf("{name} %zu\\n", (size_t){expression(name)});' for name in names(abi)]
    (tmp_path / "probe.c").write_text(PROBE.replace("@LINES@", "\n".join(lines)))
    like = ["-DLIKE_X86_32"] if abi == "x86_32" else []
    built = subprocess.run([cc, *like, "-o", "probe", "probe.c"], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    answer = subprocess.run([tmp_path / "probe"], capture_output=True, text=True, check=True).stdout
    probed = {name: int(value) for name, value in (line.split() for line in answer.splitlines())}
    assert probed == {name: blkif.layout()[name] for name in names(abi)}


@pytest.mark.parametrize("tag", ["x86_64", "x86_32"])
def test_the_table_covers_every_struct(tag: str) -> None:
    assert {name.split(".")[-2] for name in names(tag)} == set(HEADERS)


def test_our_two_words_lie_in_the_headers_padding() -> None:
    declared = blkif.layout()
    assert declared["ring.private"] + 4 <= declared["ring.backend_word"] == 32
    assert declared["ring.frontend_word"] == 36 <= declared["ring.entries"] - 4


def core_layout() -> dict[str, int]:
    """The core's own table, `xenpv_layouts`: entries of name and value, the last with a null name."""
    try:
        module = importlib.import_module("xenpv.core._core")
    except ImportError:
        pytest.skip("the core is not built (pip install .)")
    table, found, index = module.lib.xenpv_layouts, {}, 0
    while table[index].name != module.ffi.NULL:
        found[module.ffi.string(table[index].name).decode()] = int(table[index].value)
        index += 1
    return found


def test_the_core_says_what_construct_says() -> None:
    declared = blkif.layout() | timepage.layout()
    core = core_layout()
    assert core == {name: declared.get(name) for name in core}


def test_the_core_names_every_field() -> None:
    assert set(core_layout()) >= (set(blkif.layout()) | set(timepage.layout())) - UNTOUCHED
