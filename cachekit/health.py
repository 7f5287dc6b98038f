"""How a cache is, in one word, and what a person can do about it: judged from its statistics alone.

`assess` is a function of what it is given: it asks no tier anything, keeps nothing and can be called with
numbers from anywhere, another process's included. Who collects them, and tells when the answer changes, is
`cache`. Counters are sums since the cache was made; `since` gives those of a span of time, which is
what an alert that shall end with its cause wants to be judged on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from math import inf, isnan
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, final

from cachekit.model.stats import COUNTED, CacheStats
from cachekit.runtime.scheduler import ScheduledTask, scheduler

Status: TypeAlias = Literal["healthy", "warning", "critical"]

#: What is wrong: `hit_rate`, `memory`: beyond its threshold. `out`: the tier does not work, and the cache
#: goes on without it. `full`: it has no room for what is new. `unavailable`, `errors`, `refusals`: too
#: many of these counters (see `CacheStats`).
Cause: TypeAlias = Literal["out", "full", "memory", "hit_rate", "unavailable", "errors", "refusals"]

_RANK: Final = {"healthy": 0, "warning": 1, "critical": 2}


class TierState(Protocol):
    """What statistics do not tell of a tier; an `accessor.Accessor` is one."""

    @property
    def is_out(self) -> bool:
        """Whether it does not work, and calls are refused."""
        ...

    @property
    def out_for(self) -> float:
        """Seconds that an outage has lasted; 0 if there is none."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether the last write found no room."""
        ...

    @property
    def pending(self) -> int:
        """How many invalidations the tier still has to be told."""
        ...


class Thresholds(NamedTuple):
    """From where on something is a reason. 0 switches a minimum off, and `math.inf` a maximum."""

    #: Warning below this share of requests that some tier answered, 0 to 1.
    min_hit_rate: float = 0.5
    #: Requests, or lookups of a tier, below which no share of them is judged: a cache that has just begun
    #: has answered nothing yet.
    min_requests: int = 100
    #: Warning, and critical, above so many bytes of the memory tier.
    memory_bytes_warning: float = 500 * 2**20
    memory_bytes_critical: float = 2**30
    #: A tier that is out is a warning, and critical after so many seconds.
    outage_seconds_critical: float = 300.0
    #: Warning above this share of a tier's lookups that it could not answer, 0 to 1.
    max_unavailable: float = 0.05
    #: Warning above this share of a tier's operations that failed, 0 to 1.
    max_errors: float = 0.01
    #: Warning above this share of values that were not kept, because their key or a tag was
    #: invalidated while they were loaded, 0 to 1.
    max_refusals: float = 0.25

    def checked(self) -> Thresholds:
        """Itself.

        Raises:
            TypeError: something that is not a number.
            ValueError: NaN, something negative, a share of more than 1, or a warning that comes after its
                critical.
        """
        for name, value in self._asdict().items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, not {value!r} of type {type(value).__name__}")
            if isnan(value) or value < 0:
                raise ValueError(
                    f"{name} must be 0 or more, not {value!r}; 0 switches a minimum off, math.inf a maximum"
                )
        if self.min_hit_rate > 1:
            raise ValueError(f"min_hit_rate is a share, 0 to 1, not {self.min_hit_rate!r}")
        for name in ("max_unavailable", "max_errors", "max_refusals"):
            value = getattr(self, name)
            if 1 < value < inf:
                raise ValueError(f"{name} is a share, 0 to 1, not {value!r}; math.inf switches it off")
        if self.memory_bytes_warning > self.memory_bytes_critical:
            raise ValueError(
                f"memory_bytes_warning must not be more than memory_bytes_critical, "
                f"not {self.memory_bytes_warning!r} and {self.memory_bytes_critical!r}"
            )
        return self


class Reason(NamedTuple):
    """One thing that is not as it should be."""

    status: Literal["warning", "critical"]
    cause: Cause
    tier: str  #: "memory", "redis", "file"; "combined" for the cache as a whole
    value: float  #: what it is: seconds, bytes or a share
    threshold: float  #: what it should be at most, or at least
    message: str  #: what is so, for people
    remedy: str  #: what can be done about it


class Health(NamedTuple):
    """How a cache is: the worst of its reasons, or healthy if there is none."""

    status: Status
    reasons: tuple[Reason, ...]  #: the worst ones first

    @property
    def message(self) -> str:
        """All of it in one line."""
        return "; ".join(f"{reason.message}: {reason.remedy}" for reason in self.reasons) or "healthy"

    def to_dict(self) -> dict[str, Any]:
        """Status, message and reasons, ready for JSON: an infinite threshold is None."""
        reasons = [reason._asdict() for reason in self.reasons]
        for reason in reasons:
            reason["threshold"] = None if reason["threshold"] == inf else reason["threshold"]
        return {"status": self.status, "message": self.message, "reasons": reasons}


def assess(
    stats: Mapping[str, CacheStats],
    tiers: Mapping[str, TierState] | None = None,
    thresholds: Thresholds | None = None,
) -> Health:
    """The health of a cache.

    Args:
        stats: of its tiers by name, and of all under "combined", as `get_stats` gives them.
        tiers: the state of each lower tier by name.
        thresholds: from where on something is a reason; the defaults if left out.

    Raises:
        TypeError: `thresholds` that are no Thresholds, or one that is not a number.
        ValueError: a threshold that makes no sense.
    """
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        raise TypeError(
            f"thresholds must be a Thresholds, such as Thresholds(min_hit_rate=0.7), not {thresholds!r}"
        )
    limits = (Thresholds() if thresholds is None else thresholds).checked()
    reasons = [
        *_of_states(tiers or {}, limits),
        *_of_memory(stats, limits),
        *_of_requests(stats, limits),
        *_of_counters(stats, tiers or {}, limits),
    ]
    # Stable: of one rank they stay as they are, the more urgent first.
    reasons.sort(key=lambda reason: -_RANK[reason.status])
    return Health(reasons[0].status if reasons else "healthy", tuple(reasons))


