"""The figures of a cache: those of its tiers, and what they come to for whoever asks the cache."""

from __future__ import annotations

from collections.abc import Iterable

from cachekit.coherence.tier_stack import TierStack
from cachekit.model.counters import LoadCounters, Lookups
from cachekit.model.stats import CacheStats
from cachekit.tiers.memory import MemoryCache


def statistics_of(
    memory: MemoryCache | None, levels: TierStack, readers: Iterable[Lookups], loads: LoadCounters
) -> dict[str, CacheStats]:
    """The figures of each tier by name, and "combined".

    Args:
        memory: the memory tier, if there is one.
        levels: with the tiers below it.
        readers: who have looked something up in memory first, for this cache.
        loads: what the loads of this cache have counted.
    """
    # First: a lookup counts as a request before a lower tier answers it, so there are never more of these.
    answers = levels.answers
    figures = {}
    if memory is not None:
        figures["memory"] = memory.get_stats()
    for name, lower in (("redis", levels.redis), ("file", levels.file)):
        if lower is not None:
            figures[name] = lower.get_stats()
    combined = {name: sum(tier[name] for tier in figures.values()) for name in CacheStats._STORED}
    for quantile in ("latency_p50", "latency_p99"):  # a hit is nearly always one in the first tier
        combined[quantile] = next(iter(figures.values()))[quantile]
    lookups = list(readers)
    hits = sum(reader.hits for reader in lookups)
    misses = sum(reader.misses for reader in lookups)
    combined |= loads.as_dict()
    combined["requests"] = hits + misses + levels.skipped
    combined["request_hits"] = hits + answers
    return figures | {"combined": CacheStats(**combined)}
