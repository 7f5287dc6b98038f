"""The qualification qualifies this machine, and each of its checks finds a cache that breaks a promise."""

from __future__ import annotations

import gc
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachekit import IntelligentCache, MemoryCache
from cachekit.testing.history import Operation
from cachekit.testing.soak import Soak, SoakReport
from cachekit.testing.soak.__main__ import main, table
from cachekit.testing.soak.run import damage, expired, growth
from cachekit.testing.soak.stalls import StallWatch
from cachekit.testing.soak.worker import Figures, Kind

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def soak(kind: Kind, target: str | None = None, seconds: float = 0.6) -> SoakReport:
    with Soak(kind, target, seconds=seconds) as one:
        report = one.run()
        print("\n".join(table(kind, report, outages=one.makes_outages)))
        return report


def target_of(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> str | None:
    if kind == "redis":
        return str(request.getfixturevalue("redis_url"))
    return str(tmp_path) if kind == "disk" else None


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("memory", marks=pytest.mark.soak),
        "files",
        "redis",
        "asyncio",
        pytest.param("disk", marks=pytest.mark.soak),
    ],
)
def test_this_machine_is_qualified(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Nothing is left of it either."""
    report = soak(kind, target_of(kind, tmp_path, request))
    assert report.problems() == [], (report.wrong, report.tracebacks)
    assert report.checked > 100
    assert report.kills > 0
    assert report.growth is not None
    assert report.stall.seconds > 0
    assert report.loops > 0 or kind != "asyncio"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["memory", "files", "redis", "asyncio", "disk"])
def test_this_machine_is_qualified_in_minutes(
    kind: Kind, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    minutes = float(os.environ.get("CACHEKIT_SOAK_MINUTES", "2"))
    report = soak(kind, target_of(kind, tmp_path, request), 60 * minutes)
    assert report.problems() == [], (report.wrong, report.tracebacks)
    assert report.outages > 0 or kind != "redis"


# -- each check can fail --------------------------------------------------------------------------------

kept: list[Any] = []
get, set_ = IntelligentCache.get, IntelligentCache.set


def serves_older_values(self: IntelligentCache, key: str, *args: Any, **kwargs: Any) -> Any:
    value = get(self, key, *args, **kwargs)
    if value is not None:
        kept.append((key, value))
    older = [one for name, one in kept[:-20] if name == key]
    return older[0] if older else value


def serves_other_bytes(self: IntelligentCache, key: str, *args: Any, **kwargs: Any) -> Any:
    value = get(self, key, *args, **kwargs)
    return None if value is None else value.replace("|#", "|?")


def raises(self: IntelligentCache, key: str, *args: Any, **kwargs: Any) -> Any:
    raise OSError("no caller may get this")


def ends_the_process(self: IntelligentCache, key: str, *args: Any, **kwargs: Any) -> Any:
    os._exit(7)


def keeps_objects(self: IntelligentCache, key: str, *args: Any, **kwargs: Any) -> Any:
    kept.append([object() for _ in range(1_000)])
    return get(self, key, *args, **kwargs)


def keep_now_and_then(make: Callable[[], object]) -> None:
    """Keep one about once in a short round. If the first round kept the most, no later one would grow."""
    now = time.monotonic()
    if not kept or (now > kept[-1][0] + 0.04 and len(kept) < 500):
        kept.append((now, make()))


def keeps_bytes(self: IntelligentCache, key: str, *args: Any, **kwargs: Any) -> Any:
    keep_now_and_then(lambda: b"x" * 20_000_000)
    return get(self, key, *args, **kwargs)


def keeps_descriptors(self: IntelligentCache, key: str, *args: Any, **kwargs: Any) -> Any:
    keep_now_and_then(lambda: os.open(os.devnull, os.O_RDONLY))
    return get(self, key, *args, **kwargs)


def keeps_threads(self: IntelligentCache, key: str, *args: Any, **kwargs: Any) -> Any:
    keep_now_and_then(threading.Thread(target=threading.Event().wait, daemon=True).start)
    return get(self, key, *args, **kwargs)


SABOTAGE: list[tuple[Callable[..., Any], str]] = [
    (serves_older_values, "wrong answers"),
    (serves_other_bytes, "wrong answers"),
    (raises, "exceptions"),
    (ends_the_process, "exceptions"),
    (keeps_objects, "objects more"),
    (keeps_bytes, "bytes more"),
    (keeps_descriptors, "descriptors more"),
    (keeps_threads, "threads more"),
]


@pytest.mark.parametrize(("sabotage", "problem"), SABOTAGE)
def test_a_broken_promise_is_found(
    monkeypatch: pytest.MonkeyPatch, sabotage: Callable[..., Any], problem: str
) -> None:
    monkeypatch.setattr(IntelligentCache, "get", sabotage)
    for seconds in (0.3, 3, 20):  # longer where others keep the machine so busy that little was done
        found = soak("memory", seconds=seconds).problems()
        if any(problem in one for one in found):
            return
    raise AssertionError(found)


def test_copies_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that misses what another process wrote, after all work has ended."""
    from cachekit.testing.soak import worker

    def differs(self: IntelligentCache, key: str, *args: Any, **kwargs: Any) -> Any:
        return get(self, key, *args, **kwargs) if kwargs else "old"

    monkeypatch.setattr(worker, "_AGREEMENT", 0.0)
    monkeypatch.setattr(IntelligentCache, "get", differs)
    assert any("differs from the tier below" in one for one in soak("files", seconds=0.1).wrong)


def test_what_outlives_its_ttl_is_found() -> None:
    history = [
        Operation("k", True, b"1.1.1~100", 0.0, 1.0),
        Operation("k", False, b"1.1.1~100", 1.15, 1.2),
        Operation("k", True, b"1.1.2~100", 2.0, math.inf),  # it is not known when it was stored
        Operation("k", False, b"1.1.2~100", 9.0, 9.1),
    ]
    assert expired(history) == []
    history.append(Operation("k", False, b"1.1.1~100", 1.25, 1.3))
    assert expired(history) == ["'k': b'1.1.1~100' was read after it expired"]


def test_growth_is_that_between_the_first_rounds_and_the_last() -> None:
    """The very first round fills tables, and one round that holds more is no growth."""

    def figures(blocks: int) -> Figures:
        return Figures(blocks, None, None, 0, 1)

    rounds = [(1_000 * at, figures(blocks)) for at, blocks in enumerate([10, 500, 510, 900, 505, 520])]
    found = growth(rounds, 0)
    assert found is not None
    assert (found.operations, found.blocks, found.resident) == (3_000, 5, None)
    assert growth(rounds[:5], 0) is None


@pytest.mark.parametrize(("tables", "is_found"), [(0, True), (20_480, False)])
def test_a_table_that_is_emptied_when_full_is_no_growth(tables: int, is_found: bool) -> None:
    """What it may take is allowed, and not a block more."""
    slack = tables + 5_000 + 0.01 * 3_000
    for beyond in (0, 1):
        rounds = [(1_000 * at, Figures(0, None, None, 0, 1)) for at in range(6)]
        rounds[4:] = [(at, Figures(int(slack) + beyond, None, None, 0, 1)) for at, _ in rounds[4:]]
        found = growth(rounds, tables)
        assert found is not None
        assert bool(found.problems()) == bool(beyond)
    large = growth([(at, Figures(15_000 if at > 3_000 else 0, None, None, 0, 1)) for at, _ in rounds], tables)
    assert large is not None
    assert bool(large.problems()) == is_found


def test_damage_is_found(tmp_path: Path) -> None:
    from cachekit import FileCache

    with FileCache(tmp_path, 16) as cache:
        for number in range(50):
            cache.set_value(f"k{number}", "#" * 1_000)
    assert damage(str(tmp_path)) == []
    (segment, *_) = [path for path in tmp_path.glob("*/*") if b"#" * 900 in path.read_bytes()]
    content = segment.read_bytes()
    segment.write_bytes(content.replace(b"#" * 900, b"?" * 900, 1))
    assert damage(str(tmp_path)) != []


def test_the_cause_of_a_stall_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call, whether it worked or waited, and the line of cachekit."""

    def waits(self: MemoryCache, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.2)  # the stall itself
        return []

    monkeypatch.setattr(IntelligentCache, "delete", waits)
    stall = soak("memory", seconds=1).stall
    assert stall.operation == "delete"
    assert stall.seconds > 0.2
    assert stall.working < 0.1
    assert "test_soak.py" in stall.place


def test_garbage_collection_is_counted_apart() -> None:
    """It is no stall of the call in which it happens to begin."""
    watch = StallWatch()
    try:
        stopwatch = watch.stopwatch()
        begun = time.monotonic()
        stopwatch.begin("set")
        gc.collect()
        stopwatch.end()
        took = time.monotonic() - begun
        stopwatch.close()
    finally:
        watch.close()
    assert 0 < watch.longest_collection <= watch.longest.collecting
    assert watch.longest.seconds <= took - watch.longest.collecting


# -- the command ----------------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["memory", "--seconds", "0.3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["result", "qualified"]
    monkeypatch.setattr(IntelligentCache, "set", raises)
    assert main(["memory", "--minutes", "0.005"]) == 1
    shown = capsys.readouterr().out
    assert "exceptions" in shown
    assert "no caller may get this" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["disk"], "disk needs a directory, not None"),
        (["redis"], "redis needs the URL of a server, not None"),
        (["memory", "here"], "memory needs no target, not 'here'"),
        (["memory", "--seconds", "-1"], "seconds must be a finite number above 0, not -1.0"),
        (["disk", "/does/not/exist"], "No such file or directory"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
