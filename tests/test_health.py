"""Health: when a cache is not well, which reason is given, and that no alarm is false."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit import CacheStats, IntelligentCache, MemoryCache
from cachekit.coherence.accessor import TierAccessor
from cachekit.health import Health, Thresholds, assess, since
from cachekit.model.stats import COUNTED
from cachekit.testing import FaultyTier

MIB = 2**20


class State(NamedTuple):
    out_for: float = 0.0
    is_full: bool = False
    pending: int = 0

    @property
    def is_out(self) -> bool:
        return self.out_for > 0


def causes(health: Health) -> list[tuple[str, str, str]]:
    return [(reason.status, reason.cause, reason.tier) for reason in health.reasons]


def combined(**numbers: float) -> dict[str, CacheStats]:
    return {"combined": CacheStats(**numbers)}


def test_lookups_that_one_outage_cost_are_no_repeated_failure() -> None:
    """The counts do not tell whether there was one outage or many."""
    reasons = assess({"redis": CacheStats(hits=94, unavailable=6)}).reasons
    (remedy,) = [reason.remedy for reason in reasons if reason.cause == "unavailable"]
    assert remedy == "see the log for the outages, and check its server, its network or its disk"


def test_no_lookups_is_healthy() -> None:
    """Of a real cache that was asked nothing, and of no statistics at all."""
    with IntelligentCache(file_cache=None) as cache:
        assert assess(cache.get_stats()) == Health("healthy", ())
    assert assess({}).to_dict() == {"status": "healthy", "message": "healthy", "reasons": []}


def test_a_low_hit_rate_is_a_warning() -> None:
    """Of what callers asked, and only once there were enough of them."""
    assert causes(assess(combined(requests=99, request_hits=0))) == []
    assert causes(assess(combined(requests=100, request_hits=50))) == []
    health = assess(combined(requests=100, request_hits=49))
    assert causes(health) == [("warning", "hit_rate", "combined")]
    assert (health.reasons[0].value, health.reasons[0].threshold) == (0.49, 0.5)
    assert health.reasons[0].message == "49 of 100 requests were hits, less than 50%"
    # A tier of its own may well have a low one: it is asked what the faster ones did not have.
    assert causes(assess({"file": CacheStats(hits=1, misses=999)})) == []


def test_the_remedy_for_a_low_hit_rate_is_where_entries_went(subtests: pytest.Subtests) -> None:
    """Room, time or invalidations, if they explain most misses."""
    rows: list[tuple[dict[str, float], str]] = [
        ({"evictions": 80}, "max_size"),
        ({"expirations": 80}, "longer ttl"),
        ({"invalidations": 80}, "narrower tags"),
        ({"evictions": 5}, "too specific"),
    ]
    for numbers, text in rows:
        with subtests.test(numbers=numbers):
            assert text in assess(combined(requests=100, request_hits=0, **numbers)).reasons[0].remedy


def test_memory_is_a_warning_and_then_critical() -> None:
    """Above the threshold; other tiers' bytes are on a disk or on a server."""

    def of(used: float) -> list[tuple[str, str, str]]:
        stats = {name: CacheStats(memory_usage_bytes=used) for name in ("memory", "file", "combined")}
        return causes(assess(stats))

    assert of(500 * MIB) == []
    assert of(500 * MIB + 1) == [("warning", "memory", "memory")]
    assert of(1024 * MIB) == [("warning", "memory", "memory")]
    assert of(1024 * MIB + 1) == [("critical", "memory", "memory")]


def test_a_tier_that_is_out_is_a_warning_and_then_critical() -> None:
    """With how long, and what it has missed."""
    assert causes(assess({}, {"redis": State()})) == []
    assert causes(assess({}, {"redis": State(299)})) == [("warning", "out", "redis")]
    health = assess({}, {"file": State(), "redis": State(301, pending=7)})
    assert causes(health) == [("critical", "out", "redis")]
    assert (
        health.reasons[0].message == "the redis tier has been out for 301 s, and has missed 7 invalidations"
    )


