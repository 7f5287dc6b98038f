"""All interleavings of callers of a polled tier: none has a stale read, and each guard is needed for that."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from polled_guards import GUARDS
from polled_search import CHANGES, EVICTIONS, Actor, load, load_truth_first, put, read, search, touch

ACTORS: dict[str, Actor] = {"load": load, "read": read, "touch": touch, "put": put}


#: The longest search of all, by a factor of ten.
LONG = ("load", "put", False)


@pytest.mark.parametrize(
    ("other", "change", "filled"),
    [
        pytest.param(*case, marks=[pytest.mark.soak] if case == LONG else [])
        for case in itertools.product(["load", "touch", "read"], [*CHANGES, "put"], [False, True])
    ],
)
def test_two_callers(other: str, change: str, filled: bool) -> None:
    """A load, a touch or a read beside each kind of change."""
    tried, stale = search([ACTORS[other], CHANGES.get(change, put)], filled)
    assert stale is None
    assert tried > 5


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("change", "third"),
    [
        ("delete", EVICTIONS["key"]),
        ("tags", EVICTIONS["tag"]),
        ("pattern", EVICTIONS["segment"]),
        ("clear", EVICTIONS["generation"]),
        ("tags", read),
    ],
    ids=["key", "tag", "segment", "generation", "reader"],
)
def test_three_callers(change: str, third: Actor) -> None:
    """A load beside a change, and the eviction of the item that it changes, or a reader. Minutes each."""
    tried, stale = search([load, CHANGES[change], third])
    print(f"load beside {change} and {third}: {tried} orders")
    assert stale is None


def first_stale(actors: list[list[Actor]], harm: Callable[[Any], None], filled: bool) -> str | None:
    for some in actors:
        _, stale = search(some, filled, harm)
        if stale is not None:
            return stale
    return None


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_is_needed(guard: str) -> None:
    """Without it the search finds a stale read."""
    pairs = [[load, change] for change in [*CHANGES.values(), put]]
    pairs += [[touch, change] for change in CHANGES.values()]
    assert any(first_stale(pairs, GUARDS[guard], filled) for filled in (False, True))


def test_a_load_takes_its_tokens_first() -> None:
    """A caller that reads the truth before has a stale read."""
    assert any(search([load_truth_first, change])[1] for change in CHANGES.values())
