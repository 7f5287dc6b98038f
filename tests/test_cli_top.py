"""`cachekit top`: figures once, in lines, and in a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from workers import Worker
from workers import runtime as runtime

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.cli import main
from cachekit.cli.display import PlainDisplay
from cachekit.cli.top import line, screen, show, sparkline
from cachekit.monitoring.families import PARTS
from cachekit.monitoring.rates import Rates, hit_rate, quantile
from cachekit.monitoring.reading import HostReader, SharedFigures
from cachekit.monitoring.record import OtherSize, Process, Reason, Sizes

HOSTILE = "<img onerror=alert(1)>[bold]:cat:\x1b[31m\n"


def process(counters: dict[str, float], **more: object) -> Process:
    fields: dict[str, object] = {
        "id": "0" * 32, "program": "shop.py", "host": "here", "pid": 7, "started": 0.0,
        "written": 0.0, "caches": 1,
        "counters": counters, "gauges": {"size/memory": 2048.0}, "status": "healthy", "reasons": (),
    }  # fmt: skip
    return Process(**fields | more)  # type: ignore[arg-type]


def host(*processes: Process) -> SharedFigures:
    return SharedFigures({}, {}, processes, 0)


def rates_of(*reads: SharedFigures) -> Rates:
    rates = Rates()
    for figures in reads:
        rates.update(figures, max([one.written for one in figures.processes], default=0.0))
    return rates


def drawn(*reads: SharedFigures, width: int = 160, path: str = "/dir") -> str:
    console = Console(width=width, file=open(os.devnull, "w"), record=True)  # noqa: SIM115  # closed below
    console.print(screen(reads[-1], rates_of(*reads), [(1.0, 0.5), (2.0, 1.0)], path))
    console.file.close()
    return console.export_text()


def test_once_prints_what_get_stats_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with IntelligentCache(MemoryCache(max_bytes=1 << 20), file_cache=FileCache(tmp_path, 1)) as cache:
        for number in range(1234):
            cache.get_or_set(str(number % 700), lambda: 1)
        assert main(["top", "--once", str(tmp_path)]) == 0
        stats = cache.get_stats()
    text = capsys.readouterr().out
    both = stats["combined"]
    row = re.search(r"^  all +(\S+) +(\S+) +(\S+) +(\S+) +0 ", text, re.MULTILINE)
    assert row is not None, text
    assert row.groups() == (
        f"{both.requests:,}", f"{both.request_hits:,}", f"{both.request_hit_rate:.1%}", f"{both.loads:,}",
    )  # fmt: skip
    for tier in ("memory", "file"):
        one = stats[tier]
        assert re.search(
            rf"^  {tier} +{one.requests:,} +{one.hits:,} +{one.hit_rate:.1%} .* {one.size:,} ",
            text,
            re.MULTILINE,
        ), text
    assert f" {os.getpid()} " in text


def test_lines_without_a_terminal(tmp_path: Path) -> None:
    """One each interval, until Ctrl-C; a closed pipe ends it quietly."""
    worker = Worker(tmp_path, "w")
    command = [sys.executable, "-m", "cachekit", "top", str(tmp_path), "--interval", "0.1"]
    top = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert top.stdout is not None
    first = top.stdout.readline()
    while "  1 process  " not in first:  # a busy machine takes longer to publish
        first = top.stdout.readline()
    assert re.match(r"\d\d:\d\d:\d\d  requests 0/s  hit rate -  loads 0/s  p99 -  memory ", first), first
    assert first.endswith("  1 process  healthy\n")
    worker.do("load 50")
    while "loads 0/s" in top.stdout.readline():
        pass
    top.send_signal(signal.SIGINT)
    assert top.communicate(timeout=60)[1] == "interrupted\n"
    assert top.returncode == 130
    worker.end()


def test_a_terminal_without_input(tmp_path: Path) -> None:
    """A closed stdin has no keys; Ctrl-C ends it."""
    FileCache(tmp_path, 1).close()
    own, other = pty.openpty()
    command = [sys.executable, "-m", "cachekit", "top", str(tmp_path)]
    top = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command],
        stdout=other, stderr=subprocess.PIPE, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(other)
    seen = b""
    with contextlib.suppress(OSError):  # the terminal is closed at the other side
        while b"q quits" not in seen:
            seen += os.read(own, 4096)
        top.send_signal(signal.SIGINT)
        while os.read(own, 4096):
            pass
    os.close(own)
    assert top.communicate(timeout=60)[1] == b"interrupted\n"


def test_in_a_terminal(tmp_path: Path) -> None:
    """It draws a screen, and `q` ends it; an arrow key does not, which begins with an escape."""
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path, 1)):
        own, other = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "50"}
        command = [sys.executable, "-m", "cachekit", "top", str(tmp_path)]
        top = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=environment)
        os.close(other)
        seen = b""
        while b"q quits" not in seen:
            seen += os.read(own, 4096)
        assert b"memory" in seen
        os.write(own, b"\x1b[A")
        seen = b""
        while b"q quits" not in seen:
            seen += os.read(own, 4096)
        os.write(own, b"q")
        try:
            while os.read(own, 4096):
                pass
        except OSError:  # the terminal is closed at the other side
            pass
        assert top.wait(60) == 0
        os.close(own)


def test_a_screen() -> None:
    """Rates are those between two records; what is wrong has its remedy; an outage shows."""
    before = {"requests/hit": 100.0, "requests/miss": 100.0, "lookups/file/hit": 5.0, "sets/file": 1.0}
    now = before | {"requests/hit": 190.0, "requests/miss": 110.0, "lookups/file/hit": 25.0}
    reason = Reason("critical", "file", "the file tier has been out for 400 s", "check its disk")
    last = process(now, written=2.0, status="critical", reasons=(reason, reason))
    gauges = {"entries/file": 12345.0, "size/file": 3e6, "tier.up/file": 0.0,
              "tier.pending_invalidations/file": 3.0}  # fmt: skip
    text = drawn(SharedFigures({}, {}, (process(before),), 2), SharedFigures({}, gauges, (last,), 2))
    assert "50/s" in text
    assert "90.0%" in text
    assert "12,345" in text
    assert "OUT, 3 pending" in text
    assert "critical: the file tier has been out for 400 s: check its disk (and 1 more)" in text
    assert "1 process, 2 ended" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_a_narrow_terminal_shows_fewer_columns(width: int) -> None:
    """Each that it shows is whole: a number without its end would be wrong."""
    counters = {"requests/hit": 12345.0, "lookups/memory/hit": 54321.0}
    gauges = {f"{name}/{tier}": 1234567.0 for name in ("entries", "size", "size.limit")
              for tier in ("memory", "file")} | {"tier.up/file": 0.0}  # fmt: skip
    sizes = Sizes(1000, "entries", 5e6, (OtherSize(1000, 0.5, 0.01), OtherSize(10_000, 0.5, 0.01)))
    read = SharedFigures(counters, gauges, (process(counters, sizes=(sizes,)),), 0)
    wide, narrow = drawn(read, width=200), drawn(read, width=width)
    assert "…" not in narrow
    for row in ("memory", "file"):
        assert re.search(rf"^\s*{row}\b", narrow, re.MULTILINE), "each row says what it is of"
    assert "lookups" in narrow
    assert "OUT" in narrow
    assert "health" in narrow
    known = set(re.split(r"\s{2,}|\n", wide))
    for row in narrow.splitlines()[1:]:
        for cell in filter(None, re.split(r"\s{2,}", row.strip())):
            assert cell in known or cell in wide, cell
    if width >= 80:
        assert "hit rate" in narrow
        assert "limit" in wide
    assert ("invalidated" in narrow) is (width >= 120)


def test_rates_are_those_of_records() -> None:
    """Reads between two records change nothing, and a process that does not publish any more is idle."""
    first, second = process({"sets/file": 1.0}), process({"sets/file": 7.0}, written=2.0)
    rates = rates_of(host(first), host(first), host(second), host(second))
    assert rates.of_all() == {"sets/file": 3.0}
    rates.update(host(second), 100.0)
    assert rates.of_all() == {}
    rates.update(host(), 100.0)
    assert rates.of_all() == {}


def test_rates_of_a_host_whose_clock_is_late() -> None:
    """How old a record is goes by the clock of the reader, from when it came."""
    rates = Rates()
    for second in range(3):
        rates.update(host(process({"requests/hit": 10.0 * second}, written=1000.0 + second)), 5000.0 + second)
    assert rates.of("0" * 32) == {"requests/hit": 10.0}
    rates.update(host(process({"requests/hit": 20.0}, written=1002.0)), 5008.0)
    assert rates.of("0" * 32) == {}


def test_nothing_yet() -> None:
    assert "No process has a cache here yet." in drawn(host())
    assert "requests 0/s  hit rate -" in line(host(), rates_of(host()))


def test_what_other_processes_say_is_text() -> None:
    """Neither markup nor control characters of a name reach the terminal."""
    reason = Reason("warning", "memory", HOSTILE, HOSTILE)
    text = drawn(host(process({}, program=HOSTILE, reasons=(reason,), status="warning")), width=300)
    assert r"<img onerror=alert(1)>[bold]:cat:\x1b[31m\n" in text
    assert "\x1b" not in text
    assert r"/\x1b]0;PWN\x07x" in drawn(host(), path="/\x1b]0;PWN\x07x")


def test_many_processes_are_cut() -> None:
    assert "and 24 more processes" in drawn(host(*[process({}, id=f"{number:032}") for number in range(64)]))
    assert "and 1 more process\n" in re.sub(" +\n", "\n", drawn(host(*[process({})] * 41)))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["{tmp}/missing"], "is not a directory"), (["{tmp}"], "is not a cache directory")],
)
def test_what_cannot_be_watched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main(["top", *[one.format(tmp=tmp_path) for one in arguments]]) == 1
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("interval", ["0", "nan", "inf", "soon", "-1"])
def test_wrong_intervals(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["top", f"--interval={interval}"])
    assert "must be a number of seconds from 0.1 to 3600" in capsys.readouterr().err


def test_caches_without_files(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a directory it finds the programs of this user."""
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        cache.set("k", 1)
        HostReader().begin()
        cache._watches[0].look()
        assert main(["top", "--once"]) == 0
    assert f" {os.getpid()} " in capsys.readouterr().out


