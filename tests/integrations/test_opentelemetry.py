"""OpenTelemetry gets the figures of the table, with its own names and units."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from cachekit import IntelligentCache, MemoryCache
from cachekit.integrations.opentelemetry import CacheInstruments
from cachekit.model.counters import LatencyHistogram
from cachekit.monitoring.families import FAMILIES


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


def metrics(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_figures(reader: InMemoryMetricReader) -> None:
    """Each counter and gauge has its unit and its attributes, and every load is in the histogram."""
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        instruments = CacheInstruments({"main": cache}, meter_provider=MeterProvider([reader]))
        for number in range(3):
            cache.get_or_set(f"k{number}", lambda: 1)
        with pytest.raises(ZeroDivisionError):
            cache.get_or_set("failing", lambda: 1 // 0)
        cache.get("k1")
        found = metrics(reader)
    assert instruments
    units = {f"cachekit.{family.name}": family.unit for family in FAMILIES}
    assert {name: metric.unit for name, metric in found.items()}.items() <= units.items()
    requests = {
        point.attributes["result"]: point.value for point in found["cachekit.requests"].data.data_points
    }
    assert requests == {"hit": 1, "miss": 4}
    (entries,) = found["cachekit.entries"].data.data_points
    assert (entries.value, dict(entries.attributes)) == (3, {"cache": "main", "tier": "memory"})
    (durations,) = found["cachekit.load.duration"].data.data_points
    assert durations.count == 4
    assert tuple(durations.explicit_bounds) == LatencyHistogram.EDGES
    assert durations.sum == pytest.approx(cache.get_stats()["combined"].load_seconds)


def test_one_snapshot_for_all_instruments(
    reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each instrument has a callback of its own, and one export reads the cache once."""
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        instruments = CacheInstruments({"main": cache}, meter_provider=MeterProvider([reader]))
        source, calls = instruments._sources["main"], []

        def counted() -> Any:
            calls.append(1)
            return source()

        monkeypatch.setattr("cachekit.integrations.opentelemetry._FRESH", 1000.0)
        instruments._sources["main"] = counted
        instruments._read = (-1000.0, {})
        metrics(reader)
        assert len(calls) == 1
