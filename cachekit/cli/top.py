"""`cachekit top [DIR|URL]`: what the caches of all processes do now, in a terminal.

Without a terminal, or without rich, it prints one line every interval.
"""

from __future__ import annotations

import math
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from cachekit.cli.directory import DirectoryError, refuse, size
from cachekit.cli.directory import counted as amount
from cachekit.cli.display import Display, RichDisplay
from cachekit.cli.watched import reader_of
from cachekit.errors import CacheError
from cachekit.model.display import escaped
from cachekit.monitoring.families import HIT_DURATIONS, TIERS
from cachekit.monitoring.rates import Rates, hit_rate, quantile, total
from cachekit.monitoring.reading import SharedFigures
from cachekit.monitoring.record import Process
from cachekit.monitoring.snapshot import Numbers

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

    from cachekit.monitoring.reading import FiguresReader

_WATCHED: Final = 10.0  # seconds that the processes go on publishing
_KEPT: Final = 60  # points of a sparkline
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = {"healthy": "green", "warning": "yellow", "critical": "bold red"}
_SHOWN: Final = 40  # the most processes in a terminal
_NONE: Final = "-"
_SENT: Final = 64  # the most bytes of keys that are read at a time
_ESCAPE: Final = b"\x1b"  # what an arrow key sends begins with it
_WIDEST: Final = 100_000  # columns of characters in a table


class Plan(NamedTuple):
    """The options of the command."""

    place: str | None  #: a directory, or the URL of a server
    prefix: str | None
    once: bool
    interval: float


def run(plan: Plan, display: Display) -> int:
    """Show the figures until Ctrl-C or `q`, or once; return 1 if they cannot be read."""
    try:
        with _reading():
            reader = reader_of(plan.place, plan.prefix, _WATCHED)
        if plan.once:
            show(display, _read(reader), reader.place)
        elif isinstance(display, RichDisplay):
            _live(display, reader, plan.interval)
        else:
            _lines(display, reader, plan.interval)
    except (CacheError, DirectoryError) as error:
        return refuse(error)
    return 0


def _read(reader: FiguresReader) -> SharedFigures:
    with _reading():
        return reader.read()


@contextmanager
def _reading() -> Iterator[None]:
    """Tell an error of the system from one of the output, which `main` reports."""
    try:
        yield
    except OSError as error:
        raise DirectoryError(f"the figures cannot be read: {error.strerror or error}") from error


# -- once -----------------------------------------------------------------------------------------------


def show(display: Display, figures: SharedFigures, path: str) -> None:
    """Show all figures since the beginning as tables."""
    counters = figures.counters
    display.line(f"{path}: {_processes(figures)}")
    display.table(
        "Requests",
        ("", "requests", "hits", "hit rate", "loads", "failed", "p50", "p99"),
        [
            (
                "all",
                _count(total(counters, "requests")),
                _count(counters.get("requests/hit", 0)),
                _share(hit_rate(counters, "requests")),
                _count(total(counters, "loads")),
                _count(counters.get("loads/error", 0)),
                _duration(quantile(counters, "load.duration", 0.5)),
                _duration(quantile(counters, "load.duration", 0.99)),
            )
        ],
    )
    display.table("Tiers", _TIER_HEADER, _tier_rows(figures, counters, _count))
    sizes = _size_rows(figures)
    if sizes:
        display.table("Hit rate of memory at other sizes", _SIZE_HEADER, sizes)
    if total(counters, "prefetches"):
        display.line(_prefetches(counters, _count))
    if figures.processes:
        named = zip(figures.processes, figures.names(), strict=True)
        rows = [_process_row(one, name, one.counters, _count) for one, name in named]
        display.table("Processes", _PROCESS_HEADER, rows)
    for line in _reasons(figures):
        display.line(line)


_TIER_HEADER: Final = (
    "", "lookups", "hits", "hit rate", "p50", "p99", "entries", "size", "limit", "evicted", "expired",
    "invalidated", "errors", "state",
)  # fmt: skip
_PROCESS_HEADER: Final = (
    "", "pid", "requests", "hit rate", "loads", "memory", "caches", "age", "seen", "health",
)  # fmt: skip
#: The columns that a narrow terminal does without, the first ones first.
_DISPENSABLE: Final = (
    "p50", "p99", "invalidated", "expired", "limit", "evicted", "seen", "age", "pid", "caches", "errors",
    "hits", "entries", "half", "ten times", "memory", "loads", "size", "twice", "hit rate",
)  # fmt: skip


