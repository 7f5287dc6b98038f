"""The table of keys that follow the clock: its bounds, and its proof."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import pytest
from recurring_pages import looks_of_the_test_alone as looks_of_the_test_alone

from cachekit.loading.recurrence import Recurrence


@pytest.mark.parametrize("count", [4_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_the_table_is_bounded(count: int) -> None:
    """In keys and in bytes, whatever is asked for; keys that it knows stay."""
    recurrence = Recurrence()
    texts = [f"a key of some length, number {number}" for number in range(count)]
    long = ["x" * 1_000 + str(number) for number in range(100)]
    tracemalloc.start()
    try:
        for number, key in enumerate(["known", *long, *texts]):
            recurrence.wanted(key, 60 + number % 50)
        for key in recurrence.due(120):
            recurrence.expect(key, 120)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 3 << 20
    for table in recurrence._tables:
        assert len(table.rows) <= 2048
        assert sum(map(len, table.rows)) <= 1 << 18
        assert "known" in table.rows
    recurrence.wanted("new", 110)
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
