"""Patterns that take for ever are found, and no call runs one."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.model.patterns import is_exponential

HARMFUL = (
    r"user:([a-z]+)+$", r"(a*)*b", r"(a|a)*b", r"(a|b|ab)*c", r"(?:.*,)*x", r"(\d{1,5})+x", r"^(\w+\s?)*$",
    r"([a-zA-Z]+)*1", r"(a+){10}b", r"(?:a?a?)*b", r"(x+x+)+y", r"(?:(?:a|b)+c?)+$", r"(.*)*$", r"(a+)+\b!",
    r"(?=(a+)+b)a", r"(?>(a+)+b)a", r"((ab)+|a|b)*$", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(?:(?P<n>a+)+b)?c",
    r"(?i:k:([A-Z]|[a-z]\w)*)!", r"(?:(?:a*)*b)*c", r"(?:(?:a*)?b)*c", r"(?:(?:c?)?b)*d", r"((a+){10}b)*c",
    r"(?x: ( [a-z]+ )+ ! )", r"x(?:(?:a|a))*!", r"([^:]+|[a-z])*:$", r"(\D+)*1", r"((?:\s|\n)+)*x",
    r"a(b+|c)*?(b+)*d", r"(a)?(?(1)(b+)+c|d)", r"(?:(a+)+b)++", r"(?:(a+)+b)?+c",
)  # fmt: skip
HARMLESS = (
    r"user:.*", r"user:\d+$", r"(user:[0-9]+,)+$", r"(\d{3})+$", r"(?:[0-9a-f]{32})+$", r"a.*b.*c$",
    r"(a|b)*c", r"(\d{1,3}\.){3}\d{1,3}$", r"(?:[a-z]+:)*[a-z]+$", r"(?:/[^/]+)*$", r"user:([a-z]+)+",
    r"(?s:a.*b)\Z",
    r"(?=(?P<g0>.*?x))(?P=g0)y\Z", r"app:(?:users|orders):\d+(?::\w+)?$", r"(?:\w+-)*\w+$", r"(ab|cd)+$",
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$", r"(?:a(?:b|c)*d)*$", r"(?:\d+\D)*$", r"(a)\1+$", "",
    r"(?>(a+)+)b", r"(?=(a+)+)ab", r"(?:a++)+b", r"(?:[^,]*,)*$", r"k:(?:[a-z]|[m-q])*!",
)  # fmt: skip


@pytest.mark.parametrize("pattern", HARMFUL)
def test_what_takes_for_ever(pattern: str) -> None:
    assert is_exponential(re.compile(pattern))


@pytest.mark.parametrize("pattern", HARMLESS)
def test_what_does_not(pattern: str) -> None:
    assert not is_exponential(re.compile(pattern))


def test_repetitions_in_each_other() -> None:
    """However many there are."""
    assert is_exponential(re.compile("(" * 200 + "a+" + ")*" * 200 + "b"))


def test_flags_count() -> None:
    """They change what a character reads, and what is a comment."""
    assert not is_exponential(re.compile(r"(a|#b+)*c"))
    assert is_exponential(re.compile("([a-z] #+\n+)+c", re.VERBOSE))


def made(chance: random.Random, depth: int) -> str:
    kind = chance.random()
    if depth == 0 or kind < 0.25:
        return chance.choice(["a", "b", "[ab]", ".", "ab", r"\w", "[^a]"])
    if kind < 0.5:
        return made(chance, depth - 1) + made(chance, depth - 1)
    if kind < 0.65:
        return f"(?:{made(chance, depth - 1)}|{made(chance, depth - 1)})"
    return f"(?:{made(chance, depth - 1)}){chance.choice(['*', '+', '?', '{2}', '{1,2}', '*?', '+?'])}"


@pytest.mark.timeout(120)
def test_no_pattern_is_overlooked() -> None:
    """Those that are not found end, on texts where each further character could double the time."""
    chance = random.Random(4)
    tried = 0
    for _ in range(400):
        pattern = re.compile(made(chance, 4) + "!")
        if not is_exponential(pattern):
            tried += 1
            for text in ("a" * 34, "b" * 34, "ab" * 17, "aab" * 12, "abb" * 12, "aabb" * 9):
                pattern.match(text)
    assert 200 < tried < 390


def test_a_large_pattern_is_looked_at_in_time() -> None:
    """One with more alternatives than anyone writes is not looked at."""
    pattern = re.compile("(?:" + "|".join(f"key{number}" for number in range(3_000)) + ")*$")
    assert not is_exponential(pattern)


@pytest.fixture(params=["memory", "file", "redis"])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A tier of each kind, which can list its keys."""
    if request.param == "file":
        with FileCache(tmp_path) as files:
            yield files
    elif request.param == "redis":
        make: Callable[[], RedisCache] = request.getfixturevalue("make_cache")
        yield make()
    else:
        yield MemoryCache()


@pytest.mark.usefixtures("few_buckets")
def test_an_invalidation_drops_more_instead(tier: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It ends, which the pattern would not, and says what it does, without a key."""
    for key in ("user:" + "a" * 40 + "!", "user:b", "order:1"):
        tier.set_value(key, 1)
    with caplog.at_level(logging.WARNING, "cachekit"):
        tier.invalidate_by_pattern(r"user:([a-z]+)+$")
    assert list(tier.keys()) == ["order:1"]
    assert "reads one text in several ways" in caplog.text
    assert "user" not in caplog.text
    tier.invalidate_by_pattern(re.compile(r"USER:([a-z]+)+$", re.IGNORECASE))
    assert list(tier.keys()) == []


def test_a_cache_drops_more_instead(tmp_path: Path) -> None:
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path)) as cache:
        cache.set("user:" + "a" * 40 + "!", 1)
        cache.invalidate_by_pattern(r"user:([a-z]+)+$")
        assert cache.get("user:" + "a" * 40 + "!") is None


def test_a_listing_is_refused(tier: Any) -> None:
    """It must not name more keys than match."""
    with pytest.raises(ValueError, match=r"reads one text in several ways.*Write each repetition once"):
        tier.keys(r"user:([a-z]+)+$")
