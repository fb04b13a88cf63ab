"""Who may import whom. RULES

- In `xenpv`, a module imports only rows above its own in LAYERS (and, if it is a package, itself).
- `xenpv_backend` and `xenpv_frontend` import `xenpv`, never each other; `tools` may import all, itself relatively.
- Nobody imports `tools`, and outside it only tests import `xenpv_tools`.
- What stands in HOMES is imported nowhere else.

Imports count wherever they stand: at the top, in a function, under TYPE_CHECKING, through importlib.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = [
    {"errors"},
    {"closing", "limits", "signals", "waiting"},
    {"core"},
    {"wire", "memory", "stats", "latency"},
    {"domain"},
    {"ring", "xenbus", "store", "timepage"},
    {"hypervisors"},
    {"testing"},
]

# A module, and the files or folders that may import it. A folder ends in a slash.
HOMES = {
    "pyxs": ["xenpv/store/connection.py"],
    "cryptography": ["tools/bundle/signing.py"],
    "construct": ["xenpv/wire/", "tools/bundle/"],
    "click": ["tools/"],
    "prometheus_client": ["tools/monitor/exporter.py"],
    "cairosvg": ["tools/monitor/page.py"],
    "cffi": ["xenpv/core/build.py"],
    "xenpv.core": [  # the wrappers of cffi's objects
        "xenpv/core/",
        "xenpv/memory.py",
        "xenpv/stats.py",
        "xenpv/ring.py",
        "xenpv/timepage/page.py",
        "xenpv/hypervisors/",
        "xenpv_backend/queue.py",
        "xenpv_frontend/books.py", "xenpv_frontend/queue.py",
    ],
}

ENDS = {"xenpv_backend", "xenpv_frontend"}


def sources() -> list[str]:
    """Every Python file of the project but the tests, relative to its root."""
    folders = ["xenpv", "xenpv_backend", "xenpv_frontend", "tools"]
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(file: str) -> str:
    """The name by which Python knows `file`: tools are installed as xenpv_tools."""
    parts = list(Path(file).with_suffix("").parts)
    if parts[0] == "tools":
        parts[0] = "xenpv_tools"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    """Whether `name` is a module of this project, or has a row in LAYERS."""
    if name.startswith("xenpv.") and layer(name.removeprefix("xenpv.")) >= 0:
        return True
    path = ROOT / Path(*name.replace("xenpv_tools", "tools", 1).split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def imports(file: str, text: str) -> Iterator[tuple[int, str, bool]]:
    """Every import in `text`: its line, the module in full, and whether it was written relatively."""
    package = module_of(file).split(".")
    if not file.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, False
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{name}.{alias.name}"
                yield node.lineno, full if is_module(full) else name, node.level > 0
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if ast.unparse(node.func) in {"importlib.import_module", "import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value), False


def within(module: str, parent: str) -> bool:
    """Whether `module` is `parent` or stands inside it."""
    return module == parent or module.startswith(parent + ".")


def stands_in(file: str, place: str) -> bool:
    """Whether `file` is `place`, or is inside it when that is a folder."""
    return file.startswith(place) if place.endswith("/") else file == place


def layer(component: str) -> int:
    """The row of `xenpv.<component>` in LAYERS, or -1."""
    return next((row for row, names in enumerate(LAYERS) if component in names), -1)


def reason_against(file: str, module: str, relative: bool) -> str | None:
    """Why `file` must not import `module`, or None when it may."""
    own = module_of(file)
    here, there = own.split(".")[0], module.split(".")[0]
    if there == "tools" or there == "xenpv_tools" and here != "xenpv_tools":
        return "nobody imports the tools"
    if there == "xenpv_tools" and not relative:
        return "tools import each other relatively"
    for home, places in HOMES.items():
        if within(module, home) and not any(stands_in(file, place) for place in places):
            return f"{home} is imported only in {', '.join(places)}"
    if here in ENDS and there in ENDS and here != there:
        return "backend and frontend do not import each other"
    if here == "xenpv" and there in ENDS:
        return "xenpv does not know its ends"
    if here == there == "xenpv" and module != "xenpv":
        above, below = [*own.split("."), ""][1], module.split(".")[1]
        if not above:
            return "xenpv/__init__.py imports nothing of its own"
        if above != below and not layer(below) < layer(above):
            return f"{above} stands in row {layer(above)} of LAYERS, {below} in row {layer(below)}"
    return None


@pytest.mark.parametrize("file", sources())
def test_imports_only_what_it_may(file: str) -> None:
    found = [f"{file}:{line}: {module}: {reason}" for line, module, relative in imports(file, (ROOT / file).read_text())
             if (reason := reason_against(file, module, relative))]
    assert not found, "\n".join(found)


def test_every_module_of_xenpv_has_a_row() -> None:
    modules = [module_of(file).split(".") for file in sources()]
    names = {parts[1] for parts in modules if parts[0] == "xenpv" and len(parts) > 1}
    assert {name for name in names if layer(name) < 0} == set()


@pytest.mark.parametrize(("file", "text"), [
    ("xenpv/errors.py", "import xenpv.domain"),
    ("xenpv/ring.py", "from xenpv import xenbus"),
    ("xenpv/ring.py", "def f():\n    from .store import XenStore"),
    ("xenpv/ring.py", "import importlib\nimportlib.import_module('xenpv.testing')"),
    ("xenpv/__init__.py", "from . import errors"),
    ("xenpv/ring.py", "import xenpv_backend"),
    ("xenpv/ring.py", "import pyxs"),
    ("xenpv/xenbus.py", "from construct import Struct"),
    ("xenpv/xenbus.py", "if TYPE_CHECKING:\n    import click.core"),
    ("xenpv_backend/device.py", "from xenpv_frontend.queue import Queue"),
    ("xenpv_backend/device.py", "from xenpv.core import lib"),
    ("xenpv_backend/device.py", "from xenpv_tools import cli"),
    ("tools/cli.py", "from tools import commands"),
    ("tools/cli.py", "from xenpv_tools import commands"),
    ("tools/cli.py", "from cffi import FFI"),
])
def test_rule_catches(file: str, text: str) -> None:
    assert any(reason_against(file, module, relative) for _, module, relative in imports(file, text))


@pytest.mark.parametrize(("file", "text"), [
    ("xenpv/ring.py", "from xenpv import domain, errors\nfrom .core import lib\nimport os"),
    ("xenpv/hypervisors/xen.py", "from . import emulated\nfrom ..store import XenStore"),
    ("xenpv_backend/queue.py", "from xenpv.core import ffi, lib\nfrom . import device"),
    ("tools/cli.py", "import click\nfrom . import commands\nfrom .commands import demo\nimport xenpv_backend"),
])
def test_rule_allows(file: str, text: str) -> None:
    assert [reason_against(file, module, relative) for _, module, relative in imports(file, text)].count(None) > 0
    assert not [module for _, module, relative in imports(file, text) if reason_against(file, module, relative)]