def _tier_rows(
    figures: SharedFigures, counted: Numbers, shown: Callable[[float], str]
) -> list[tuple[str, ...]]:
    """Return a row for each tier."""
    rows: list[tuple[str, ...]] = []
    for tier in TIERS:
        if not figures.has(tier):
            continue
        gauges, duration = figures.gauges, HIT_DURATIONS[tier]
        counts = [
            total(counted, "lookups", tier),
            counted.get(f"lookups/{tier}/hit", 0),
            *[
                counted.get(f"removals/{tier}/{cause}", 0)
                for cause in ("eviction", "expiration", "invalidation")
            ],
            counted.get(f"errors/{tier}", 0),
        ]
        lookups, hits, evicted, expired, invalidated, errors = map(shown, counts)
        pending = gauges.get(f"tier.pending_invalidations/{tier}", 0)
        is_up = gauges.get(f"tier.up/{tier}", 1)
        state = "up" if is_up else f"OUT, {pending:.0f} pending" if pending else "OUT"
        rows.append((
            tier, lookups, hits, _share(hit_rate(counted, "lookups", tier)),
            _duration(quantile(counted, duration, 0.5)), _duration(quantile(counted, duration, 0.99)),
            _gauge(gauges.get(f"entries/{tier}"), _count),
            _gauge(gauges.get(f"size/{tier}"), size), _gauge(gauges.get(f"size.limit/{tier}"), size),
            evicted, expired, invalidated, errors, state,
        ))  # fmt: skip
    return rows


_SIZE_HEADER: Final = ("size", "lookups", "half", "as it is", "twice", "ten times")
_FACTORS: Final = (0.5, 1, 2, 10)


def _size_rows(figures: SharedFigures) -> list[tuple[str, ...]]:
    """Return a row for each size of a memory tier: the hit rates that it would have at others."""
    rows = []
    for one in figures.sizes():
        rates = {other.size / one.size: other for other in one.rates}
        near = [next((rates[at] for at in rates if abs(at - factor) <= 0.1), None) for factor in _FACTORS]
        cells = [
            _NONE if other is None
            else _share(other.rate) + (f" +- {100 * other.plus_minus:.1f}" if other.size != one.size else "")
            for other in near
        ]  # fmt: skip
        rows.append((
            _count(one.size) if one.unit == "entries" else size(one.size), _count(one.requests), *cells
        ))  # fmt: skip
    return rows


def _prefetches(counted: Numbers, shown: Callable[[float], str]) -> str:
    numbers = [shown(counted.get(f"prefetches/{name}", 0)) for name in ("begun", "hit", "late", "wasted")]
    return "prefetches {:>10}  used {}  late {}  wasted {}".format(*numbers)


def _process_row(
    process: Process, name: str, counted: Numbers, shown: Callable[[float], str]
) -> tuple[str, ...]:
    now = time.time()
    return (
        escaped(name), str(process.pid), shown(total(counted, "requests")),
        _share(hit_rate(counted, "requests")), shown(total(counted, "loads")),
        _gauge(process.gauges.get("size/memory"), size), str(process.caches), _span(now - process.started),
        f"{_span(now - process.written)} ago", process.status,
    )  # fmt: skip


def _processes(figures: SharedFigures) -> str:
    ended = f", {figures.ended:,} ended" if figures.ended else ""
    return f"{amount(len(figures.processes), 'process')}{ended}"


def _reasons(figures: SharedFigures) -> list[str]:
    """Return what is wrong, each thing once, with its remedy."""
    found: dict[tuple[str, str], list[str]] = {}
    for process in figures.processes:
        for reason in process.reasons:
            found.setdefault((reason.status, reason.tier), []).append(f"{reason.message}: {reason.remedy}")
    return [
        escaped(f"{status}: {first}") + (f" (and {len(others)} more)" if others else "")
        for (status, _), (first, *others) in sorted(found.items())
    ]


# -- one line every interval ----------------------------------------------------------------------------


def _lines(display: Display, reader: FiguresReader, interval: float) -> None:
    rates = Rates()
    rates.update(_read(reader), time.time())
    while True:
        time.sleep(interval)
        figures = _read(reader)
        rates.update(figures, time.time())
        display.line(line(figures, rates))


def line(figures: SharedFigures, rates: Rates) -> str:
    """Return what happens in one line."""
    counted = rates.of_all()
    parts = [
        time.strftime("%H:%M:%S"),
        f"requests {_rate(total(counted, 'requests'))}",
        f"hit rate {_share(hit_rate(counted, 'requests'))}",
        f"loads {_rate(total(counted, 'loads'))}",
        f"p99 {_duration(quantile(counted, 'load.duration', 0.99))}",
    ]
    for tier in TIERS:
        if f"size/{tier}" in figures.gauges:
            out = "" if figures.gauges.get(f"tier.up/{tier}", 1) else " OUT"
            parts.append(f"{tier} {size(figures.gauges[f'size/{tier}'])}{out}")
    return "  ".join([*parts, _processes(figures), figures.status])


# -- in a terminal --------------------------------------------------------------------------------------


def _live(display: RichDisplay, reader: FiguresReader, interval: float) -> None:
    from rich.live import Live

    rates = Rates()
    history: deque[tuple[float, float]] = deque(maxlen=_KEPT)
    with _keys() as pressed, Live(console=display.console, screen=True, auto_refresh=False) as live:
        while True:
            figures = _read(reader)
            rates.update(figures, time.time())
            counted = rates.of_all()
            history.append((total(counted, "requests"), hit_rate(counted, "requests") or 0.0))
            live.update(screen(figures, rates, history, reader.place), refresh=True)
            sent = pressed(interval)
            if b"q" in sent.lower() and not sent.startswith(_ESCAPE):
                return


