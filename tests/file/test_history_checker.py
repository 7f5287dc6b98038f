"""The history checker itself: it rejects what cannot happen, and nothing else."""

from __future__ import annotations

from itertools import permutations

import pytest
from exploring import explored
from hypothesis import given
from hypothesis import strategies as st

from cachekit.testing.history import Operation, violations


def w(value: str | None, begin: float, end: float, key: str = "k") -> Operation:
    return Operation(key, True, None if value is None else value.encode(), begin, end)


def r(value: str | None, begin: float, end: float, key: str = "k") -> Operation:
    return Operation(key, False, None if value is None else value.encode(), begin, end)


def u(old: str, value: str, begin: float, end: float) -> Operation:
    """An update."""
    return w(value, begin, end)._replace(instead_of=old.encode())


BAD = {
    "two updates of one value": [w("a", 0, 1), u("a", "b", 2, 5), u("a", "c", 2, 5)],
    "an update of a value that was replaced": [w("a", 0, 1), w("b", 2, 3), u("a", "c", 4, 5)],
    "an update of a value that was deleted": [w("a", 0, 1), w(None, 2, 3), u("a", "b", 4, 5)],
    "an update of what nobody wrote": [u("x", "a", 0, 1)],
    "a write between two updates of a chain": [
        w("a", 0, 1), u("a", "b", 2, 3), w("x", 4, 5), u("b", "c", 6, 7),
    ],
    "a value seen between a value and its update": [
        w("a", 0, 9), w("x", 0, 9), r("a", 1, 2), r("x", 3, 4), u("a", "b", 5, 6),
    ],
    "a circle": [u("a", "b", 0, 1), u("b", "a", 2, 3)],
    "a value that nobody wrote": [w("a", 0, 1), r("x", 2, 3)],
    "a value of another key": [w("a", 0, 1, "other"), r("a", 2, 3)],
    "read before written": [r("a", 0, 1), w("a", 2, 3)],
    "the older value after the newer was written": [w("a", 0, 1), w("b", 2, 3), r("a", 4, 5)],
    "the newer value, then the older": [w("a", 0, 9), w("b", 0, 9), r("b", 10, 11), r("a", 12, 13)],
    "two readers see two writes in different orders": [
        w("a", 0, 9), w("b", 0, 9), r("a", 1, 2), r("b", 3, 4), r("a", 5, 6),
    ],
    "a value after its delete": [w("a", 0, 1), w(None, 2, 3), r("a", 4, 5)],
    "a value on both sides of a delete": [w("a", 0, 1), r("a", 2, 3), w(None, 4, 5), r("a", 6, 7)],
    "a value on both sides of another write": [w("a", 0, 9), r("a", 1, 2), w("b", 3, 4), r("a", 5, 6)],
    "older after newer, writes overlapping": [
        w("a", 0, 5), w("b", 3, 8), r("b", 6, 7), r("a", 9, 10), r("b", 11, 12),
    ],
    "read of a write that began later": [w("b", 5, 6), r("b", 1, 2), w("a", 0, 1)],
    "an old value after a delete that overlapped its own write": [
        w("a", 0, 3), w(None, 2, 4), w("b", 5, 6), r("a", 7, 8),
    ],
}  # fmt: skip

GOOD = {
    "a chain of updates": [w("a", 0, 1), u("a", "b", 2, 3), r("b", 3, 4), u("b", "c", 5, 6), r("c", 7, 8)],
    "updates at once": [w("a", 0, 1), u("b", "c", 2, 5), u("a", "b", 2, 5), r("c", 6, 7)],
    "an update, then another write": [w("a", 0, 1), u("a", "b", 2, 3), w("x", 4, 5), r("x", 6, 7)],
    "nothing": [],
    "a read of nothing": [r(None, 0, 1)],
    "one after the other": [w("a", 0, 1), r("a", 2, 3), w("b", 4, 5), r("b", 6, 7)],
    "a read during a write, old or new": [w("a", 0, 1), w("b", 2, 9), r("a", 3, 4), r("b", 5, 6)],
    "two writes at once, either wins": [w("a", 0, 9), w("b", 0, 9), r("a", 10, 11), r("a", 12, 13)],
    "evicted": [w("a", 0, 1), r(None, 2, 3), r("a", 4, 5)],
    "the writer died, its value is seen": [w("a", 0, float("inf")), r("a", 5, 6)],
    "the writer died, its value is seen late": [
        w("a", 0, 1),
        w("b", 2, float("inf")),
        r("a", 5, 6),
        r("b", 7, 8),
    ],
    "a delete at once with a read": [w("a", 0, 1), w(None, 2, 5), r("a", 3, 4)],
}

BAD_MISSES = {
    "lost": [w("a", 0, 1), r(None, 2, 3)],
    "lost although a delete came before": [w(None, 0, 1), w("a", 2, 3), r(None, 4, 5)],
    "lost although a delete comes later": [w("a", 0, 1), r(None, 2, 3), w(None, 4, 5)],
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_have_happened(name: str) -> None:
    """Twelve histories that break the promise, each in a way of its own."""
    assert violations(BAD[name])
    assert violations(reversed(BAD[name]))


@pytest.mark.parametrize("name", GOOD)
def test_what_can_have_happened(name: str) -> None:
    """Histories that a right cache can produce."""
    assert violations(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD_MISSES)
def test_what_must_have_been_found(name: str) -> None:
    """Where nothing is evicted, a lost entry is found out."""
    assert violations(BAD_MISSES[name], evicts=False)
    assert violations(BAD_MISSES[name]) == []


def test_misses_that_a_delete_explains() -> None:
    """A delete that may have come in between is an explanation."""
    assert violations([w("a", 0, 5), w(None, 1, 2), r(None, 6, 7)], evicts=False) == []
    assert violations([w("a", 0, 1), w(None, 2, 9), r(None, 3, 4)], evicts=False) == []
    assert violations([r(None, 0, 5), w("a", 1, 2)], evicts=False) == []


def test_bad_arguments() -> None:
    """What the checker cannot judge it refuses."""
    with pytest.raises(ValueError, match="twice"):
        violations([w("a", 0, 1), w("a", 2, 3)])
    with pytest.raises(ValueError, match="began"):
        violations([w("a", 2, 1)])


def explained(history: list[Operation]) -> bool:
    """By trying all orders; reads of nothing are left out."""
    history = [one for one in history if one.is_write or one.value is not None]
    for order in permutations(history):
        if any(a.begin > b.end for n, a in enumerate(order) for b in order[n + 1 :]):
            continue
        value: bytes | None = None
        for one in order:
            if one.is_write:
                value = one.value
            elif one.value != value:
                break
        else:
            return True
    return False


SPANS = st.permutations(range(12))


@explored(examples=10)
@given(SPANS, st.lists(st.sampled_from(["Wa", "Wb", "Wc", "D", "a", "b", "c"]), min_size=2, max_size=6))
def test_against_all_orders(times: list[int], what: list[str]) -> None:
    """On small histories it says what trying every order says."""
    seen: set[str] = set()
    history = []
    for number, kind in enumerate(what):
        begin, end = sorted(times[2 * number : 2 * number + 2])
        if kind.startswith("W"):
            if kind in seen:
                continue
            seen.add(kind)
            history.append(w(kind[1], begin, end))
        elif kind == "D":
            history.append(w(None, begin, end))
        else:
            history.append(r(kind, begin, end))
    assert (violations(history) == []) == explained(history)
