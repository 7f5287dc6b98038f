"""The table of all figures that cachekit exports. Prometheus, OpenTelemetry, StatsD and Grafana read it.

A figure has a key: the name of its family and the values of its labels, joined by slashes, such as
`lookups/memory/hit`. A histogram has one figure per bucket, `load.duration/0`, and `load.duration/sum`.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from cachekit.model.counters import LatencyHistogram

TIERS: Final = ("memory", "redis", "file")
_LOWER: Final = TIERS[1:]  # only these can be out

#: How the gauges of several processes are one. `tier`: those of memory are added, and of a tier that the
#: processes share the newest one counts. `least`: the least one.
Across = Literal["sum", "tier", "least"]


class Family(NamedTuple):
    """The figures of one name."""

    name: str  #: as OpenTelemetry has it, after `cachekit.`
    kind: Literal["counter", "gauge", "histogram"]
    unit: str  #: as OpenTelemetry has it
    labels: tuple[str, ...]
    series: tuple[tuple[str, ...], ...]  #: the values of the labels
    help: str
    across: Across = "sum"

    @property
    def prometheus(self) -> str:
        """Return the name in Prometheus, with its unit and without `_total`."""
        return f"cachekit_{self.name.replace('.', '_')}{_SUFFIXES.get(self.unit, '')}"

    @property
    def sample(self) -> str:
        """Return the name of a sample in Prometheus; of a histogram, that of its buckets."""
        return self.prometheus + {"counter": "_total", "gauge": "", "histogram": "_bucket"}[self.kind]

    def figures(self) -> tuple[str, ...]:
        """Return the keys of its figures, in the order of `series`; of a histogram, without its parts."""
        return tuple(["/".join((self.name, *values)) for values in self.series])


_SUFFIXES: Final = {"s": "_seconds", "By": "_bytes"}
_OF_TIER: Final = tuple((tier,) for tier in TIERS)
_OF_LOWER: Final = tuple((tier,) for tier in _LOWER)


def _of_tiers(*values: str) -> tuple[tuple[str, str], ...]:
    return tuple((tier, value) for tier in TIERS for value in values)


FAMILIES: Final = (
    Family("requests", "counter", "{request}", ("result",), (("hit",), ("miss",)),
           "Lookups as callers see them: a hit was served by any tier"),
    Family("lookups", "counter", "{lookup}", ("tier", "result"), _of_tiers("hit", "miss", "unavailable"),
           "Lookups of a tier: it had a live entry, had none, or failed"),
    Family("removals", "counter", "{entry}", ("tier", "cause"),
           _of_tiers("eviction", "expiration", "invalidation", "delete"),
           "Entries removed from a tier"),
    Family("sets", "counter", "{entry}", ("tier",), _OF_TIER, "Entries stored"),
    Family("promotions", "counter", "{entry}", ("tier",), _OF_TIER,
           "Entries copied into a tier from a slower one"),
    Family("refusals", "counter", "{entry}", ("tier",), _OF_TIER,
           "Values not stored because they were invalidated while they were loaded"),
    Family("oversized", "counter", "{entry}", ("tier",), _OF_TIER,
           "Values not stored because they are too large for the tier"),
    Family("errors", "counter", "{error}", ("tier",), _OF_TIER, "Failures of a tier or of its listeners"),
    Family("loads", "counter", "{load}", ("result",), (("ok",), ("error",)),
           "Calls of loaders and cached functions that ended"),
    Family("load.duration", "histogram", "s", (), ((),), "Seconds that each load took"),
    Family("tier.duration", "histogram", "s", ("tier", "operation"),
           (("memory", "hit"), ("redis", "call"), ("file", "call")),
           "Seconds that lookups with a hit took; a sample, for quantiles and not for rates"),
    Family("stale_served", "counter", "{request}", (), ((),), "Loads that returned a stale value"),
    Family("lease_waits", "counter", "{load}", (), ((),), "Loads that waited for a lease or a slot"),
    Family("verified", "counter", "{hit}", (), ((),), "Hits that were compared with a fresh load"),
    Family("mismatches", "counter", "{hit}", (), ((),), "Verified hits that differed from a fresh load"),
    Family("reloaded", "counter", "{entry}", (), ((),),
           "Entries copied into memory because they were used most before the restart"),
    Family("prefetches", "counter", "{load}", ("result",), (("begun",), ("hit",), ("late",), ("wasted",)),
           "Values loaded before they were asked for, and what became of them"),
    Family("tier.outages", "counter", "{outage}", ("tier",), _OF_LOWER, "Outages of a tier that began"),
    Family("entries", "gauge", "{entry}", ("tier",), _OF_TIER,
           "Entries held; expired ones may be among them", "tier"),
    Family("entries.limit", "gauge", "{entry}", ("tier",), _OF_TIER, "The most entries that a tier holds",
           "tier"),
    Family("size", "gauge", "By", ("tier",), _OF_TIER, "Bytes of the entries held, an estimate", "tier"),
    Family("size.limit", "gauge", "By", ("tier",), _OF_TIER, "The most bytes that a tier holds", "tier"),
    Family("tier.up", "gauge", "1", ("tier",), _OF_LOWER, "1 while a tier is used, 0 during an outage",
           "least"),
    Family("tier.pending_invalidations", "gauge", "{invalidation}", ("tier",), _OF_LOWER,
           "Invalidations that a tier has missed so far"),
)  # fmt: skip

#: The key of the seconds that hits of a tier took, by tier.
HIT_DURATIONS: Final = {
    values[0]: "/".join((family.name, *values))
    for family in FAMILIES
    if family.name == "tier.duration"
    for values in family.series
}

#: The statistics of a tier that are figures, by the end of their keys.
TIER_COUNTERS: Final = {
    ("lookups", "hit"): "hits",
    ("lookups", "miss"): "misses",
    ("lookups", "unavailable"): "unavailable",
    ("removals", "eviction"): "evictions",
    ("removals", "expiration"): "expirations",
    ("removals", "invalidation"): "invalidations",
    ("removals", "delete"): "deletes",
    ("sets",): "sets",
    ("promotions",): "promotions",
    ("refusals",): "refusals",
    ("oversized",): "oversized",
    ("errors",): "errors",
}

#: The figures of a histogram after its key: one per bucket, and the sum.
PARTS: Final = (*map(str, range(len(LatencyHistogram.EDGES) + 1)), "sum")

#: The keys of all figures that only grow, and of those that also fall.
COUNTERS: Final = frozenset(
    [key for family in FAMILIES if family.kind == "counter" for key in family.figures()]
    + [
        f"{key}/{part}"
        for family in FAMILIES
        if family.kind == "histogram"
        for key in family.figures()
        for part in PARTS
    ]
)
GAUGES: Final = {key: family for family in FAMILIES if family.kind == "gauge" for key in family.figures()}
