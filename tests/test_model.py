"""The nouns: entries, TTLs, sentinels, errors."""

from __future__ import annotations

import math
import pickle
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from cachekit import FOREVER, MISSING, CacheClosedError, CacheEntry, CacheError, CacheLevel, errors
from cachekit.model.counters import LatencyHistogram
from cachekit.model.validation import seconds
from cachekit.tiers.memory.sizing import size_of


def test_an_entry_takes_datetimes_and_gives_them_back() -> None:
    """Aware datetimes in, aware datetimes in UTC out, whatever the zone."""
    made = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    entry = CacheEntry("k", 1, created_at=made, last_accessed=made, ttl=timedelta(minutes=1), tags={"a"})
    assert entry.created_at == made
    assert entry.created_at.tzinfo is UTC
    assert entry.last_accessed == made
    assert entry.expires_timestamp == made.timestamp() + 60
    assert entry.is_expired
    assert (entry.ttl, entry.access_count, entry.size_bytes) == (60.0, 0, 0)
    assert entry.tags == {"a"}


def test_an_entry_of_now_is_alive() -> None:
    """Left out, the times are now; without a TTL it does not expire."""
    entry = CacheEntry("k", 1)
    assert not entry.is_expired
    assert entry.expires_timestamp == math.inf
    assert entry.created_at == entry.last_accessed
    entry.touch()
    assert entry.access_count == 1
    assert entry.last_accessed >= entry.created_at


def test_a_naive_datetime_is_refused() -> None:
    """It does not say which instant it means."""
    with pytest.raises(ValueError, match=r"created_at must be an aware datetime.*timezone\.utc"):
        CacheEntry("k", 1, created_at=datetime(2026, 1, 1))


def test_what_is_no_moment_is_refused(subtests: pytest.Subtests) -> None:
    """When the entry is made, not when it is looked at."""
    rows: list[Any] = [1e20, -1e20, math.inf, math.nan, True, "now", timedelta(1)]
    for moment in rows:
        with subtests.test(moment=moment):
            error = ValueError if type(moment) is float else TypeError
            with pytest.raises(error, match=r"created_at must be .*leave it out for now"):
                CacheEntry("k", 1, created_at=moment)


def test_entries_compare_and_show_without_their_values() -> None:
    """A repr is for logs: the value may be large, or secret."""
    entry = CacheEntry("k", "secret", 1.0)
    assert entry == CacheEntry("k", "secret", 1.0)
    assert entry != CacheEntry("k", "other", 1.0)
    assert entry != 1
    assert "secret" not in repr(entry)
    assert pickle.loads(pickle.dumps(entry)) == entry


def test_ttls_in_seconds(subtests: pytest.Subtests) -> None:
    """Whatever the form, a TTL is a float of seconds inside."""
    rows: list[tuple[float | timedelta, float]] = [
        (5, 5.0),
        (0.5, 0.5),
        (timedelta(days=1), 86400.0),
        (FOREVER, math.inf),
        (10**400, math.inf),
        (-1, -1.0),
    ]
    for ttl, expected in rows:
        with subtests.test(ttl=ttl):
            assert seconds(ttl) == expected
            assert type(seconds(ttl)) is float


def test_sentinels() -> None:
    """MISSING is falsy, shows its name, and stays itself through a pickle."""
    assert not MISSING
    assert repr(MISSING) == "MISSING"
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING
    assert CacheLevel.MEMORY | CacheLevel.REDIS | CacheLevel.FILE == CacheLevel.ALL


def test_errors_have_one_root_and_travel() -> None:
    """Each is a CacheError, and picklable."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) >= 4
    for kind in kinds:
        assert issubclass(kind, CacheError)
        assert str(pickle.loads(pickle.dumps(kind("message")))) == "message"
    assert issubclass(CacheClosedError, CacheError)


def test_quantiles_are_right_to_a_fifth() -> None:
    """The histogram's answer is the next bucket's bound."""
    histogram = LatencyHistogram()
    assert histogram.quantile(0.5) == 0
    for microseconds in range(1, 1001):
        histogram.record(microseconds * 1e-6)
    for share in (0.01, 0.5, 0.99, 1):
        assert share * 1e-3 * 0.999 <= histogram.quantile(share) <= share * 1e-3 * 1.2
    histogram.record(1e9)
    histogram.record(0)
    assert histogram.quantile(1) > 1000


def test_sizes() -> None:
    """Shared parts count once, cycles end, and no code of a class runs."""
    text = "x" * 1000
    assert 1000 < size_of([text, text]) < 1300
    cycle: list[object] = []
    cycle.append(cycle)
    assert size_of(cycle) < 200
    many = list(range(10**5))
    assert size_of(many) == pytest.approx(10**5 * (sys.getsizeof(10**5) + 8), rel=0.2)

    class Node:
        def __init__(self) -> None:
            self.payload = b"y" * 5000

    assert 5000 < size_of(Node()) < 6500

    class Liar:
        def __sizeof__(self) -> int:
            raise RuntimeError

    assert 0 < size_of(Liar()) < 500
