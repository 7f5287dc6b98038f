"""`progress=True`: a bar on a terminal, one line anywhere else, and no trouble for what it tells of."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import TextIO

import pytest

from cachekit import IntelligentCache, MemoryCache, aio
from cachekit.loading.progress import ProgressBar, progress_for
from cachekit.testing import ManualClock


class Terminal(io.StringIO):
    """Says that it is one, and counts what is written to it."""

    writes = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)

    @property
    def lines(self) -> list[str]:
        """What can be read in the end: of each line what was drawn last."""
        return [line.rpartition("\r")[2].rstrip() for line in self.getvalue().split("\n")]


@pytest.fixture(autouse=True)
def an_ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def cache() -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), None, None) as made:
        yield made


def test_a_bar_moves() -> None:
    """Share, figures, time taken, and time left at the pace of until now; at last what came of it."""
    terminal, clock = Terminal(), ManualClock()
    bar = ProgressBar("warming", 2_000, terminal, clock.monotonic)
    assert terminal.lines == [f"warming  [{'.' * 39}]   0%  0 of 2,000 keys  0.0 s"]
    clock.advance(2)
    bar.update(500)
    assert terminal.lines == [f"warming  [{'#' * 6}{'.' * 19}]  25%  500 of 2,000 keys  2.0 s, 6.0 s left"]
    clock.advance(3598)
    bar.update(1_000)
    assert terminal.lines[0].endswith("50%  1,000 of 2,000 keys  1:00:00 h, 1:00:00 h left")
    clock.advance(90)
    bar.end("all is well")
    assert terminal.lines == ["warming  all is well, 1:01:30 h", ""]


def test_nothing_of_a_longer_line_stays() -> None:
    """What is drawn over it covers it."""
    terminal, clock = Terminal(), ManualClock()
    bar = ProgressBar("warming", 2, terminal, clock.monotonic)
    before = len(terminal.lines[0])
    bar.end("short")
    assert len(terminal.getvalue().rpartition("\r")[2].rstrip("\n")) == before


def test_it_is_drawn_ten_times_a_second() -> None:
    """However many are done meanwhile; and it asks to be drawn while nothing is."""
    terminal, clock = Terminal(), ManualClock()
    bar = ProgressBar("warming", 1_000_000, terminal, clock.monotonic)
    for done in range(10_000):
        bar.update(done)
        clock.advance(0.000_05)
    assert 5 <= terminal.writes <= 7
    assert bar.patience == 0.1
    clock.advance(60)
    bar.draw()
    assert "  1:00 min, " in terminal.lines[0]


def test_it_stays_on_one_line(subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal of any width."""
    rows: list[int] = [1, 20, 30, 80, 200]
    for narrow in rows:
        with subtests.test(narrow=narrow):
            monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((narrow, 24)))  # noqa: B023
            monkeypatch.setattr(Terminal, "fileno", lambda _: 2)
            terminal = Terminal()
            bar = ProgressBar("warming", 1_000, terminal)
            bar.update(10)
            bar.draw()
            bar.end("a" * 100)
            assert max(len(line) for line in terminal.getvalue().replace("\n", "\r").split("\r")) <= max(
                narrow - 1, 1
            )


def test_a_log_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does a terminal that cannot move its cursor."""
    stream, clock = io.StringIO(), ManualClock()
    monkeypatch.setenv("TERM", "dumb")
    dumb = Terminal()
    for shown in (stream, dumb):
        bar = ProgressBar("warming", 3, shown, clock.monotonic)
        for done in (1, 2, 3):
            clock.advance(1)
            bar.update(done)
        assert bar.patience is None
        bar.draw()
        assert shown.getvalue() == ""
        bar.end("3 keys")
        assert shown.getvalue() == "warming  3 keys, 3.0 s\n"


class Broken(Terminal):
    """Its reader is gone."""

    def write(self, text: str) -> int:
        self.writes += 1
        raise BrokenPipeError


@pytest.mark.parametrize("closed", [True, False])
def test_a_stream_that_is_gone_is_no_error(closed: bool, cache: IntelligentCache) -> None:
    """Nothing is shown, and the work goes on."""
    broken = Broken()
    streams: list[TextIO | None] = [broken, None]
    if closed:
        gone = Terminal()
        gone.close()
        streams = [gone]
    for stream in streams:
        bar = ProgressBar("warming", 2, stream)
        bar.update(1)
        bar.draw()
        bar.end("done")
    assert broken.writes <= 1


class OnlyWritten:
    """As a logger stands in for stderr: of a stream it has this alone."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


class WithoutNumber(OnlyWritten):
    """A terminal of a widget's."""

    def isatty(self) -> bool:
        return True


class Failing(Terminal):
    """Of a library that has errors of its own."""

    def write(self, text: str) -> int:
        raise RuntimeError(text)


