"""A pickle that passes for one of records is loaded unwatched: so none of its numbers may become a key.

The reference is the unpickler in C. `watched` hands it each key before it is hashed.
"""

from __future__ import annotations

import io
import pickle
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hostile
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pickle_programs import program

from cachekit.serialization import pickle_literals
from cachekit.serialization.collisions import MOST_ALIKE, watched
from cachekit.serialization.pickle_literals import recognise


@pytest.fixture(autouse=True)
def every_number_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pickle is loaded unwatched only because it is small."""
    monkeypatch.setattr(pickle_literals, "_FEW_NUMBERS", -1)
    monkeypatch.setattr(pickle_literals, "_has_few_numbers", lambda _: False)


class Reference(pickle.Unpickler):
    """Fills containers as the unpickler does, and counts their keys that are numbers."""

    def __init__(self, text: bytes) -> None:
        super().__init__(io.BytesIO(watched(text)))
        self.filled: list[object] = []  # held, so that no id is used twice
        self.numbers: Counter[int] = Counter()
        self.keys = 0

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError("a class")

    def persistent_load(self, parts: Any) -> Any:
        if len(parts) == 1:
            container, keys = parts[0]
            self.filled.append(container)
            for key in keys:
                self._note(container, key)
                container.add(key)
            return container
        container, items = parts if len(parts) == 2 else (parts[0], parts[1:])
        self.filled.append(container)
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._note(container, key)
            container[key] = value
        return container

    def _note(self, container: Any, key: object) -> None:
        if type(container) in (dict, set):
            hash(key)
            self.keys += 1
            self.numbers[id(container)] += type(key) in (int, float)


def is_record(text: bytes) -> bool:
    plain = recognise(text)
    return plain is not None and not plain.may_collide and not without_hashing(text)


def without_hashing(text: bytes) -> bool:
    run = pickle_literals._run(pickle_literals._TUPLES, pickle_literals._NUMBERS)
    return pickle_literals._matched(text, run) is not None


def keys_of(text: bytes) -> int:
    """Return how many keys the unpickler sets, after checking that none is a number."""
    # SETITEM at the very end may set a few.
    body = text[:-1]
    bound = body[len(body.rstrip(b"aesu")) :].count(b"s")
    assert bound <= MOST_ALIKE
    reference = Reference(text)
    try:
        reference.load()
    except Exception:  # refused: what was filled before counts all the same
        pass
    assert max(reference.numbers.values(), default=0) <= bound, text
    return reference.keys


# -- programs of the opcodes that records have ---------------------------------------------------------------

_NUMBERS = (b"K\x01", b"M\x00\x01", b"J\x00\x00\x01\x00", b"G" + bytes(8), hostile.number(1 << 70))
_FRAME = b"\x95" + bytes(8)
_PIECES = (
    *(hostile.text(one) for one in "ab"), hostile.text("c") + b"\x94", b"C\x01b",
    *(b"h" + bytes((index,)) for index in range(4)), b"j" + bytes(4),
    *_NUMBERS, *_NUMBERS, b"N", b"X\x01\x00\x00\x00x", _FRAME, b"\x94", b"\x94",
    b"]", b"}", b"](", b"}(", b"](", b"}(", b"]\x94", b"}\x94", b"(", b"(e", b"(u", b"](K\x01K\x02e", b"]Na",
    b"(e\x94", b"(u\x94", b"K\x01\x94", b"h\x00K\x01]s", b"a", b"e", b"u", b"s",
    b"e", b"u", b"s", b"e(", b"u(", b"}" + hostile.text("d") + b"K\x01s", b"\x8f", b"\x90",
)  # fmt: skip
_ENDS = (b"", b"u", b"s", b"uu", b"ue", b"su", b"au", b"h\x00Nu", b"h\x01Nu", b"h\x02Nu")


def records(seed: int) -> Iterator[bytes]:
    """Yield programs that pass for records, each one that the unpickler carries out to its last piece."""
    draw = random.Random(seed)
    text = hostile.START + draw.choice((b"}(", b"](", b"}\x94", b"]", b""))
    kept, pending = text, 0
    for _ in range(60):
        longer = text + draw.choice(_PIECES)
        try:
            Reference(longer + b"N.").load()
        except Exception:  # the unpickler refuses what was put there
            continue
        text, pending = longer, pending + 1
        for end in _ENDS:
            if is_record(text + end + b"."):
                kept, pending = text, 0
                yield text + end + b"."
        if pending > 2:
            text, pending = kept, 0


def assert_no_number_is_a_key(seeds: range) -> None:
    passed = keys = 0
    for seed in seeds:
        for text in records(seed):
            passed += 1
            keys += keys_of(text)
    print(f"{passed} records, {keys} keys")
    assert passed > 30 * len(seeds)
    assert keys > 10 * len(seeds)


def test_no_number_of_a_record_is_a_key() -> None:
    """Of programs that the unpickler carries out, those that pass set no key from a number."""
    assert_no_number_is_a_key(range(100))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_number_of_many_more_records_is_a_key() -> None:
    """As above, with other programs."""
    assert_no_number_is_a_key(range(1000, 50_000))


def test_no_number_of_other_programs_is_a_key() -> None:
    """Programs of all opcodes, most of which do not pass."""
    for seed in range(2000):
        text = program(seed)
        if is_record(text):
            keys_of(text)


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("x" * 300)
_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=2), inner, max_size=4)
        | st.dictionaries(_scalars, inner, max_size=4)
        | st.sets(_scalars, max_size=4)
    ),
)


@given(_values)
def test_values_with_numbers_as_keys_are_watched(value: object) -> None:
    """What `pickle.dumps` writes passes only if no key is a number."""
    text = pickle.dumps(value, 5)
    if is_record(text):
        keys_of(text)


def test_ordinary_records_pass() -> None:
    """Lists of dicts of numbers and texts, and columns, are loaded unwatched."""
    rows = [
        {"id": row, "price": row * 0.5, "name": f"n{row}", "tags": ["a", "b"], "x": {}} for row in range(50)
    ]
    for value in rows, {"rows": rows, "note": "x" * 300}, {"a": [0.5] * 50, "b": [1, 2]}, {"a": {"b": rows}}:
        assert is_record(pickle.dumps(value, 5))
    assert not is_record(pickle.dumps([*rows, {1: 2}], 5))
