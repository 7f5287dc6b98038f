"""What a key of large arguments costs, and that it says as much as a key of small ones."""

from __future__ import annotations

import array
import asyncio
import collections
import math
import random
import sys
import threading
from typing import Any

import numpy as np
import pytest
from exploring import explored
from hypothesis import given
from hypothesis import strategies as st

from cachekit import IntelligentCache, cache_result
from cachekit.decorator.key_encoding import LONG, encode
from cachekit.decorator.large_arguments import is_large

SIZE = 50_000
_chance = random.Random(1)
LONG_VALUES: dict[str, Any] = {
    "floats": [_chance.random() for _ in range(SIZE)],
    "a tuple": tuple(_chance.random() for _ in range(SIZE)),
    "ints": list(range(SIZE)),
    "small ints": [n % 100 for n in range(SIZE)],
    "long ints": [_chance.getrandbits(100) for _ in range(SIZE)],
    "bools": [True, False] * (SIZE // 2),
    "texts": [f"item {n}" for n in range(SIZE)],
    "few texts": [_chance.choice(["red", "green"]) for _ in range(SIZE)],
    "bytes": [b"%d" % n for n in range(SIZE)],
    "points": [(_chance.random(), _chance.random()) for _ in range(SIZE)],
    "a matrix": [[_chance.random() for _ in range(100)] for _ in range(SIZE // 100)],
    "records": [{"id": n, "price": n / 3, "name": f"a{n}"} for n in range(SIZE // 3)],
    "a deque": collections.deque(range(SIZE)),
    "a dict by text": {f"key {n}": n / 3 for n in range(SIZE)},
    "a dict by number": {n: n / 3 for n in range(SIZE)},
    "a dict of columns": {f"column {n}": [_chance.random() for _ in range(1000)] for n in range(50)},
    "an array": array.array("d", range(SIZE)),
    "an array of numpy": np.arange(SIZE * 1.0),
    "a text": "é" * SIZE * 10,
}


@pytest.mark.parametrize("kind", LONG_VALUES)
def test_a_key_is_made_by_few_calls_of_python(kind: str) -> None:
    """Most items take a share of a call that C makes; records, columns and numbers of 100 bits some each."""
    value = LONG_VALUES[kind]

    @cache_result(name="asked", cache=IntelligentCache(file_cache=None))
    def asked(thing: Any) -> None: ...

    calls: list[str] = []

    def count(_: object, event: str, __: object) -> None:
        if event == "call":
            calls.append(event)

    asked.key(value)
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        asked.key(value)
    finally:
        sys.setprofile(before)
    each = {"records": 2, "long ints": 3}.get(kind)
    assert len(calls) < (1_200 if each is None else each * SIZE)


# -- long containers are told apart as short ones are -------------------------------------------------

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-1, 1)
    | st.sampled_from([2**63, -(2**63) - 1, 10**30])
    | st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1e300])
    | st.text("a\0é\ud800", max_size=2)
    | st.binary(max_size=2)
)
_rows = (
    _scalars
    | st.tuples(_scalars, _scalars)
    | st.lists(_scalars, max_size=2)
    | st.fixed_dictionaries({"a": _scalars}, optional={"b": _scalars})
)


class TestPacking:
    @given(st.lists(_rows, min_size=1, max_size=3), st.lists(_rows, min_size=1, max_size=3))
    @explored(examples=2)
    def test_two_are_equal_exactly_if_short_ones_are(self, one: list[Any], other: list[Any]) -> None:
        """Repeated beyond the length from which they are packed, they differ exactly if they did before."""
        for kind in (list, tuple):
            times = LONG // len(one) + 1
            a, b = kind(one * times), kind(other * times)
            short = encode(a[: LONG - 1]) == encode(b[: LONG - 1]) and len(a) == len(b)
            assert (encode(a) == encode(b)) == short

    @given(st.lists(_scalars, min_size=LONG, max_size=LONG), st.data())
    @explored(examples=1)
    def test_one_item_counts(self, values: list[Any], data: st.DataObject) -> None:
        """Another item in one place makes another key."""
        at = data.draw(st.integers(0, LONG - 1))
        item = data.draw(_scalars)
        changed = [*values[:at], item, *values[at + 1 :]]
        assert (encode(values) == encode(changed)) == (encode(values[at]) == encode(item))

    def test_alike(self, subtests: pytest.Subtests) -> None:
        """Long containers that differ in types or in where their parts end are two arguments."""
        many = range(LONG)
        groups: list[list[Any]] = [
            [[1] * LONG, [1.0] * LONG, [True] * LONG, (1,) * LONG, [1] * (LONG + 1), ["1"] * LONG],
            [["ab", "c"] * LONG, ["a", "bc"] * LONG, ["ab", b"c"] * LONG, [b"ab", b"c"] * LONG],
            [[1, "a", 1, "a"] * LONG, ["a", 1, "a", 1] * LONG, [1, 1, "a", "a"] * LONG],
            [[None] * LONG, [0] * LONG, [False] * LONG, [None] * (LONG + 1)],
            [[1, None] * LONG, [None, 1] * LONG, [1, 1, None, None] * (LONG // 2)],
            [[[1, 2]] * LONG, [(1, 2)] * LONG, [[1], [2]] * LONG, [[1, 2, 1, 2]] * (LONG // 2)],
            [[[1], [2, 3]] * LONG, [[1, 2], [3]] * LONG, [[1, 2, 3], []] * LONG],
            [[[[1]]] * LONG, [[1]] * LONG, [[(1,)]] * LONG, [([1],)] * LONG],
            [[{"a": 1}] * LONG, [{"b": 1}] * LONG, [{"a": 1.0}] * LONG, [["a", 1]] * LONG],
            [[{"a": 1, "b": 1}] * LONG, [{"a": 1}, {"b": 1}] * LONG, [{"a": 1, "b": 2}] * LONG],
            [{n: n for n in many}, {n: -n for n in many}],
            [{float(n): n for n in many}, {str(n): n for n in many}],
            [{(n, 1): 1 for n in many}, {(n, 2): 1 for n in many}, {(n, 1.0): 1 for n in many}],
            [set(many), frozenset(many), set(map(float, many)), set(map(str, many)), list(many)],
            [collections.deque(many), collections.deque(many, LONG), collections.OrderedDict.fromkeys(many)],
        ]  # fmt: skip
        for values in groups:
            with subtests.test(first=repr(values[0])[:30]):
                assert len({encode(value) for value in values}) == len(values)

    def test_order_where_it_does_not_count(self) -> None:
        """As in short ones."""
        keys = [f"k{n}" for n in range(LONG)]
        for names in (keys, list(range(LONG)), [(n, str(n)) for n in range(LONG)]):
            shuffled = names[:]
            random.Random(2).shuffle(shuffled)
            assert encode(dict.fromkeys(names, 1)) == encode(dict.fromkeys(shuffled, 1))
            assert encode(set(names)) == encode(set(shuffled))
            assert encode(collections.OrderedDict.fromkeys(names)) != encode(
                collections.OrderedDict.fromkeys(shuffled)
            )

    def test_nan_is_one(self) -> None:
        """Whatever its bits are, also in a matrix, and among infinities."""
        other = math.inf - math.inf
        for a, b in (([math.nan], [other]), ([[math.nan, 1.0]], [[-other, 1.0]])):
            assert encode(a * LONG) == encode(b * LONG)
        assert encode([math.inf, -math.inf] * LONG) != encode([math.inf, math.inf] * LONG)

    def test_slices(self) -> None:
        """Containers of several slices are told apart, too."""
        long = [n / 3 for n in range(120_000)]
        assert encode(long) != encode([*long[:-1], 0.0])
        assert encode(list(map(str, long))) != encode([*map(str, long[:-1]), ""])

    def test_what_contains_itself(self) -> None:
        """It is refused, however long it is."""
        from cachekit.decorator.naming import Unkeyable

        endless: list[Any] = []
        endless.extend([endless] * LONG)
        with pytest.raises(Unkeyable, match="contains itself"):
            encode(endless)


# -- on an event loop ---------------------------------------------------------------------------------


class Noted:
    """Says in which thread its key was made."""

    def __init__(self, ballast: Any) -> None:
        self.ballast = ballast

    def __cache_key__(self) -> int:
        threads.append(threading.get_ident())
        return 1


threads: list[int] = []


class TestOnALoop:
    @pytest.mark.parametrize(
        ("ballast", "off"), [(1, False), ("x" * 100, False), ([0] * 100_000, True), ("x" * 10**7, True)]
    )
    def test_large_keys_are_made_off_it(self, ballast: Any, off: bool) -> None:
        """Small ones are made on the loop, where a switch of threads would cost more."""

        async def main() -> None:
            with IntelligentCache(file_cache=None) as cache:

                @cache.cached(name="asked")
                async def asked(thing: Noted) -> int:
                    return 1

                thing = Noted(ballast)
                for ask in (asked, asked, asked.refresh, asked.invalidate):
                    threads.clear()
                    await ask(thing)
                    assert [ident != threading.get_ident() for ident in threads] == [off]

        asyncio.run(main())

    def test_what_is_large(self) -> None:
        """Wherever it is; and no more of it is looked at than that."""
        many = [0] * 10_000
        held = Noted(many)
        for large in (many, tuple(many), {1: [many]}, [held], np.zeros(10**7), bytearray(10**7)):
            assert is_large([1, large])
        for view in (dict.fromkeys(range(10_000)).keys(), array.array("d", [0.0] * 10**6)):
            assert is_large([view])
        for small in (1, "x", [1, 2, [3]], Noted(1), np.zeros(10)):
            assert not is_large([small])
        endless: list[Any] = []
        endless.append(endless)
        assert is_large([endless])
