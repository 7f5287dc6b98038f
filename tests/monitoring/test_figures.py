"""The figures of one cache: each statistic once, under the keys of the table."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fresh_imports import SITE_PACKAGES, run

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.cache.default import core_of
from cachekit.model.counters import LatencyHistogram
from cachekit.monitoring.families import COUNTERS, FAMILIES, GAUGES, PARTS, TIER_COUNTERS
from cachekit.monitoring.snapshot import Part, Totals, merged, snapshot


def test_exported_buckets_hold_what_their_edges_say() -> None:
    """A duration on an edge is below it, and one beyond is in the next bucket; none is lost."""
    durations = [share * edge for edge in LatencyHistogram.EDGES for share in (0.9, 1.0, 1.2)]
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.record(duration)
    buckets = histogram.buckets()
    assert len(buckets) == len(LatencyHistogram.EDGES) + 1 == 15
    for number, edge in enumerate(LatencyHistogram.EDGES):
        assert sum(buckets[: number + 1]) == sum(duration <= edge for duration in durations)
    assert sum(buckets) == len(durations)
    assert histogram.sum == pytest.approx(sum(durations))
    assert (LatencyHistogram.EDGES[0], round(LatencyHistogram.EDGES[-1])) == (1e-8 * 2**7, 86)


def test_durations_beyond_both_ends_are_counted() -> None:
    histogram = LatencyHistogram()
    for duration in (0.0, -1.0, 1e9):
        histogram.record(duration)
    assert (histogram.buckets()[0], histogram.buckets()[-1]) == (2, 1)


def test_every_load_is_in_the_histogram(tmp_path: Path) -> None:
    """Those that failed, too; its sum is that of the statistics."""
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path, 1)) as cache:
        for number in range(5):
            cache.get_or_set(f"k{number}", lambda: 1)
        with pytest.raises(ZeroDivisionError):
            cache.get_or_set("failing", lambda: 1 // 0)
        counters = snapshot(core_of(cache)).counters()
        assert sum(counters[f"load.duration/{part}"] for part in PARTS if part != "sum") == 6
        assert counters["load.duration/sum"] == cache.get_stats()["combined"].load_seconds > 0
        assert (counters["loads/ok"], counters["loads/error"]) == (5, 1)


def test_keys_are_those_of_the_table(tmp_path: Path) -> None:
    """Each counter of a cache has a family, and its number is the statistic."""
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path, 1)) as cache:
        cache.set("a", 1, tags={"t"})
        cache.get("a")
        cache.get("b")
        cache.invalidate_by_tags({"t"})
        one = snapshot(core_of(cache))
        counters, stats = one.counters(), cache.get_stats()
        assert counters.keys() <= COUNTERS
        assert one.gauge_values().keys() <= GAUGES.keys()
        for tier in ("memory", "file"):
            for name, stat in TIER_COUNTERS.items():
                assert counters["/".join((name[0], tier, *name[1:]))] == stats[tier][stat]
        assert counters["requests/hit"] == stats["combined"].request_hits == 1
        assert counters["requests/miss"] == 1
        gauges = one.gauge_values()
        assert (gauges["tier.up/file"], gauges["size.limit/file"]) == (1, 2**20)
        assert gauges["entries.limit/memory"] == 1000
        assert "size.limit/memory" not in gauges  # it has none


def test_names_of_families() -> None:
    """The units of Prometheus are in the names, and no name is twice."""
    names = {family.name: family.prometheus for family in FAMILIES}
    assert len(set(names.values())) == len(FAMILIES)
    assert names["load.duration"] == "cachekit_load_duration_seconds"
    assert names["size"] == "cachekit_size_bytes"
    assert names["tier.pending_invalidations"] == "cachekit_tier_pending_invalidations"
    for family in FAMILIES:
        assert all(len(values) == len(family.labels) for values in family.series)
        assert not {"key", "tag", "function", "pid"} & set(family.labels)


class Owner:
    """A tier, or the core of a cache."""


def test_totals_count_each_owner_once() -> None:
    """An owner that two caches have counts once, also if it comes back later."""
    totals, tier, first, second = Totals(), Owner(), Owner(), Owner()
    totals.add([Part(first, {"loads/ok": 1}), Part(tier, {"sets/file": 5}), Part(tier, {"sets/file": 5})])
    totals.add([])  # the first cache is gone
    totals.add([Part(second, {"loads/ok": 1}), Part(tier, {"sets/file": 7})])
    assert totals.counters == {"loads/ok": 2, "sets/file": 7}


def test_totals_never_fall() -> None:
    """A number that was read earlier and comes later changes nothing, nor does a tier that restarts."""
    totals, tier = Totals(), Owner()
    for count in (5, 3, 5, 6):
        totals.add([Part(tier, {"sets/file": count})])
    assert totals.counters == {"sets/file": 6}


def test_totals_leave_out_what_was_there() -> None:
    totals, tier = Totals(), Owner()
    totals.begin([Part(tier, {"sets/file": 5})])
    totals.add([Part(tier, {"sets/file": 8})])
    assert totals.counters == {"sets/file": 3}


def test_gauges_of_processes() -> None:
    """Memory is added; of what processes share the newest counts; one that is out is out."""
    older = {"entries/memory": 1.0, "entries/file": 10.0, "tier.up/file": 0.0,
             "tier.pending_invalidations/file": 2.0}  # fmt: skip
    newer = {"entries/memory": 2.0, "entries/file": 9.0, "tier.up/file": 1.0,
             "tier.pending_invalidations/file": 1.0}  # fmt: skip
    assert merged([older, newer]) == {
        "entries/memory": 3.0, "entries/file": 9.0, "tier.up/file": 0.0,
        "tier.pending_invalidations/file": 3.0,
    }  # fmt: skip
    assert math.isfinite(sum(merged([]).values()))


def test_a_cache_publishes_nothing_by_itself(tmp_path: Path) -> None:
    """Without a reader it loads nothing that publishes, and makes no directory."""
    program = f"""
from cachekit import IntelligentCache, FileCache
with IntelligentCache(file_cache=FileCache({str(tmp_path)!r}, 1)) as cache:
    cache.get_or_set("k", lambda: 1)
    cache._watches[0].look()
unwanted = "cachekit.monitoring.publishing", "cachekit.monitoring.folder", "platformdirs"
print([name for name in unwanted if name in sys.modules])
"""
    assert run(program, SITE_PACKAGES) == "[]"
    assert not (tmp_path / "figures").exists()