def test_a_full_tier_is_a_warning() -> None:
    """It is read still."""
    assert causes(assess({}, {"file": State(is_full=True)})) == [("warning", "full", "file")]


def test_too_large_a_share_is_a_warning(subtests: pytest.Subtests) -> None:
    """More than the threshold, of enough, and of a tier; `combined` would only say it again."""
    rows: list[tuple[str, Any, Any]] = [
        ("unavailable", {"hits": 95, "unavailable": 5}, {"hits": 94, "unavailable": 6}),
        ("errors", {"hits": 50, "sets": 50, "errors": 1}, {"hits": 50, "deletes": 50, "errors": 2}),
        ("refusals", {"sets": 75, "refusals": 25}, {"sets": 74, "refusals": 26}),
    ]
    for cause, fine, numbers in rows:
        with subtests.test(cause=cause):
            assert causes(assess({"redis": CacheStats(**fine)})) == []
            assert causes(assess({"redis": CacheStats(**numbers)})) == [("warning", cause, "redis")]
            few = {name: value / 2 for name, value in numbers.items()}
            assert causes(assess({"redis": CacheStats(**few)})) == []
            assert causes(assess({"combined": CacheStats(**numbers)})) == []


def test_an_outage_is_said_once() -> None:
    """Its unavailable lookups and errors are no further reasons while it lasts."""
    stats = {"redis": CacheStats(hits=10, unavailable=90, errors=50)}
    assert causes(assess(stats, {"redis": State(3)})) == [("warning", "out", "redis")]
    assert causes(assess(stats, {"redis": State()})) == [
        ("warning", "unavailable", "redis"),
        ("warning", "errors", "redis"),
    ]


def test_the_worst_comes_first_and_gives_the_status() -> None:
    """The rest is still told, in one line and as JSON."""
    health = assess(
        {"memory": CacheStats(memory_usage_bytes=2048 * MIB)},
        {"file": State(is_full=True), "redis": State(1)},
    )
    assert health.status == "critical"
    assert [reason.cause for reason in health.reasons] == ["memory", "full", "out"]
    told = json.loads(json.dumps(health.to_dict(), allow_nan=False))
    assert told["status"] == "critical"
    assert [reason["cause"] for reason in told["reasons"]] == ["memory", "full", "out"]
    assert all(reason.message in health.message and reason.remedy for reason in health.reasons)


def test_prefetches_that_are_wasted() -> None:
    """More than half of them; a few say nothing yet."""
    for begun, wasted, expected in (
        (100, 50, []),
        (100, 51, [("warning", "prefetches", "combined")]),
        (99, 99, []),
    ):
        stats = combined(requests=1000, request_hits=900, prefetches=begun, prefetches_wasted=wasted)
        assert causes(assess(stats)) == expected
        assert causes(assess(stats, {}, Thresholds(max_wasted_prefetches=inf))) == []
    health = assess(combined(prefetches=100, prefetches_wasted=120))
    assert "leave out prefetch=True" in health.message


def test_thresholds_can_be_switched_off() -> None:
    """A minimum with 0, a maximum with inf; an outage is then never critical, and JSON stays JSON."""
    off = Thresholds(
        min_hit_rate=0, memory_bytes_warning=inf, memory_bytes_critical=inf, outage_seconds_critical=inf,
        max_unavailable=inf, max_errors=inf, max_refusals=inf,
    )  # fmt: skip
    bad = CacheStats(misses=500, unavailable=500, errors=1000, refusals=1000, memory_usage_bytes=2**40,
                     requests=1000)  # fmt: skip
    stats = dict.fromkeys(("memory", "redis", "file", "combined"), bad)
    assert assess(stats, {}, off).status == "healthy"
    health = assess(stats, {"redis": State(1e9)}, off)
    assert causes(health) == [("warning", "out", "redis")]
    json.dumps(health.to_dict(), allow_nan=False)


