"""The table of keys that follow the clock: its bounds, and its proof."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from recurring_pages import looks_of_the_test_alone as looks_of_the_test_alone

from cachekit.loading.recurrence import Recurrence

#: A minute of these years. In the first hours after 1970 an empty cell would be one of the hour before.
_HOUR = 60 * 495_000
KEYS = st.sampled_from(["a", "b", "c", "d"])


@pytest.mark.parametrize("count", [4_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_the_table_is_bounded(count: int) -> None:
    """In keys and in bytes, whatever is asked for; keys that it knows stay."""
    recurrence = Recurrence()
    texts = [f"a key of some length, number {number}" for number in range(count)]
    long = ["x" * 1_000 + str(number) for number in range(100)]
    tracemalloc.start()
    try:
        for number, key in enumerate(["known", *long, *texts]):
            recurrence.wanted(key, _HOUR + number % 50)
        for key in recurrence.due(_HOUR + 60):
            recurrence.expect(key, _HOUR + 60)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 3 << 20
    for table in recurrence._tables:
        assert len(table.rows) <= 2048
        assert sum(map(len, table.rows)) <= 1 << 18
        assert "known" in table.rows
    recurrence.wanted("new", _HOUR + 50)
    assert "new" not in recurrence
    for hour in range(1, 4):  # what comes again displaces what does not
        recurrence.wanted("new", 110 + 60 * hour)
    assert recurrence.due(110 + 240) == ["new"]
    recurrence.pass_time(3_000)
    assert "known" not in recurrence


def test_a_key_of_many_minutes_is_not_kept() -> None:
    """But for the minutes in which it came again."""
    recurrence = Recurrence()
    for minute in range(6):
        recurrence.wanted("a", minute)
        recurrence.wanted("b", minute)
    recurrence.wanted("a", 6)
    assert "a" not in recurrence
    assert "b" in recurrence
    for hour in range(1, 4):
        recurrence.wanted("b", 60 * hour)
    for minute in range(181, 230):
        recurrence.wanted("b", minute)
    assert recurrence.due(240) == ["b"]
    assert recurrence.due(241) == []


def proofs(recurrence: Recurrence, outcomes: Sequence[bool], prefetched: bool = False) -> list[bool]:
    found = []
    for is_right in outcomes:
        recurrence.judge(is_right, prefetched=prefetched)
        found.append(recurrence.is_proven)
    return found


def test_a_proof_takes_eight_keys_and_ends_below_a_half() -> None:
    """The next one takes sixteen. During a proof only what was prefetched counts."""
    assert not any(proofs(Recurrence(), [True, False] * 100))
    recurrence = Recurrence()
    assert proofs(recurrence, [True] * 8) == [False] * 7 + [True]
    assert all(proofs(recurrence, [False] * 100))
    assert proofs(recurrence, [False] * 5, True) == [True] * 4 + [False]
    assert not any(proofs(recurrence, [True] * 100, True))
    assert proofs(recurrence, [True] * 16) == [False] * 15 + [True]


class Looks(RuleBasedStateMachine):
    """The keys of a minute are those of a look at all rows, and old minutes go."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrence = Recurrence()
        self.minute = 3_000

    @rule(key=KEYS, minutes=st.sampled_from([0, 0, 1, 59, 60, 1439, 1440, 1441, -60, -1440]))
    def ask(self, key: str, minutes: int) -> None:
        self.minute += minutes
        self.recurrence.wanted(key, self.minute)

    @rule(key=KEYS)
    def ask_each_day(self, key: str) -> None:
        for day in range(4):
            self.recurrence.wanted(key, self.minute + 1440 * day)
        self.minute += 3 * 1440

    @rule(minutes=st.sampled_from([0, 1, 1, 1, 60, 200, -100]))
    def pass_time(self, minutes: int) -> None:
        before = self.minute
        self.minute += minutes
        for minute in range(before + 1, self.minute + 1):
            self.recurrence.pass_time(minute)
        self.recurrence.pass_time(self.minute)

    @rule(jump=st.sampled_from([1_000_000, -1_000_000]))
    def jump(self, jump: int) -> None:
        """All that is known is out of date."""
        self.minute += jump
        self.recurrence.pass_time(self.minute)
        assert not any(table.rows for table in self.recurrence._tables)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.recurrence.forget(key)
        assert key not in self.recurrence

    @rule(key=KEYS, place=st.integers(0, 5), times=st.integers(1, 4))
    def restore(self, key: str, place: int, times: int) -> None:
        minutes = {self.minute - 60 - place: times, self.minute - 120 - place: times}
        self.recurrence.restore(key, (minutes, {self.minute - 1440: times}), self.minute)

    @invariant()
    def each_row_is_at_its_places(self) -> None:
        for table, period in zip(self.recurrence._tables, (60, 1440), strict=True):
            at = sorted((key, minute % period) for key, row in table.rows.items() for minute in row)
            assert at == sorted((key, place) for place, keys in table._places.items() for key in keys)
            assert len(at) == len(set(at))
            assert all(table.rows.values())
            for minute in range(self.minute - 2, self.minute + 3):
                looked = {key for key, row in table.rows.items() if row.get(minute - period, 0) >= 3}
                assert set(table.due(minute)) == looked


TestLooks = Looks.TestCase


def test_a_minute_looks_at_its_own_keys() -> None:
    """Not at the whole table, whose owner is locked meanwhile."""
    recurrence = Recurrence()
    for number in range(2_048):
        recurrence.wanted(f"key {number}", 6_000 + number % 60)
    recurrence.pass_time(6_060)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        recurrence.pass_time(6_061)
        recurrence.due(6_062)
    finally:
        sys.setprofile(before)
    assert calls < 1_000
    assert sum(len(table.rows) for table in recurrence._tables) < 2 * 2_048