def test_sparklines() -> None:
    assert sparkline([0, 5, 10], 10.0) == "▁▅█"
    assert sparkline([0, 0], 0.0) == "▁▁"


def test_shares_and_quantiles() -> None:
    counters = dict.fromkeys([f"load.duration/{part}" for part in PARTS], 0.0)
    assert quantile(counters, "load.duration", 0.5) is None
    counters |= {"load.duration/0": 50.0, "load.duration/3": 49.0, "load.duration/14": 1.0}
    assert quantile(counters, "load.duration", 0.5) == pytest.approx(1.28e-6)
    assert quantile(counters, "load.duration", 0.99) == pytest.approx(1.28e-6 * 64)
    assert quantile(counters, "load.duration", 1.0) == float("inf")
    assert hit_rate({"requests/hit": 1.0, "requests/miss": 3.0}, "requests") == 0.25
    assert hit_rate({}, "requests") is None


def test_other_sizes_and_prefetches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rates of half, twice and ten times the size beside the one as it is."""
    rates = ((500.0, 0.52, 0.011), (1000.0, 0.61, 0.0), (2000.0, 0.69, 0.009), (10_000.0, 0.83, 0.01))
    sizes = Sizes(1000.0, "entries", 4321.0, tuple(OtherSize(*one) for one in rates))
    in_bytes = Sizes(3.0 * 2**20, "bytes", 7.0, (OtherSize(3.0 * 2**20, 0.4, 0.0),))
    counters = {"prefetches/begun": 9.0, "prefetches/hit": 7.0, "prefetches/wasted": 2.0}
    one = process(counters, sizes=(sizes, in_bytes))
    for text in (drawn(SharedFigures(counters, {}, (one,), 0)), shown_once(counters, one, capsys)):
        assert re.search(r"1,000 +4,321 +52\.0% \+- 1\.1 +61\.0% +69\.0% \+- 0\.9 +83\.0% \+- 1\.0", text), (
            text
        )
        assert re.search(r"3\.0 MiB +7 +- +40\.0% +- +-", text), text
        assert re.search(r"prefetches +\S+  used \S+  late \S+  wasted \S+", text), text
    assert "9  used 7  late 0  wasted 2" in text
    assert "other sizes" not in shown_once({}, process({}), capsys)
    assert "prefetches" not in drawn(host(process({})))


def shown_once(counters: dict[str, float], one: Process, capsys: pytest.CaptureFixture[str]) -> str:
    show(PlainDisplay(sys.stdout), SharedFigures(counters, {}, (one,), 0), "/dir")
    return capsys.readouterr().out