def screen(
    figures: SharedFigures, rates: Rates, history: Sequence[tuple[float, float]], path: str
) -> RenderableType:
    """Return what a terminal shows.

    Args:
        figures: what was read last.
        rates: the counts per second.
        history: requests per second and hit rates, the newest ones last.
        path: the directory.
    """
    from rich.console import Group
    from rich.text import Text

    counted = rates.of_all()
    head = Text.assemble(
        ("cachekit top  ", "bold"),
        (figures.status, _COLOURS[figures.status]),
        f"  {_processes(figures)}  ",
        (escaped(path), "dim"),
    )
    most = max([requests for requests, _ in history], default=0.0)
    lines = [
        Text.assemble(
            "requests ", (f"{_rate(total(counted, 'requests')):>12}", "bold"), "  ",
            (sparkline([requests for requests, _ in history], most), "cyan"),
            (f"  most {most:,.0f}/s" if most else "", "dim"),
        ),
        Text.assemble(
            "hit rate ", (f"{_share(hit_rate(counted, 'requests')):>12}", "bold"), "  ",
            (sparkline([share for _, share in history], 1.0), "green"),
        ),
        Text.assemble(
            "loads    ", (f"{_rate(total(counted, 'loads')):>12}", "bold"),
            f"  p50 {_duration(quantile(counted, 'load.duration', 0.5))}",
            f"  p99 {_duration(quantile(counted, 'load.duration', 0.99))}",
            f"  failed {_rate(counted.get('loads/error', 0))}",
        ),
        *([Text(_prefetches(counted, _rate))] if total(figures.counters, "prefetches") else []),
    ]  # fmt: skip
    reasons = [
        Text(reason, style=_COLOURS["critical" if reason.startswith("critical") else "warning"])
        for reason in _reasons(figures)
    ]
    shown = list(zip(figures.processes, figures.names(), strict=True))[:_SHOWN]
    more = len(figures.processes) - len(shown)
    sizes = _size_rows(figures)
    processes = [_process_row(one, name, rates.of(one.id), _rate) for one, name in shown]
    rest = [Text(f"and {amount(more, 'more process')}", style="dim")] if more else []
    nothing = [Text("No process has a cache here yet.", style="dim")] if not shown else []
    return Group(
        head, Text(), *lines, *reasons, Text(),
        _table(_TIER_HEADER, _tier_rows(figures, counted, _rate)), Text(),
        *([_table(_SIZE_HEADER, sizes), Text()] if sizes else []),
        *([_table(_PROCESS_HEADER, processes)] if processes else []), *nothing, *rest, Text(),
        Text("q quits", style="dim"),
    )  # fmt: skip


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    return _Table(header, rows)


class _Table:
    """A table that leaves columns out on a narrow terminal, so that the others are whole."""

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._header = header
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.measure import Measurement

        unlimited = options.update(width=_WIDEST)
        shown = list(range(len(self._header)))
        given_up = iter(_DISPENSABLE)
        while True:
            table = _drawn(
                [self._header[at] for at in shown], [[row[at] for at in shown] for row in self._rows]
            )
            if Measurement.get(console, unlimited, table).maximum <= options.max_width:
                break
            name = next(given_up, None)
            if name is None:
                break
            shown = [at for at in shown if not at or self._header[at] != name]
        yield table


def _drawn(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        style = _COLOURS.get(row[-1], "bold red" if row[-1].startswith("OUT") else "")
        cells = [Text(cell) for cell in row]
        cells[0].stylize("cyan")
        cells[-1].stylize(style)
        table.add_row(*cells)
    return table


def sparkline(values: Sequence[float], most: float) -> str:
    """Return a line of blocks, the newest value last; `most` is a full block."""
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[min(top, round(top * value / most)) if most else 0] for value in values)


@contextmanager
def _keys() -> Iterator[Callable[[float], bytes]]:
    """Yield a function that waits so many seconds for keys, and returns what they send, or nothing."""
    if sys.stdin is None or not sys.stdin.isatty():  # None: the parent process closed it
        yield _sleep
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(seconds: float) -> bytes:
        ready, _, _ = select.select([fd], [], [], seconds)
        return os.read(fd, _SENT) if ready else b""

    tty.setcbreak(fd)
    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> bytes:
    time.sleep(seconds)
    return b""


# -- numbers --------------------------------------------------------------------------------------------


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.1f}/s"


def _share(share: float | None) -> str:
    return _NONE if share is None else f"{share:.1%}"


def _gauge(number: float | None, shown: Callable[[float], str]) -> str:
    return _NONE if number is None else shown(number)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _NONE
    if math.isinf(seconds):
        return "over 86 s"
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _span(seconds: float) -> str:
    for unit, span in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * span:
            return f"{seconds / span:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
