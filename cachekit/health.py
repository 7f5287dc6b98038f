"""Judges the health of a cache from its statistics alone.

`assess` is a pure function: it calls no tier and keeps no state, so the numbers may come from another
process. Counters are sums since the cache was created. `since` gives the counts of a time span, so that
an alert ends with its cause. `HealthMonitor` collects statistics and reports changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from math import inf, isnan
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, final

from cachekit.model.display import safe_repr, typed_repr
from cachekit.model.reports import SizeEstimate, Verified
from cachekit.model.stats import COUNTED, CacheStats
from cachekit.runtime.scheduler import ScheduledTask, scheduler

Status: TypeAlias = Literal["healthy", "warning", "critical"]

#: What is wrong. `hit_rate`, `memory`: beyond the threshold. `out`: the tier fails, and the cache bypasses
#: it. `full`: the tier has no space for new entries. `unavailable`, `errors`, `refusals`,
#: `mismatches`: the share of this counter is too high (see `CacheStats`). `prefetches`: too many were wasted.
Cause: TypeAlias = Literal[
    "out",
    "full",
    "memory",
    "hit_rate",
    "unavailable",
    "errors",
    "refusals",
    "mismatches",
    "prefetches",
]

_RANK: Final = {"healthy": 0, "warning": 1, "critical": 2}


class TierState(Protocol):
    """The state of a tier that its statistics do not show. `coherence.accessor.Accessor` is one."""

    @property
    def is_out(self) -> bool:
        """Return whether the tier fails, so that the cache bypasses it."""
        ...

    @property
    def out_for(self) -> float:
        """Return the seconds since the outage began; 0 if there is none."""
        ...

    @property
    def is_full(self) -> bool:
        """Return whether the last write found the tier full."""
        ...

    @property
    def pending(self) -> int:
        """Return how many invalidations the tier has missed so far."""
        ...


class Thresholds(NamedTuple):
    """The limits of `assess`. 0 disables a minimum, and `math.inf` a maximum."""

    #: Warning below this share of requests that any tier served, 0 to 1.
    min_hit_rate: float = 0.5
    #: With fewer requests, or lookups of a tier, no share is judged: a new cache has no hits yet.
    min_requests: int = 100
    #: Warning, and critical, above this number of bytes in the memory tier.
    memory_bytes_warning: float = 500 * 2**20
    memory_bytes_critical: float = 2**30
    #: An outage of a tier is a warning, and critical after this number of seconds.
    outage_seconds_critical: float = 300.0
    #: Warning above this share of a tier's lookups that failed, 0 to 1.
    max_unavailable: float = 0.05
    #: Warning above this share of a tier's operations that failed, 0 to 1.
    max_errors: float = 0.01
    #: Warning above this share of values that were not stored, because their key or a tag was
    #: invalidated while they were loaded, 0 to 1.
    max_refusals: float = 0.25
    #: Warning above this share of verified hits that differed from a fresh load, 0 to 1.
    max_mismatches: float = 0.0
    #: Warning above this share of prefetches that failed or were never asked for, 0 to 1.
    max_wasted_prefetches: float = 0.5

    @classmethod
    def of(cls, given: Mapping[str, float]) -> Thresholds:
        """Return these thresholds, and the default of each other one; raise TypeError for an unknown name."""
        unknown = given.keys() - set(cls._fields)
        if unknown:
            raise TypeError(
                f"health has no threshold {', '.join(sorted(unknown))}; pass some of {', '.join(cls._fields)}"
            )
        limits: Any = given  # `checked` looks at each
        return cls(**limits)

    def checked(self) -> Thresholds:
        """Return these thresholds after a check.

        Raises:
            TypeError: a threshold is not a number.
            ValueError: a threshold is NaN or negative, a share is more than 1, or `memory_bytes_warning` is
                more than `memory_bytes_critical`.
        """
        for name, value in self._asdict().items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, not {typed_repr(value)}")
            if isnan(value) or value < 0:
                raise ValueError(
                    f"{name} must be 0 or more, not {value!r}; 0 switches a minimum off, math.inf a maximum"
                )
        if self.min_hit_rate > 1:
            raise ValueError(
                f"min_hit_rate must be a share, 0 to 1, not {self.min_hit_rate!r}; 0 disables the check"
            )
        for name in (
            "max_unavailable", "max_errors", "max_refusals", "max_mismatches", "max_wasted_prefetches",
        ):  # fmt: skip
            value = getattr(self, name)
            if 1 < value < inf:
                raise ValueError(
                    f"{name} must be a share, 0 to 1, not {value!r}; math.inf disables the check"
                )
        if self.memory_bytes_warning > self.memory_bytes_critical:
            raise ValueError(
                f"memory_bytes_warning must not be more than memory_bytes_critical, "
                f"not {self.memory_bytes_warning!r} and {self.memory_bytes_critical!r}"
            )
        return self


class Reason(NamedTuple):
    """One cause of a warning or a critical status."""

    status: Literal["warning", "critical"]
    cause: Cause
    tier: str  #: "memory", "redis" or "file"; "combined" for the cache as a whole
    value: float  #: the measured seconds, bytes or share
    threshold: float  #: the limit that the value exceeds, or falls below
    message: str  #: the measured fact as a sentence
    remedy: str  #: what to do about it


class Health(NamedTuple):
    """The health of a cache: the worst status among its reasons, or healthy without a reason."""

    status: Status
    reasons: tuple[Reason, ...]  #: critical ones first

    @property
    def message(self) -> str:
        """Return all reasons with their remedies in one line."""
        return "; ".join(f"{reason.message}: {reason.remedy}" for reason in self.reasons) or "healthy"

    def to_dict(self) -> dict[str, Any]:
        """Return status, message and reasons, ready for JSON. An infinite threshold becomes None."""
        reasons = [
            {
                "status": reason.status,
                "cause": reason.cause,
                "tier": reason.tier,
                "value": reason.value,
                "threshold": None if reason.threshold == inf else reason.threshold,
                "message": reason.message,
                "remedy": reason.remedy,
            }
            for reason in self.reasons
        ]
        return {"status": self.status, "message": self.message, "reasons": reasons}


def assess(
    stats: Mapping[str, CacheStats],
    tiers: Mapping[str, TierState] | None = None,
    thresholds: Thresholds | None = None,
    verifications: Mapping[str, Verified] | None = None,
    sizes: SizeEstimate | None = None,
) -> Health:
    """Return the health of a cache.

    Args:
        stats: The statistics of its tiers by name, and of the whole cache under "combined", as `get_stats`
            returns them.
        tiers: The state of each lower tier by name (default: none is out or full).
        thresholds: The limits (default: `Thresholds()`).
        verifications: What `IntelligentCache.verifications` returns, so that a mismatch names its function
            (default: none).
        sizes: The estimate of the memory tier, for the remedy of a low hit rate (default: none).

    Raises:
        TypeError: `thresholds` is not a Thresholds, or one of them is not a number.
        ValueError: a threshold is out of range.
    """
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        raise TypeError(
            f"thresholds must be a Thresholds, such as Thresholds(min_hit_rate=0.7), "
            f"not {safe_repr(thresholds)}"
        )
    limits = (Thresholds() if thresholds is None else thresholds).checked()
    reasons = [
        *_of_states(tiers or {}, limits),
        *_of_memory(stats, limits),
        *_of_requests(stats, limits, sizes),
        *_of_verifications(stats, verifications or {}, limits),
        *_of_counters(stats, tiers or {}, limits),
        *_of_prefetches(stats, limits),
    ]
    # The sort is stable: within one status the order above stays, the most urgent first.
    reasons.sort(key=lambda reason: -_RANK[reason.status])
    return Health(reasons[0].status if reasons else "healthy", tuple(reasons))


def since(earlier: Mapping[str, CacheStats], now: Mapping[str, CacheStats]) -> dict[str, CacheStats]:
    """Return what was counted between two snapshots of one cache; sizes and latencies come from `now`.

    If a tier is missing in `earlier`, or one of its counters is lower now, the tier was restarted. Its
    counters are then used as they are.
    """
    spans = {}
    for name, later in now.items():
        counted: Mapping[str, float] = earlier.get(name, _NOTHING)
        if any(later[counter] < counted[counter] for counter in _COUNTERS):
            counted = _NOTHING
        numbers = {state: later[state] for state in _STATES}
        numbers |= {counter: later[counter] - counted[counter] for counter in _COUNTERS}
        spans[name] = CacheStats(**numbers)
    return spans


_STATES: Final = ("size", "memory_usage_bytes", "latency_p50", "latency_p99")
_COUNTERS: Final = tuple(name for name in COUNTED if name not in _STATES)
_NOTHING: Final = CacheStats()


def _of_states(tiers: Mapping[str, TierState], limits: Thresholds) -> Iterator[Reason]:
    for name, state in tiers.items():
        if state.is_out:
            out_for, pending = state.out_for, state.pending
            longest = limits.outage_seconds_critical
            missed = f", and has missed {pending} invalidations" if pending else ""
            yield Reason(
                "critical" if out_for >= longest else "warning",
                "out", name, out_for, longest,
                f"the {name} tier has been out for {out_for:.0f} s{missed}",
                f"see the log for the first error, and check its {'disk' if name == 'file' else 'server'}; "
                "the cache bypasses the tier until it recovers",
            )  # fmt: skip
        if state.is_full:
            yield Reason(
                "warning", "full", name, 1.0, 0.0,
                f"the {name} tier has no space for new values",
                "free space where it is stored, or give the tier a lower limit",
            )  # fmt: skip


def _of_memory(stats: Mapping[str, CacheStats], limits: Thresholds) -> Iterator[Reason]:
    used = stats["memory"].memory_usage_bytes if "memory" in stats else 0
    status: Literal["warning", "critical"]
    if used > limits.memory_bytes_critical:
        status, limit = "critical", limits.memory_bytes_critical
    elif used > limits.memory_bytes_warning:
        status, limit = "warning", limits.memory_bytes_warning
    else:
        return
    yield Reason(
        status, "memory", "memory", used, limit,
        f"the memory tier takes {used / 2**20:,.0f} MiB, more than {limit / 2**20:,.0f}",
        "give MemoryCache a max_bytes or a smaller max_size, or keep large values in the lower tiers only",
    )  # fmt: skip


def _of_requests(
    stats: Mapping[str, CacheStats], limits: Thresholds, sizes: SizeEstimate | None
) -> Iterator[Reason]:
    combined = stats.get("combined")
    if combined is None or combined.requests < max(1, limits.min_requests):
        return
    rate = combined.request_hit_rate
    if rate < limits.min_hit_rate:
        yield Reason(
            "warning", "hit_rate", "combined", rate, limits.min_hit_rate,
            f"{combined.request_hits} of {combined.requests} requests were hits, "
            f"less than {_percent(limits.min_hit_rate)}",
            _why_missed(combined, sizes),
        )  # fmt: skip


def _of_verifications(
    stats: Mapping[str, CacheStats], functions: Mapping[str, Verified], limits: Thresholds
) -> Iterator[Reason]:
    combined = stats.get("combined")
    if combined is None or not combined.mismatches:
        return
    share = combined.mismatches / max(1, combined.verified)
    if share <= limits.max_mismatches:
        return
    named = {name: one for name, one in functions.items() if one.mismatches}
    if not named:
        named = {"the cache": Verified(combined.verified, combined.mismatches)}
    for name, (verified, mismatches) in named.items():
        yield Reason(
            "warning", "mismatches", "combined", mismatches / max(1, verified), limits.max_mismatches,
            f"answers of {name} depend on something that is not an argument: "
            f"{mismatches} of {verified} verified differ",
            "make it an argument, invalidate a tag when it changes, or use a shorter ttl; if callers change "
            "the results that they get, use copy=True",
        )  # fmt: skip


def _why_missed(combined: CacheStats, sizes: SizeEstimate | None) -> str:
    # The most frequent kind of removal shows what would keep entries longer, if more room would not.
    larger = "most entries were evicted; make max_size, max_bytes or max_size_mb larger"
    if sizes:
        better = sizes.more_room()
        if better is not None:
            return better
        larger = "most entries were evicted, and ten times the room in memory would not help"
    removed = {
        larger: combined.evictions,
        "most entries expired; use a longer ttl where values stay valid for longer": combined.expirations,
        "most entries were invalidated; use narrower tags and patterns": combined.invalidations,
    }
    advice, most = max(removed.items(), key=lambda item: item[1])
    if most * 2 > combined.requests - combined.request_hits:
        return advice
    return "keys may be too specific to recur; check what goes into them, or warm them"


def _of_counters(
    stats: Mapping[str, CacheStats], tiers: Mapping[str, TierState], limits: Thresholds
) -> Iterator[Reason]:
    for name, counted in stats.items():
        if name == "combined":
            continue
        lookups = counted.hits + counted.misses + counted.unavailable
        is_out = name in tiers and tiers[name].is_out
        if not is_out:  # an outage is reported above
            yield from _share(
                "unavailable", name, counted.unavailable, lookups, limits.max_unavailable, limits,
                "lookups failed",
                "see the log for the outages, and check its server, its network or its disk",
            )  # fmt: skip
            yield from _share(
                "errors", name, counted.errors, lookups + counted.sets + counted.deletes, limits.max_errors,
                limits, "operations failed", "see the log for the errors",
            )  # fmt: skip
        yield from _share(
            "refusals", name, counted.refusals, counted.refusals + counted.sets, limits.max_refusals, limits,
            "values were outdated before they were stored",
            "their keys or tags are invalidated while they load; invalidate less often, or use narrower tags",
        )  # fmt: skip


def _of_prefetches(stats: Mapping[str, CacheStats], limits: Thresholds) -> Iterator[Reason]:
    combined = stats.get("combined")
    if combined is None or combined.prefetches < max(1, limits.min_requests):
        return
    # What was begun before the time span may be wasted in it, so the quotient may exceed 1.
    share = min(1.0, combined.prefetches_wasted / combined.prefetches)
    if share > limits.max_wasted_prefetches:
        yield Reason(
            "warning", "prefetches", "combined", share, limits.max_wasted_prefetches,
            f"{combined.prefetches_wasted} of {combined.prefetches} prefetches failed or were never asked "
            f"for, more than {_percent(limits.max_wasted_prefetches)}",
            "see the log for loads that fail; if keys do not recur in sequences, leave out prefetch=True",
        )  # fmt: skip


def _share(
    cause: Cause,
    tier: str,
    part: int,
    whole: int,
    limit: float,
    limits: Thresholds,
    what: str,
    remedy: str,
) -> Iterator[Reason]:
    # Errors of background tasks belong to no operation, so the quotient may exceed 1.
    share = min(1.0, part / whole) if whole else 0.0
    if whole >= max(1, limits.min_requests) and share > limit:
        yield Reason(
            "warning", cause, tier, share, limit,
            f"{tier} tier: {part} of {whole} {what}, more than {_percent(limit)}",
            remedy,
        )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


_INTERVAL: Final = 10.0  # seconds between two snapshots
_SNAPSHOTS: Final = 6  # snapshots that a judgement spans: one minute, so that an alert ends with its cause

Statistics = Mapping[str, CacheStats]


@final
class HealthMonitor:
    """Judges the last minute of a cache every ten seconds, in the background thread.

    Args:
        changed: Called as `changed(new, old)` when the status changes. The first old status is healthy.
        statistics: Returns the current statistics.
        judge: Returns the health for the statistics of the last minute.
    """

    __slots__ = ("__weakref__", "_changed", "_earlier", "_judge", "_last", "_statistics", "_task")

    def __init__(
        self,
        changed: Callable[[Health, Health], object],
        statistics: Callable[[], Statistics],
        judge: Callable[[Statistics], Health],
    ) -> None:
        self._changed = changed
        self._statistics = statistics
        self._judge = judge
        self._last = Health("healthy", ())
        self._earlier: deque[Statistics] = deque([statistics()], _SNAPSHOTS)
        self._task: ScheduledTask = scheduler.every(_INTERVAL, self.check, apart=True)

    def check(self) -> None:
        """Judge the last minute, and report a changed status."""
        now = self._statistics()
        health, before = self._judge(since(self._earlier[0], now)), self._last
        self._earlier.append(now)
        self._last = health
        if health.status != before.status:
            self._changed(health, before)

    def close(self) -> None:
        """End the monitoring."""
        self._task.cancel()
