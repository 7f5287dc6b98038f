"""The record of one process: how it is made, and how another process reads it, which trusts none of it."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, final

from cachekit.health import assess, since
from cachekit.loading.core import CacheCore
from cachekit.model.reports import SizeEstimate
from cachekit.model.stats import CacheStats
from cachekit.monitoring.families import COUNTERS, GAUGES
from cachekit.monitoring.snapshot import Numbers, Snapshot, merged

#: Of the records. Others are not read.
FORMAT: Final = 1
#: The worst one last.
STATUS: Final = ("healthy", "warning", "critical")

_SPAN: Final = 10.0  # seconds between two snapshots that health is judged by
_SPANS: Final = 6  # health is that of the last minute, or at first of the whole life of the cache
_NOTHING: Final[Mapping[str, CacheStats]] = {}  # what was counted when a cache began
_REASONS: Final = 10  # the most that are published, and read
_NAME: Final = 80  # characters of the names of a program and a host
_TEXT: Final = 500  # characters of a text that is read
_CACHES: Final = 4  # the most whose estimates are published, and read
_SIZES: Final = 10  # the most that one of them has
_MOST: Final = 2.0**63  # a figure beyond it is damage


class Reason(NamedTuple):
    """Why a process is not healthy; see `cachekit.health.Reason`."""

    status: str
    tier: str
    message: str
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        """Return its fields by name."""
        return self._asdict()


class OtherSize(NamedTuple):
    """The hit rate that the memory tier of a cache would have at some size; see `SizeEstimate`."""

    size: float  #: entries, or bytes
    rate: float
    plus_minus: float


class Sizes(NamedTuple):
    """What other sizes of the memory tier of a cache would bring."""

    size: float  #: that it has
    unit: str  #: "entries" or "bytes"
    requests: float  #: lookups that this covers
    rates: tuple[OtherSize, ...]


class Process(NamedTuple):
    """The figures of one process that lives."""

    id: str
    program: str
    host: str  #: the name of its host, or container
    pid: int  #: in its own container, if it runs in one
    started: float  #: seconds since the epoch
    written: float  #: when these figures were written
    caches: int
    counters: Numbers
    gauges: Numbers
    status: str
    reasons: tuple[Reason, ...]
    sizes: tuple[Sizes, ...] = ()  #: of its caches, as far as they are estimated


@final
class Records:
    """Makes the records of this process. Its caller holds a lock."""

    def __init__(self) -> None:
        self._started = time.time()
        self._earlier: dict[int, deque[tuple[float, Mapping[str, CacheStats]]]] = {}

    def make(self, counters: Numbers, snapshots: Mapping[CacheCore, Snapshot]) -> bytes:
        """Return a record.

        Args:
            counters: of the process, also of caches that are gone.
            snapshots: of the caches that are open.
        """
        gauges: dict[int, Numbers] = {}
        for one in snapshots.values():
            for owner, numbers in one.gauges:
                gauges.setdefault(id(owner), {}).update(numbers)
        health, sizes = self._health(snapshots)
        record = {
            "format": FORMAT,
            "program": program(),
            "host": socket.gethostname()[:_NAME],
            "pid": os.getpid(),
            "started": self._started,
            "written": time.time(),
            "caches": len(snapshots),
            "counters": counters,
            "gauges": merged(gauges.values()),
            "health": health,
            "sizes": [sizes_of(one) for one in sizes[:_CACHES]],
        }
        return json.dumps(record).encode()

    def _health(self, snapshots: Mapping[CacheCore, Snapshot]) -> tuple[dict[str, Any], list[SizeEstimate]]:
        now = time.monotonic()
        healths, sizes = [], []
        earlier = {}
        for core, one in snapshots.items():
            history = self._earlier.get(id(core)) or deque([(now, _NOTHING)], _SPANS)
            earlier[id(core)] = history
            span = since(history[0][1], one.stats)
            estimate = core.estimate(span)
            healths.append(assess(span, core.tiers.states(), sizes=estimate))
            if estimate:
                sizes.append(estimate)
            if now - history[-1][0] >= _SPAN:
                history.append((now, one.stats))
        self._earlier = earlier
        reasons = [reason for health in healths for reason in health.reasons]
        reasons.sort(key=lambda reason: reason.status)  # "critical" comes before "warning"
        health = {
            "status": reasons[0].status if reasons else "healthy",
            "reasons": [
                {
                    "status": reason.status,
                    "cause": reason.cause,
                    "tier": reason.tier,
                    "message": reason.message,
                    "remedy": reason.remedy,
                }
                for reason in reasons[:_REASONS]
            ],
        }
        return health, sizes


def sizes_of(estimate: SizeEstimate) -> Sizes:
    """Return an estimate as a record has it."""
    rates = [
        OtherSize(size, rate, estimate.plus_minus[size]) for size, rate in sorted(estimate.rates.items())
    ]
    return Sizes(estimate.size, estimate.unit, estimate.requests, tuple(rates))


def program() -> str:
    """Return what this process is called in the figures."""
    path = str(sys.argv[0]) if getattr(sys, "argv", None) else ""
    name = os.path.basename(path)
    if name == "__main__.py":
        name = os.path.basename(os.path.dirname(path))
    return (name if name not in ("", "-", "-c") else "python")[:_NAME]


def parsed(content: bytes) -> dict[str, Any] | None:
    """Return a record, or sums of records, of this format; None if it is none."""
    try:
        value = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value.get("format") == FORMAT else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no figure")


def process_of(process: str, record: Mapping[str, Any]) -> Process:
    """Return what the record of a process says; what is damaged in it is left out."""
    health = record.get("health")
    health = health if isinstance(health, dict) else {}
    reasons = [one for one in _listed(health.get("reasons")) if isinstance(one, dict)]
    status = health.get("status")
    return Process(
        process,
        _text(record.get("program")),
        _text(record.get("host"))[:_NAME],
        int(number_of(record.get("pid")) or 0),
        number_of(record.get("started")) or 0.0,
        number_of(record.get("written")) or 0.0,
        int(number_of(record.get("caches")) or 0),
        counters_of(record),
        _numbers(record.get("gauges"), GAUGES),
        status if status in STATUS else "healthy",
        tuple(
            Reason(*[_text(one.get(name)) for name in ("status", "tier", "message", "remedy")])
            for one in reasons[:_REASONS]
        ),
        tuple(filter(None, map(_sizes, _listed(record.get("sizes"))[:_CACHES]))),
    )


def _sizes(value: object) -> Sizes | None:
    parts = _listed(value)
    if len(parts) != 4:
        return None
    size, unit, requests, rates = number_of(parts[0]), _text(parts[1]), number_of(parts[2]), []
    for one in _listed(parts[3])[:_SIZES]:
        numbers = [number for part in _listed(one) if (number := number_of(part)) is not None]
        if len(numbers) == 3:
            rates.append(OtherSize(*numbers))
    return None if not size or not requests or not rates else Sizes(size, unit, requests, tuple(rates))


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def counters_of(record: Mapping[str, Any]) -> Numbers:
    """Return the counters of a record; what is damaged in them is left out."""
    return _numbers(record.get("counters"), COUNTERS)


def number_of(value: object) -> float | None:
    """Return a figure of a record; None if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value <= _MOST and not math.isnan(value) else None


def _text(value: object) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _numbers(value: object, known: Mapping[str, object] | frozenset[str]) -> Numbers:
    if not isinstance(value, dict):
        return {}
    numbers = {key: number_of(number) for key, number in value.items() if key in known}
    return {key: number for key, number in numbers.items() if number is not None}