def test_a_stand_in_for_a_stream_is_no_error(
    subtests: pytest.Subtests, cache: IntelligentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in for stderr need not be a file: it gets what it can take."""
    rows: list[type] = [OnlyWritten, WithoutNumber, Failing]
    for kind in rows:
        with subtests.test(kind=kind):
            cache.clear()
            stand_in = kind()
            monkeypatch.setattr(sys, "stderr", stand_in)
            report = cache.warm_cache(["a", "b"], str.upper, progress=True)
            assert report.loaded == ["a", "b"]
            if isinstance(stand_in, OnlyWritten):
                assert "warming  2 keys: 2 loaded, 0 fresh, 0 failed" in stand_in.text


def warm(cache: IntelligentCache, awaited: bool, **more: object) -> object:
    """Warm four keys, of which one is fresh and one fails."""
    cache.set("a", 1)
    keys = {"a": 1, "b": 2, "c": 3}.__getitem__
    if awaited:
        return asyncio.run(aio.IntelligentCache.of(cache).warm_cache(list("abcd"), keys, **more))  # type: ignore[arg-type]
    return cache.warm_cache(list("abcd"), keys, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("awaited", [False, True])
class TestWarming:
    def test_on_a_terminal(
        self, cache: IntelligentCache, awaited: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`progress=True` shows a bar, and in the end what came of the keys."""
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        warm(cache, awaited, progress=True)
        assert "[....." in terminal.getvalue()
        assert re.match(r"warming  4 keys: 2 loaded, 1 fresh, 1 failed, \d", terminal.lines[0])
        assert terminal.lines[1:] == [""]

    def test_in_a_log(
        self, cache: IntelligentCache, awaited: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One line; and none without being asked."""
        for quiet in (None, False, lambda *_: None):
            warm(cache, awaited, progress=quiet)
        assert capsys.readouterr() == ("", "")
        cache.clear()
        warm(cache, awaited, progress=True)
        said = capsys.readouterr().err
        assert re.match(r"warming  4 keys: 2 loaded, 1 fresh, 1 failed, \d", said)
        assert said.count("\n") == 1

    def test_what_it_cannot_be(self, cache: IntelligentCache, awaited: bool) -> None:
        """Neither a word nor a number, and nothing is loaded then."""
        for wrong in ("yes", 1, 0, [], object()):
            with pytest.raises(
                TypeError, match="progress must be True, for a display on stderr, or a function"
            ):
                warm(cache, awaited, progress=wrong)
        assert "b" not in cache

    def test_while_nothing_is_done(
        self, cache: IntelligentCache, awaited: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A loader that takes its time is seen to."""
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)

        def load(key: str) -> str:
            seen = terminal.writes
            while terminal.writes < seen + 3:
                os.sched_yield()
            return key

        if awaited:
            asyncio.run(aio.IntelligentCache.of(cache).warm_cache(["k"], load, progress=True))
        else:
            cache.warm_cache(["k"], load, progress=True)
        assert terminal.getvalue().count("0 of 1 keys") >= 3


PROGRAM = """
import asyncio, os, signal, sys, threading
from cachekit import IntelligentCache, MemoryCache, aio

cache = IntelligentCache(MemoryCache(), None, None)
released = threading.Event()

def load(key):
    if key == "k2":
        os.kill(os.getpid(), signal.SIGINT)
        released.wait(60)
    return key

keys = [f"k{number}" for number in range(100)]
try:
    if sys.argv[1] == "awaited":
        facade = aio.IntelligentCache.of(cache)
        asyncio.run(facade.warm_cache(keys, load, concurrency=1, progress=True))
    else:
        threading.Thread(target=lambda: sys.stdin.readline() and released.set(), daemon=True).start()
        cache.warm_cache(keys, load, concurrency=1, progress=True)
except KeyboardInterrupt:
    print("interrupted", "k3" in cache, file=sys.stderr)
    released.set()
"""


@pytest.mark.parametrize("way", ["threads", "awaited"])
def test_ctrl_c_ends_the_line(way: str) -> None:
    """On a real terminal: the line says how far it came, and no further load is begun."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), way],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    received = b""
    try:
        while b"broken off" not in received:
            received += os.read(ours, 65536)
        if way == "threads":  # a load that is under way is waited for
            assert program.stdin is not None
            program.stdin.write(b"go on\n")
            program.stdin.flush()
        while not re.search(rb"interrupted \w+\r?\n", received):
            received += os.read(ours, 65536)
        assert program.wait(60) == 0
    finally:
        program.kill()
        program.wait()
        assert program.stdin is not None
        program.stdin.close()
        os.close(ours)
    shown = [
        line.rpartition("\r")[2].rstrip() for line in received.decode().replace("\r\n", "\n").split("\n")
    ]
    assert re.fullmatch(r"warming  broken off after [012] of 100 keys, \d+\.\d s", shown[0])
    assert shown[1] == "interrupted False"


def test_a_callback_that_fails_is_the_callers() -> None:
    """Its error is not swallowed, as a display's would be."""
    with pytest.raises(ZeroDivisionError):
        progress_for(lambda done, total: 1 / 0, "warming", 3).update(1)
