"""What the dashboard shows: one moment of all processes, ready for JSON, and the same as tables of HTML."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from html import escape
from math import isinf
from typing import Any, Final, TypeAlias, final

from cachekit.cache.intelligent import IntelligentCache
from cachekit.health import assess
from cachekit.loading.core import CacheCore
from cachekit.monitoring.families import HIT_DURATIONS, TIERS
from cachekit.monitoring.rates import Rates, hit_rate, quantile, total
from cachekit.monitoring.reading import FiguresReader, HostReader, SharedFigures
from cachekit.monitoring.record import Process, Reason, Sizes, program, sizes_of
from cachekit.monitoring.snapshot import Numbers, Totals, snapshot
from cachekit.monitoring.wanted import changing
from cachekit.runtime.reentrant_lock import RLock

Moment: TypeAlias = dict[str, Any]

#: Seconds between two moments, and how many are kept for a page that is opened later.
INTERVAL: Final = 1.0
_KEPT: Final = 300
#: The processes go on publishing for so many seconds after the page is closed.
WATCHED: Final = 10.0
_MOST_PROCESSES: Final = 200


@final
class Board:
    """The figures of one page, for any number of viewers. Safe in any thread.

    Args:
        read: returns the figures of now.
        place: what the page says it shows.
    """

    def __init__(self, read: Callable[[], SharedFigures], place: str) -> None:
        self._read = read
        self.place = place
        self._lock = RLock()
        self._rates = Rates()
        self._moments: deque[Moment] = deque(maxlen=_KEPT)

    def moment(self) -> Moment:
        """Return the newest moment; one that is younger than half an interval is used again.

        Raises:
            TierUnavailableError: the figures cannot be read.
        """
        with self._lock:
            now = time.time()
            if not self._moments or not 0 <= now - self._moments[-1]["time"] < INTERVAL / 2:
                figures = self._read()
                now = time.time()
                self._rates.update(figures, now)
                if self._moments and now < self._moments[-1]["time"]:
                    self._moments.clear()  # the clock was set back, and what is here lies ahead of it
                self._moments.append(_moment(figures, self._rates, now))
            return self._moments[-1]

    def history(self) -> list[Moment]:
        """Return all moments that are kept, after a look."""
        self.moment()
        return list(self._moments)


def board_of(cache: IntelligentCache, core: CacheCore) -> Board:
    """Return the board of all processes that share the directory of a cache; without one, of this process.

    Nothing is read or written before the first request.
    """
    file = cache.file_cache
    if file is not None:
        return Board(HostReader(file.path, seconds=WATCHED).read, file.path)
    return Board(_Own(core).read, "this process")


def board_of_reader(reader: FiguresReader) -> Board:
    """Return the board of what a reader reads.

    Raises:
        TierUnavailableError: the directory cannot be used, or the server does not answer.
    """
    reader.begin()
    return Board(reader.read, reader.place)


@final
class _Own:
    """Reads a cache of this process as if it were a host with one."""

    def __init__(self, core: CacheCore) -> None:
        self._core = core
        self._totals = Totals()
        self._started = time.time()

    def read(self) -> SharedFigures:
        one = snapshot(self._core)
        with changing:
            self._totals.add(one.parts)
            counters = self._totals.counters.copy()
        estimate = self._core.estimate(one.stats)
        health = assess(one.stats, self._core.tiers.states(), sizes=estimate)
        gauges = one.gauge_values()
        reasons = [Reason(r.status, r.tier, r.message, r.remedy) for r in health.reasons]
        process = Process(
            "own", program(), "", os.getpid(), self._started, time.time(), 1, counters, gauges, health.status,
            tuple(reasons), (sizes_of(estimate),) if estimate else (),
        )  # fmt: skip
        return SharedFigures(counters, gauges, (process,), 0)


def _moment(figures: SharedFigures, rates: Rates, now: float) -> Moment:
    counted, counters = rates.of_all(), figures.counters
    return {
        "time": now,
        "status": figures.status,
        "reasons": _reasons(figures),
        "requests": _known(counted, total(counted, "requests")),
        "misses": _known(counted, counted.get("requests/miss", 0)),
        "hit_rate": hit_rate(counted, "requests"),
        "loads": _known(counted, total(counted, "loads")),
        "load_p50": _finite(quantile(counted, "load.duration", 0.5)),
        "load_p99": _finite(quantile(counted, "load.duration", 0.99)),
        "totals": {
            "requests": total(counters, "requests"),
            "hit_rate": hit_rate(counters, "requests"),
            "loads": total(counters, "loads"),
            "load_errors": counters.get("loads/error", 0),
        },
        "tiers": [_tier(tier, figures, counted) for tier in TIERS if figures.has(tier)],
        "processes": [
            _process(one, name, rates.of(one.id))
            for one, name in list(zip(figures.processes, figures.names(), strict=True))[:_MOST_PROCESSES]
        ],
        "ended": figures.ended,
        "prefetches": _prefetches(counters),
        "sizes": [_sizes(one) for one in figures.sizes()],
    }


def _prefetches(counters: Numbers) -> Moment | None:
    """Return what prefetching has done; None if nothing was prefetched."""
    begun = counters.get("prefetches/begun", 0)
    if not begun:
        return None
    return {"begun": begun} | {
        name: counters.get(f"prefetches/{name}", 0) for name in ("hit", "late", "wasted")
    }


def _sizes(sizes: Sizes) -> Moment:
    """Return what other sizes of a memory tier would bring."""
    return {
        "size": sizes.size,
        "unit": sizes.unit,
        "requests": sizes.requests,
        "rates": [{"size": one.size, "rate": one.rate, "plus_minus": one.plus_minus} for one in sizes.rates],
    }


def _tier(tier: str, figures: SharedFigures, counted: Numbers) -> Moment:
    gauges, duration = figures.gauges, HIT_DURATIONS[tier]
    return {
        "tier": tier,
        "up": gauges.get(f"tier.up/{tier}", 1) > 0,
        "pending": gauges.get(f"tier.pending_invalidations/{tier}", 0),
        "outages": figures.counters.get(f"tier.outages/{tier}", 0),
        "lookups": _known(counted, total(counted, "lookups", tier)),
        "hits": _known(counted, counted.get(f"lookups/{tier}/hit", 0)),
        "hit_rate": hit_rate(counted, "lookups", tier),
        "p50": _finite(quantile(counted, duration, 0.5)),
        "p99": _finite(quantile(counted, duration, 0.99)),
        "entries": gauges.get(f"entries/{tier}"),
        "entries_limit": gauges.get(f"entries.limit/{tier}"),
        "size": gauges.get(f"size/{tier}"),
        "size_limit": gauges.get(f"size.limit/{tier}"),
        "evicted": _known(counted, counted.get(f"removals/{tier}/eviction", 0)),
        "expired": _known(counted, counted.get(f"removals/{tier}/expiration", 0)),
        "invalidated": _known(counted, counted.get(f"removals/{tier}/invalidation", 0)),
        "deleted": _known(counted, counted.get(f"removals/{tier}/delete", 0)),
        "errors": _known(counted, counted.get(f"errors/{tier}", 0)),
    }


def _process(process: Process, name: str, counted: Numbers) -> Moment:
    return {
        "program": name,
        "pid": process.pid,
        "requests": _known(counted, total(counted, "requests")),
        "hit_rate": hit_rate(counted, "requests"),
        "loads": _known(counted, total(counted, "loads")),
        "size": process.gauges.get("size/memory"),
        "caches": process.caches,
        "started": process.started,
        "written": process.written,
        "status": process.status,
    }


def _reasons(figures: SharedFigures) -> list[Moment]:
    """Return what is wrong, each thing once, with the number of processes that say so."""
    found: dict[tuple[str, str, str], Moment] = {}
    for process in figures.processes:
        for reason in process.reasons:
            key = reason.status, reason.tier, reason.remedy
            first = reason.as_dict() | {"count": 0}
            found.setdefault(key, first)["count"] += 1
    return sorted(found.values(), key=lambda one: one["status"])  # critical ones first


def _known(counted: Numbers, rate: float) -> float | None:
    """Return a rate; None before a process has published twice."""
    return rate if counted else None


def _finite(seconds: float | None) -> float | None:
    """Return a duration for JSON, which has no infinity: -1 is beyond the last bucket."""
    return -1.0 if seconds is not None and isinf(seconds) else seconds


# -- without JavaScript ---------------------------------------------------------------------------------


def tables(moment: Moment) -> str:
    """Return a moment as tables of HTML. Whatever other processes say is escaped."""
    reasons = "".join(
        f'<p class="{escape(one["status"])}">{escape(one["message"])}: {escape(one["remedy"])}</p>'
        for one in moment["reasons"]
    )
    now = {
        "requests per second": _number(moment["requests"]),
        "hit rate": _percent(moment["hit_rate"]),
        "loads per second": _number(moment["loads"]),
        "requests in all": _number(moment["totals"]["requests"]),
        "loads in all": _number(moment["totals"]["loads"]),
        "processes": _number(len(moment["processes"])),
        "processes that ended": _number(moment["ended"]),
    }
    prefetches = moment["prefetches"]
    if prefetches is not None:
        now |= {f"prefetches {name}": _number(number) for name, number in prefetches.items()}
    tiers = [
        (
            one["tier"], "up" if one["up"] else "out", _number(one["lookups"]), _percent(one["hit_rate"]),
            _number(one["entries"]), _number(one["size"]), _number(one["size_limit"]),
            _number(one["evicted"]), _number(one["errors"]),
        )
        for one in moment["tiers"]
    ]  # fmt: skip
    processes = [
        (
            one["program"], str(one["pid"]), _number(one["requests"]), _percent(one["hit_rate"]),
            _number(one["loads"]), _number(one["size"]), one["status"],
        )
        for one in moment["processes"]
    ]  # fmt: skip
    return reasons + "".join([
        _table(f"Health: {moment['status']}", ("", "now"), list(now.items())),
        _table(
            "Tiers",
            ("", "state", "lookups/s", "hit rate", "entries", "bytes", "limit", "evicted/s", "errors/s"),
            tiers,
        ),
        _table(
            "Processes",
            ("", "pid", "requests/s", "hit rate", "loads/s", "memory in bytes", "health"), processes,
        ),
        *[
            _table(
                f"Memory of {_number(one['size'])} {one['unit']}, at other sizes",
                (one["unit"], "hit rate", "give or take"),
                [
                    (_number(other["size"]), _percent(other["rate"]), _percent(other["plus_minus"]))
                    for other in one["rates"]
                ],
            )
            for one in moment["sizes"]
        ],
    ])  # fmt: skip


def _table(caption: str, header: tuple[str, ...], rows: list[Any]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<section class="wide"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section>"
    )


def _number(number: float | None) -> str:
    return (
        "-"
        if number is None
        else f"{number:,.0f}"
        if number >= 10 or number == int(number)
        else f"{number:.1f}"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
