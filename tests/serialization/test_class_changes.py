"""A value of a class that has changed since it was stored is a miss, and no other value is."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from class_edits import HITS, MISSES, MODULE, Edit, classes_in, made, program
from free_threads import mortal_classes

from cachekit import FileCache
from cachekit.errors import UnreadableError
from cachekit.serialization import class_fingerprints
from cachekit.serialization.class_fingerprints import check, find_by_import, find_loaded, table_of
from cachekit.serialization.serializer import Serializer


class OwnCodec:
    """A codec of a user, which carries classes."""

    name = "own"
    code = 200

    def encode(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def decode(self, payload: bytes | memoryview) -> Any:
        return pickle.loads(payload)


#: How a cache is made, given the classes of the program.
PLACES: dict[str, Callable[[list[type]], Serializer]] = {
    "trusted": lambda _: Serializer("ns", trusted=True),
    "signed": lambda _: Serializer("ns", secret="a secret of 20 bytes"),
    "allowed": lambda classes: Serializer("ns", allow=classes),
    "compressed": lambda _: Serializer("ns", trusted=True, compression="zlib"),
    "own codec": lambda _: Serializer("ns", codec=OwnCodec()),
}


def read_after(edit: Edit, place: Callable[[list[type]], Serializer], pad: int = 0) -> Any:
    """Store a value, edit the program, and read the value."""
    with program(edit.before) as module:
        value = [made(module, edit.value), "x" * pad]
        stored = place(classes_in(module)).encode("k", value, created=1)
    with program(edit.after) as module:
        return place(classes_in(module)).decode("k", stored).value()[0]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", MISSES)
def test_of_a_class_that_changed(name: str, place: str) -> None:
    """It cannot be read, and the reason is the class."""
    if "attrs" in name:
        pytest.importorskip("attrs")
    with pytest.raises(UnreadableError) as caught:
        read_after(MISSES[name], PLACES[place], pad=5_000 if place == "compressed" else 0)
    assert caught.value.reason == "class"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", HITS)
def test_of_a_class_that_is_the_same(name: str, place: str) -> None:
    """It is read: what methods do is no part of what is stored."""
    if "attrs" in name:
        pytest.importorskip("attrs")
    if "alias" in name and place == "allowed":
        return  # only names on the list may be read
    assert read_after(HITS[name], PLACES[place]) is not None


@pytest.mark.parametrize("place", ["trusted", "own codec"])
def test_plain_values_have_no_table(place: str) -> None:
    """Values of builtin and standard classes are stored as before, byte by byte."""
    serializer = PLACES[place]([])
    for value in (1, "a", {"a": [1, 2.5, None]}, [b"a", {"b"}], Path("a"), ValueError("a")):
        stored = serializer.encode("k", value, created=1)
        header_size = 4 + 4
        assert not stored[header_size + 1] & 0x40


def test_a_class_that_no_name_finds(tmp_path: Path) -> None:
    """It has no place in a table; what pickles it says how it comes back."""
    with program("class A:\n    def __reduce__(self): return int, (3,)\n") as module:
        value = made(module, "A()")
        del module.A
        assert table_of([type(value)]) == b""
        with FileCache(tmp_path) as cache:
            cache.set_value("k", [value])
            assert cache.get_value("k") == [3]


def test_what_stands_is_found_without_running_code() -> None:
    """Names from a place without trust import nothing, and call nothing of a module or class."""
    with program("def __getattr__(name): raise SystemExit\nclass A: pass\n") as module:
        assert find_loaded(MODULE, "A") is module.A
        for names in ((MODULE, "B"), (MODULE, "A.B"), ("no_such_module", "A"), ("antigravity", "fly")):
            with pytest.raises(LookupError):
                find_loaded(*names)
    assert "antigravity" not in sys.modules


def test_damaged_tables() -> None:
    """Cut, padded and random bytes are damage, or name no class."""
    with program("class A: pass") as module:
        table = table_of([module.A])
        check(table, find_by_import)
        for size in range(1, len(table)):
            with pytest.raises(UnreadableError):
                check(table[:size], find_by_import)
        for position in range(len(table)):
            with pytest.raises(UnreadableError):
                check(table[:position] + b"\xff" + table[position + 1 :], find_loaded)
        with pytest.raises(UnreadableError):
            check(table + b"\0", find_by_import)


@mortal_classes
def test_fingerprints_keep_no_class_alive() -> None:
    """They are remembered for as long as the class lives."""
    with program("class A: pass") as module:
        table_of([module.A])
        gone, address = weakref.ref(module.A), id(module.A)
        assert address in class_fingerprints._known
        del module.A
    del module
    gc.collect()
    assert gone() is None
    assert address not in class_fingerprints._known


def test_fingerprints_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again for each value."""
    described: list[type] = []
    lines = class_fingerprints._lines

    def describe(kind: type) -> Iterator[str]:
        described.append(kind)
        return lines(kind)

    monkeypatch.setattr(class_fingerprints, "_lines", describe)
    with program("@dataclass\nclass A:\n    a: int\n") as module:
        serializer = PLACES["trusted"]([])
        for _ in range(3):
            serializer.decode("k", serializer.encode("k", module.A(1), created=1)).value()
        assert described == [module.A]


TABLES = """
import sys
sys.path.insert(0, {support!r})
from class_edits import HITS, MISSES, classes_in, program
from cachekit.serialization.class_fingerprints import table_of
for edit in [*HITS.values(), *MISSES.values()]:
    if "pydantic" in edit.before or "attr" in edit.before:
        continue
    with program(edit.before) as module:
        print(table_of(classes_in(module)).hex())
"""


def tables(python: str, seed: str) -> list[str]:
    support = Path(__file__).parents[1] / "support"
    env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
    code = TABLES.format(support=str(support))
    run = [python, "-c", code]
    return subprocess.run(run, env=env, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def other_pythons() -> list[str]:
    versions = Path.home() / ".pyenv" / "versions"
    return [str(path) for path in sorted(versions.glob("3.1[1-9].*/bin/python"))]


def test_fingerprints_are_the_same_everywhere(subtests: pytest.Subtests) -> None:
    """In each process, under each hash seed, and in each version of Python that is installed here."""
    expected = tables(sys.executable, "1")
    assert len(expected) > 30
    digest = sha256("\n".join(expected).encode()).hexdigest()[:16]
    # Unless cases were added or changed, other versions read none of these values.
    assert digest == "fbe80f944bbc81b6"
    assert tables(sys.executable, "2") == expected
    for python in other_pythons():
        with subtests.test(python):
            assert tables(python, "3") == expected


SHOP = """
import sys
from dataclasses import dataclass
from cachekit import FileCache
@dataclass
class Quote:
    price: int
    {field}
cache = FileCache({where!r})
print(cache.get_value("k"), cache.get_stats().errors)
if len(sys.argv) > 1:
    cache.set_value("k", Quote({arguments}))
cache.close()
"""


def test_of_the_main_module(tmp_path: Path) -> None:
    """A script that was edited; two versions of it beside each other over one directory."""

    def run(field: str, arguments: str, *more: str) -> str:
        script = tmp_path / "shop.py"
        script.write_text(SHOP.format(field=field, arguments=arguments, where=str(tmp_path / "cache")))
        done = subprocess.run([sys.executable, script, *more], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert run("", "3", "store") == "None 0"
    assert run("", "3") == "Quote(price=3) 0"
    assert run("currency: str", "3, 'EUR'", "store") == "None 1"
    assert run("currency: str", "3, 'EUR'") == "Quote(price=3, currency='EUR') 0"
    assert run("", "3") == "None 1"
