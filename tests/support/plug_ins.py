"""Plug-ins for storage as installed distributions: what pip leaves of them, in a folder that Python searches."""

from __future__ import annotations

from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "storage.md"


def install(folder: Path, name: str, module: str, points: str) -> None:
    """The distribution `name` with one module of that name, and `points` as its entry_points.txt."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def install_example(folder: Path) -> None:
    """The distribution xenpv_sparse of docs/storage.md: the storage ``sparse`` and the filter ``invert``."""
    points = ""
    for line in _fenced("ini").splitlines()[1:]:  # setup.cfg's indented lines of one option are sections where pip writes them
        points += f"{line.strip()}\n" if line.startswith(" ") else f"[{line.partition(' =')[0]}]\n"
    install(folder, "xenpv_sparse", _fenced("python"), points)


def _fenced(language: str) -> str:
    """The first block of `language` in the document."""
    return DOCUMENT.read_text().partition(f"```{language}\n")[2].partition("```")[0]
