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
            "health": self._health(snapshots),
        }
        return json.dumps(record).encode()

    def _health(self, snapshots: Mapping[CacheCore, Snapshot]) -> dict[str, Any]:
        now = time.monotonic()
        healths = []
        earlier = {}
        for core, one in snapshots.items():
            history = self._earlier.get(id(core)) or deque([(now, _NOTHING)], _SPANS)
            earlier[id(core)] = history
            span = since(history[0][1], one.stats)
            healths.append(assess(span, core.tiers.states(), sizes=core.estimate(span)))
            if now - history[-1][0] >= _SPAN:
                history.append((now, one.stats))
        self._earlier = earlier
        reasons = [reason for health in healths for reason in health.reasons]
        reasons.sort(key=lambda reason: reason.status)  # "critical" comes before "warning"
        return {
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
    listed = health.get("reasons")
    reasons = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
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
    )


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