def test_wrong_thresholds(subtests: pytest.Subtests) -> None:
    """Named, with the value."""
    rows: list[tuple[Any, type[Exception], str]] = [
        ({"min_hit_rate": -0.1}, ValueError, "min_hit_rate must be 0 or more, not -0.1"),
        ({"min_hit_rate": 50}, ValueError, "min_hit_rate must be a share, 0 to 1, not 50"),
        (
            {"max_errors": 5},
            ValueError,
            "max_errors must be a share, 0 to 1, not 5; math.inf disables the check",
        ),
        ({"max_errors": nan}, ValueError, "max_errors must be 0 or more, not nan"),
        ({"max_errors": "5 %"}, TypeError, "max_errors must be a number, not '5 %' of type str"),
        ({"min_requests": True}, TypeError, "min_requests must be a number"),
        ({"memory_bytes_warning": 2**31}, ValueError, "must not be more than memory_bytes_critical"),
    ]
    for wrong, error, text in rows:
        with subtests.test(wrong=wrong), pytest.raises(error, match=text):
            assess({}, {}, Thresholds(**wrong))


def test_thresholds_are_no_dict() -> None:
    """Named, with the remedy."""
    thresholds: Any = {"min_hit_rate": 0.7}
    with pytest.raises(TypeError, match=r"thresholds must be a Thresholds, such as .*not \{'min_hit_rate"):
        assess({}, {}, thresholds)


def test_figures_close_to_their_threshold_are_not_rounded_to_it() -> None:
    """A message that says "50%, less than 50%", or "more than 0%", explains nothing."""
    assert (
        "499 of 1000 requests were hits, less than 50%"
        in assess(combined(requests=1000, request_hits=499)).message
    )
    errors = {"redis": CacheStats(hits=99_999, errors=101)}
    message = assess(errors, None, Thresholds(max_errors=0.001)).message
    assert "101 of 99999 operations failed, more than 0.1%" in message


def test_an_accessor_is_a_state_of_a_tier() -> None:
    """As the cache hands it over; with the outage, the reason ends."""
    with IntelligentCache(file_cache=None):
        tier = FaultyTier(MemoryCache())
        accessor = TierAccessor("file", tier)  # type: ignore[type-var]
        tier.fail("keys")
        assert assess({}, {"file": accessor}).status == "healthy"
        accessor.call(tier.keys)
        assert causes(assess({}, {"file": accessor})) == [("warning", "out", "file")]
        accessor.close()


def test_what_lies_between_two_snapshots() -> None:
    """Counters are differences, sizes and latencies are the later ones; so an alert ends with its cause."""
    first = {"memory": CacheStats(misses=1000, requests=1000, size=10, latency_p50=1)}
    later = CacheStats(misses=1000, hits=500, requests=1500, request_hits=500, size=4, latency_p50=2)
    second = {"memory": later, "file": CacheStats(hits=3)}
    span = since(first, second)
    assert span["memory"] == CacheStats(hits=500, requests=500, request_hits=500, size=4, latency_p50=2)
    assert span["file"] == CacheStats(hits=3)
    restarted = {"memory": CacheStats(misses=7, size=1)}
    assert since(second, restarted) == restarted


@given(st.dictionaries(st.sampled_from(COUNTED), st.integers(0, 2**40)))
def test_any_statistics_have_a_health(numbers: dict[str, int]) -> None:
    """Which is the worst of its reasons, and the same for the same numbers."""
    stats = dict.fromkeys(("memory", "redis", "combined"), CacheStats(**numbers))
    health = assess(stats)
    assert health == assess(stats)
    assert (health.status == "healthy") == (not health.reasons)
    assert (health.status == "critical") == any(reason.status == "critical" for reason in health.reasons)
    assert since({}, stats) == stats
    json.dumps(health.to_dict(), allow_nan=False)
