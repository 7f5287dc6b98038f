"""A few of many combinations, in which each pair of choices that can occur together does."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import combinations

import pytest


def pairwise(product: Iterable[tuple[Hashable, ...]]) -> list[tuple[Hashable, ...]]:
    """Choose from the combinations, greedily and always in the same way, until every pair is covered."""
    pairs = {row: set(combinations(enumerate(row), 2)) for row in product}
    missing = set().union(*pairs.values())
    chosen = []
    while missing:
        best = max(pairs, key=lambda row: len(pairs[row] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return chosen


def in_suite_or_soak(product: Iterable[tuple[Hashable, ...]]) -> list[object]:
    """Parameters for a test: the suite takes a pairwise selection, and `-m soak` the rest of the product."""
    rows = list(product)
    selected = set(pairwise(rows))
    return [pytest.param(*row, marks=() if row in selected else pytest.mark.soak) for row in rows]