def since(earlier: Mapping[str, CacheStats], now: Mapping[str, CacheStats]) -> dict[str, CacheStats]:
    """What was counted between two snapshots of one cache; sizes and latencies are those of the later.

    A tier that the earlier one does not have, or whose counters are lower than they were, has begun anew:
    its counters are taken as they are.
    """
    spans = {}
    for name, later in now.items():
        counted = dict.fromkeys(_COUNTERS, 0.0) if name not in earlier else earlier[name]
        if any(later[counter] < counted[counter] for counter in _COUNTERS):
            counted = dict.fromkeys(_COUNTERS, 0.0)
        numbers = {state: later[state] for state in _STATES}
        numbers |= {counter: later[counter] - counted[counter] for counter in _COUNTERS}
        spans[name] = CacheStats(**numbers)
    return spans


_STATES: Final = ("size", "memory_usage_bytes", "latency_p50", "latency_p99")
_COUNTERS: Final = tuple(name for name in COUNTED if name not in _STATES)


def _of_states(tiers: Mapping[str, TierState], limits: Thresholds) -> Iterator[Reason]:
    for name, state in tiers.items():
        if state.is_out:
            out_for, pending = state.out_for, state.pending
            longest = limits.outage_seconds_critical
            told = f", and has to be told of {pending} invalidations" if pending else ""
            yield Reason(
                "critical" if out_for >= longest else "warning",
                "out", name, out_for, longest,
                f"the {name} tier has been out for {out_for:.0f} s{told}",
                "see the log for the first error, and look after its server or its disk; "
                "the cache goes on without it and takes it up again by itself",
            )  # fmt: skip
        if state.is_full:
            yield Reason(
                "warning", "full", name, 1.0, 0.0,
                f"the {name} tier has no room for new values",
                "make room where it is kept, or give the tier a lower limit",
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


def _of_requests(stats: Mapping[str, CacheStats], limits: Thresholds) -> Iterator[Reason]:
    combined = stats.get("combined")
    if combined is None or combined.requests < max(1, limits.min_requests):
        return
    rate = combined.request_hit_rate
    if rate < limits.min_hit_rate:
        yield Reason(
            "warning", "hit_rate", "combined", rate, limits.min_hit_rate,
            f"{combined.request_hits} of {combined.requests} requests were hits, "
            f"less than {_percent(limits.min_hit_rate)}",
            _why_missed(combined),
        )  # fmt: skip


def _why_missed(combined: CacheStats) -> str:
    # Where most entries went says what would have kept them.
    gone = {
        "most entries left for room; make max_size, max_bytes or max_size_mb larger": combined.evictions,
        "most entries expired; use a longer ttl where values stay right for longer": combined.expirations,
        "most entries were invalidated; use narrower tags and patterns": combined.invalidations,
    }
    advice, most = max(gone.items(), key=lambda item: item[1])
    if most * 2 > combined.requests - combined.request_hits:
        return advice
    return "keys may be too specific to come back; look at what goes into them, or warm them"


def _of_counters(
    stats: Mapping[str, CacheStats], tiers: Mapping[str, TierState], limits: Thresholds
) -> Iterator[Reason]:
    for name, counted in stats.items():
        if name == "combined":
            continue
        lookups = counted.hits + counted.misses + counted.unavailable
        is_out = name in tiers and tiers[name].is_out
        if not is_out:  # which is said already
            yield from _share(
                "unavailable", name, counted.unavailable, lookups, limits.max_unavailable, limits,
                "lookups got no answer",
                "it fails again and again; see the log, and look after its server, its network or its disk",
            )  # fmt: skip
            yield from _share(
                "errors", name, counted.errors, lookups + counted.sets + counted.deletes, limits.max_errors,
                limits, "operations failed", "see the log for what they say",
            )  # fmt: skip
        yield from _share(
            "refusals", name, counted.refusals, counted.refusals + counted.sets, limits.max_refusals, limits,
            "values were out of date before they were stored",
            "their keys or tags are invalidated while they load; invalidate less often, or more narrowly",
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
    # What upkeep tried and failed to do is an error too, and in no whole: a share is at most all of it.
    share = min(1.0, part / whole) if whole else 0.0
    if whole >= max(1, limits.min_requests) and share > limit:
        yield Reason(
            "warning", cause, tier, share, limit,
            f"{tier} tier: {part} of {whole} {what}, more than {_percent(limit)}",
            remedy,
        )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


_INTERVAL: Final = 10.0  # seconds between two looks
_LOOKS: Final = 6  # how many of them a judgement spans: a minute, so that an alert ends with its cause

Statistics = Mapping[str, CacheStats]


@final
class HealthMonitor:
    """Looks at a cache every ten seconds, in upkeep's thread, and judges its last minute.

    Args:
        changed: called as `changed(new, old)` when the status is another one; healthy comes first.
        statistics: asked for the figures.
        judge: makes them a health.
    """

    __slots__ = ("__weakref__", "_changed", "_earlier", "_job", "_judge", "_last", "_statistics")

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
        self._earlier: deque[Statistics] = deque([statistics()], _LOOKS)
        self._job: ScheduledTask = scheduler.every(_INTERVAL, self.look)

    def look(self) -> None:
        """Look once."""
        now = self._statistics()
        health, before = self._judge(since(self._earlier[0], now)), self._last
        self._earlier.append(now)
        self._last = health
        if health.status != before.status:
            self._changed(health, before)

    def close(self) -> None:
        """Look no more."""
        self._job.cancel()
