"""One scan for many patterns: it matches what they match, and only in one case more."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.coherence.pattern_union import union_of

#: Each with keys that it matches, and keys that it does not.
PATTERNS = [
    ("user:", ["user:1", "user:"], ["User:1", "a user:1"]),
    ("a|b", ["a1", "b2"], ["c"]),
    ("(?i)Z:", ["z:1", "Z:1"], ["y:"]),
    ("(?s)q.r", ["q\nr"], ["q\n"]),
    ("(?x) t e s t  # a comment", ["test"], ["t e s t"]),
    ("(?im)ab$", ["AB\ncd"], ["abc"]),
    (r"d(e|f)+\d\Z", ["def1", "de9"], ["d1"]),
    (r"[(]?P<g>", ["(P<g>", "P<g>"], ["g"]),
    (r"g(.)\1", ["gaa"], []),
    (r"h(?P<n>.)(?P=n)", ["hbb"], []),
    (r"i?j(?P<n>.)(?P=n)", ["ijcc", "jcc"], []),
    (r"k|(l)\1", ["k", "ll"], []),
    (r"(m)?(?(1)n|o)", ["mn", "o"], []),
]


def matches(patterns: list[str], key: str) -> bool:
    return any(re.match(pattern, key) for pattern in patterns)


@given(st.lists(st.sampled_from(PATTERNS), max_size=8))
def test_the_union_matches_what_they_match(chosen: list[tuple[str, list[str], list[str]]]) -> None:
    """As one expression, or with a second one where a reference to a group is the only one."""
    patterns = [pattern for pattern, _, _ in chosen]
    found = union_of(patterns)
    assert len(found) <= 2
    for _, matched, _ in PATTERNS:
        for key in matched:
            assert matches(found, key) or not matches(patterns, key)
    exact = [one for one in PATTERNS[:7] if one in chosen]
    if len(exact) == len(set(patterns)):
        for _, _, unmatched in PATTERNS:
            for key in unmatched:
                assert matches(found, key) == matches(patterns, key)


def test_many_of_any_kind_are_one() -> None:
    for patterns in (
        [f"user:{number}" for number in range(90)],
        [f"user:({number})+(a|b)" for number in range(90)],
        [f"(?i)user:{number}" for number in range(90)],
        [rf"user:{number}(.)\1" for number in range(90)],
        [rf"user:(?P<x>{number})" for number in range(90)],
    ):
        (found,) = union_of(patterns)
        assert re.match(found, "user:44aaa")
        assert not re.match(found, "other")


@pytest.mark.parametrize("pattern", ["a", "(?i)a", r"(a)\1"])
def test_one_stays_as_it_is(pattern: str) -> None:
    assert union_of([pattern]) == [pattern]
