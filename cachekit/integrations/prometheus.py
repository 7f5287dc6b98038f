"""Figures for Prometheus; needs the extra `prometheus`.

    from prometheus_client import REGISTRY

    REGISTRY.register(CacheCollector({"main": cache}))                   # of this process
    REGISTRY.register(CacheCollector.of_host("main", cache.file_cache))  # of all processes of this host

They are read when Prometheus scrapes. Nothing happens on the way of a hit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from cachekit.errors import CacheError
from cachekit.integrations.sources import (
    AnyCache,
    Directory,
    Figures,
    Source,
    fleet_reader,
    of_hosts,
    of_process,
    of_reader,
)
from cachekit.model.counters import LatencyHistogram
from cachekit.monitoring.families import FAMILIES, PARTS, Family

if TYPE_CHECKING:
    from cachekit.monitoring.reading import FiguresReader
    from cachekit.tiers.redis.tier import RedisCache

_EDGES = (*map(floatToGoString, LatencyHistogram.EDGES), "+Inf")


@final
class CacheCollector:
    """Collects the figures of caches; the label `cache` is the name of each.

    A registry takes one collector of caches, because each has the same families.

    Args:
        caches: The caches of this process by name, synchronous or awaited.

    Raises:
        TypeError: `caches` does not map names to caches.
    """

    def __init__(self, caches: Mapping[str, AnyCache]) -> None:
        self._sources: Mapping[str, Source] = of_process(caches)

    @classmethod
    def of_host(cls, name: str, directory: Directory | None) -> CacheCollector:
        """Return the collector of all processes of this host that share a directory.

        Figures are sums over the processes, and include those that ended, so every counter only grows. The
        first scrape takes 1.5 s, until each process has published.

        Args:
            name: The label `cache`.
            directory: The file tier of a cache, or the path of its directory. None is all caches of this
                user without a file tier.

        Raises:
            TypeError: `name` is not a str.
            TierUnavailableError: The directory cannot be used.
        """
        return cls.of_hosts({name: directory})

    @classmethod
    def of_hosts(cls, directories: Mapping[str, Directory | None]) -> CacheCollector:
        """Do what `of_host` does for several directories, by name."""
        collector = cls({})
        collector._sources = of_hosts(directories)
        return collector

    @classmethod
    def of_fleet(cls, name: str, redis_cache: RedisCache) -> CacheCollector:
        """Return the collector of all processes of all hosts over a server, as `of_host` does for one host.

        One scrape has the figures of all hosts. The first one takes 3 s.

        Args:
            name: The label `cache`.
            redis_cache: The tier that the caches share, or another one with its server and `key_prefix`.

        Raises:
            TypeError: `name` is not a str, or `redis_cache` is no RedisCache.
            TierUnavailableError: The server does not answer.
        """
        return collector_of(name, fleet_reader(redis_cache))

    def describe(self) -> Iterator[Metric]:
        """Yield all families without samples."""
        for family in FAMILIES:
            yield _metric(family)

    def collect(self) -> Iterator[Metric]:
        """Yield all families with the figures of now. A directory that cannot be read has no samples."""
        read = {name: figures for name, source in self._sources.items() if (figures := _read(name, source))}
        for family in FAMILIES:
            metric = _metric(family)
            for name, figures in read.items():
                _add(metric, family, name, figures)
            yield metric


def collector_of(name: str, reader: FiguresReader) -> CacheCollector:
    """Return the collector of what a reader reads, for the command line."""
    collector = CacheCollector({})
    collector._sources = of_reader(name, reader)
    return collector


def _read(name: str, source: Source) -> Figures | None:
    try:
        return source()
    except CacheError as error:
        logging.getLogger("cachekit").warning("no figures of %r for Prometheus: %s", name, error)
        return None


def _metric(family: Family) -> Metric:
    labels = ("cache", *family.labels)
    if family.kind == "counter":
        return CounterMetricFamily(family.prometheus, family.help, labels=labels)
    if family.kind == "gauge":
        return GaugeMetricFamily(family.prometheus, family.help, labels=labels)
    return HistogramMetricFamily(family.prometheus, family.help, labels=labels)


def _add(metric: Metric, family: Family, name: str, figures: Figures) -> None:
    for values, key in zip(family.series, family.figures(), strict=True):
        labels = (name, *values)
        if isinstance(metric, HistogramMetricFamily):
            if f"{key}/sum" not in figures.counters:
                continue  # the cache does not have this tier
            total = 0.0
            buckets = []
            for edge, part in zip(_EDGES, PARTS, strict=False):
                # A record that another program has written may lack a part.
                total += figures.counters.get(f"{key}/{part}", 0)
                buckets.append((edge, total))
            metric.add_metric(labels, buckets, figures.counters[f"{key}/sum"])
        elif isinstance(metric, CounterMetricFamily):
            if key in figures.counters:
                metric.add_metric(labels, figures.counters[key])
        elif isinstance(metric, GaugeMetricFamily) and key in figures.gauges:
            metric.add_metric(labels, figures.gauges[key])
