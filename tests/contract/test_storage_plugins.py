"""docs/storage.md's example, as an installed distribution: found by its entry points, and held to the contract."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.plug_ins import install, install_example
from tests.support.storages import read
from xenpv.errors import StorageError
from xenpv.testing import storage as contract
from xenpv.wire.blkif import Status
from xenpv_backend.storage import is_filter, open_storage, plug_ins
from xenpv_backend.storage.layers import asynchronous


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("xenpv_sparse") or name.startswith("plugin_")]:
        del sys.modules[name]


@pytest.fixture
def example(site: Path) -> None:
    install_example(site)


@pytest.mark.parametrize("check", contract.STORAGE_CHECKS)
@pytest.mark.parametrize("target", ["sparse:131072", "sparse,block=8192:131072", "invert:sparse:131072",
                                    "throttle,iops=1000000:invert:sparse:131072"])
def test_the_example_keeps_the_contract(example: None, target: str, check: Callable[[contract.Make], None]) -> None:
    check(lambda readonly: open_storage(target, "r" if readonly else "w"))


def test_a_plug_ins_filter_is_known_by_its_name(example: None) -> None:
    assert is_filter("invert") and not is_filter("sparse")
    assert plug_ins() == ["invert", "sparse"]


@pytest.mark.parametrize(("target", "words"), [
    ("sparse:1000", "no multiple of 4096"),
    ("sparse:many", "sparse: ValueError: invalid literal"),
    ("sparse,bolck=512:4096", "there is no parameter bolck: it has block"),
])
def test_what_it_refuses_is_one_line(example: None, target: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        open_storage(target, "w")
    assert "\n" not in str(caught.value)


BAD = '''
from xenpv_backend.storage import SimpleStorage, StorageFacts

class Bad(SimpleStorage):
    name = "bad"
    def __init__(self, facts):
        self.facts = facts

def empty(opening): return Bad(StorageFacts(0, opening.readonly))
def odd(opening): return Bad(StorageFacts(9, opening.readonly, sector_size=4096, physical_sector_size=4096))
def stubborn(opening): return Bad(StorageFacts(8, False))
def huge(opening): return Bad(StorageFacts(1 << 60, opening.readonly))
'''


@pytest.mark.parametrize(("word", "words"), [
    ("empty", "claims a size of 0 sectors"), ("odd", "no whole sectors of 4096"), ("huge", "claims a size of"),
    ("stubborn", "to be writable, when it was to be read-only"), ("missing", "missing: AttributeError"),
    ("unimportable", "unimportable: ModuleNotFoundError"),
])
def test_a_plug_in_that_is_wrong_is_refused(site: Path, word: str, words: str) -> None:
    module = "plugin_none" if word == "unimportable" else "plugin_bad"
    install(site, "plugin_bad", BAD, f"[xenpv.storage]\n{word} = {module}:{word}\n")
    with pytest.raises(StorageError, match=words) as caught:
        open_storage(f"{word}:x", "r")
    assert "\n" not in str(caught.value)


def test_a_word_that_two_plug_ins_claim(site: Path) -> None:
    for name in ("plugin_one", "plugin_two"):
        install(site, name, BAD, f"[xenpv.storage]\nempty = {name}:empty\n")
    with pytest.raises(StorageError, match="claimed by several plug-ins .*uninstall all but one"):
        open_storage("empty:x", "w")


def test_ours_cannot_be_taken_over(site: Path, tmp_path: Path) -> None:
    install(site, "plugin_bad", BAD, "[xenpv.storage]\nraw = plugin_bad:empty\n"
                                     "[xenpv.storage.filter]\nmemory = plugin_bad:empty\n")
    with open_storage("memory:65536", "w") as storage:
        assert storage.facts.size == 65536


RAISES = '''
from xenpv_backend.storage import AsyncStorage, Layer, SimpleStorage, StorageFacts

class Simple(SimpleStorage):
    name = "simple"
    facts = StorageFacts(256, False)
    def read(self, offset, data): raise RuntimeError("broken")

class Submits(AsyncStorage):
    name, cache, facts = "submits", "none", StorageFacts(256, False)
    def submit(self, requests, done):
        raise RuntimeError("broken")
    def close(self):
        pass

class Twice(Layer):
    def submit(self, requests, done):
        self.below.submit(requests, lambda request: (done(request), done(request)))

def simple(opening): return Simple()
def submits(opening): return Submits()
def twice(below, readonly, parameters): return Twice(below)
'''
POINTS = """
[xenpv.storage]
simple = plugin_raises:simple
submits = plugin_raises:submits
[xenpv.storage.filter]
twice = plugin_raises:twice
"""


@pytest.mark.parametrize(("target", "status"), [
    ("simple:", Status.ERROR), ("submits:", Status.ERROR), ("log:submits:", Status.ERROR),
    ("twice:memory:65536", Status.OKAY)])
def test_what_a_plug_in_does_wrong_is_one_answer_to_that_request(site: Path, target: str, status: Status) -> None:
    install(site, "plugin_raises", RAISES, POINTS)
    answers: list[int] = []
    with asynchronous(open_storage(target, "w")) as storage:
        storage.submit([read(0)], lambda request: answers.append(request.status))
    assert answers == [status]
