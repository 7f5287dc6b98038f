"""Histories of processes that are killed, on a disk that fills up, and on two hosts.

Caches with memory tiers of their own; no process reads anything older than a write or an invalidation that
had returned. Beyond the model: real processes that really die, memory ordering, and disks without room.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from coherent_caches import open_cache
from disks import fill
from redis_server import wait_until

from cachekit import IntelligentCache
from cachekit.testing.history import Operation, violations
from cachekit.testing.history_log import DONE, GONE, OPEN, HistoryLog, logged
from cachekit.testing.processes import fork
from cachekit.tiers.fences import SharedFence

KEYS = 4
SIZES = (10, 10, 300, 3000, 60_000)

INVALIDATE: list[Callable[[IntelligentCache, str], object]] = [
    lambda cache, key: cache.delete(key),
    lambda cache, key: cache.delete_many([key]),
    lambda cache, key: cache.invalidate_by_pattern(key + r"\Z"),
    lambda cache, key: cache.invalidate_by_tags({key}),
]


class Hard(NamedTuple):
    """A history, and what it was made under."""

    operations: list[Operation]
    kills: int
    refused: int  #: writes that found no room, or no tier


class HardRun:
    """Processes that read and write the same few keys, die, and are replaced.

    Args:
        path: where the logs go.
        homes: the directories of the hosts, to which the processes are dealt out.
        url: of the server that the hosts share.
        processes: how many at once.
        tagged: whether values have tags, and are invalidated by them, too. A value that is stored with a
            tag while that is invalidated may be lost, and what it has replaced with it.
    """

    def __init__(
        self, path: Path, homes: list[Path], url: str | None, processes: int, *, tagged: bool
    ) -> None:
        self._logs = path / "logs"
        self._logs.mkdir()
        self._prefix = f"hard-{path.name}:"
        self._homes = homes
        self._url = url
        self._random = random.Random(processes)
        # Of each process operations (of the first host alone) and refused writes; then whether it is over.
        self._board = memoryview(mmap.mmap(-1, 8 * (2 * processes + 1))).cast("Q")
        self._processes = processes
        self._tagged = tagged
        self._lives = 0
        self._children: list[int] = []
        self.kills = 0

    def __enter__(self) -> Self:
        for home in self._homes:
            self._open(home).close()
        self._children = [self._start(slot) for slot in range(self._processes)]
        return self

    def _open(self, home: Path) -> IntelligentCache:
        return open_cache(home, self._url, self._prefix)

    def _start(self, slot: int) -> int:
        self._lives += 1
        child = fork()
        if not child:
            try:
                self._work(slot, self._lives)
                os._exit(0)
            finally:
                os._exit(1)
        return child

    def _work(self, slot: int, life: int) -> None:
        board, at, over = self._board, 2 * slot, 2 * self._processes
        random_ = random.Random(life)
        log = HistoryLog(self._logs / str(life))
        invalidate = INVALIDATE if self._tagged else INVALIDATE[:3]
        host = slot % len(self._homes)
        # A second host only reads: what it wrote would take copies from its own processes, so that they
        # would not need to hear of the others.
        looks = 1.0 if host else 0.7
        step = 0
        with self._open(self._homes[host]) as cache:
            states = list(cache._core.tiers.states().values())

            def look(key: str) -> str | None:
                found = cache.get(key)
                if found is None:
                    return None
                head, _, rest = found.partition(b"|")
                assert rest == b"#" * len(rest), f"{key} holds {found[:40]!r}"
                return str(head.decode())

            def outages() -> list[int] | None:
                """How many there were, unless there is one: then the other processes are told of nothing."""
                return None if any(state.is_out for state in states) else [state.outages for state in states]

            def put(key: str, value: str) -> str:
                before = outages()
                content = value.encode() + b"|" + b"#" * random_.choice(SIZES)
                if cache.set(key, content, tags={key} if self._tagged else None):
                    return DONE
                board[at + 1] += 1
                # Without room the older value is removed all the same; while a tier is out it may be there.
                return GONE if before is not None and before == outages() else OPEN

            def drop(key: str) -> str:
                before = outages()
                random_.choice(invalidate)(cache, key)
                return DONE if before is not None and before == outages() else OPEN

            done = 0
            while not board[over]:
                if host:  # once for each operation of the others, who would hardly get a turn otherwise
                    while done == (done := self._done()) and not board[over]:
                        os.sched_yield()
                step += 1
                key = f"k{random_.randrange(KEYS)}"
                action = random_.random()
                if action < looks:
                    log.read(key, lambda: look(key))  # noqa: B023
                elif action < looks + 2 / 3 * (1 - looks):
                    value = f"{life}-{step}"
                    log.write(key, value, lambda: put(key, value))  # noqa: B023
                else:
                    log.write(key, None, lambda: drop(key))  # noqa: B023
                board[at] += not host

    def work_on(self, operations: int) -> None:
        """Return when so many more have been done, all processes together."""
        goal = self._done() + operations
        before = -1

        def gets_on() -> bool:
            nonlocal before
            before, last = self._done(), before
            return before != last

        while self._done() < goal:
            wait_until(gets_on, "a process gets on")

    def _done(self) -> int:
        return sum(self._board[: 2 * self._processes : 2].tolist())

    @property
    def refused(self) -> int:
        return sum(self._board[1 : 2 * self._processes : 2].tolist())

    def kill(self) -> None:
        """One process dies at this moment, and another one takes its place."""
        slot = self._random.randrange(self._processes)
        os.kill(self._children[slot], signal.SIGKILL)
        _, status = os.waitpid(self._children[slot], 0)
        assert os.WIFSIGNALED(status), "it had ended by itself"
        self.kills += 1
        self._children[slot] = self._start(slot)

    def end(self) -> Hard:
        """What all have seen."""
        self._board[2 * self._processes] = 1
        while self._children:
            _, status = os.waitpid(self._children.pop(), 0)
            assert status == 0
        return Hard(list(logged(self._logs)), self.kills, self.refused)

    def __exit__(self, *_: object) -> None:
        while self._children:
            child = self._children.pop()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def hard_history(
    path: Path,
    homes: list[Path],
    operations: int,
    kills: int,
    *,
    url: str | None = None,
    processes: int = 8,
    disk: Path | None = None,
    tagged: bool = True,
) -> Hard:
    """A history with so many kills; with a `disk`, that is full for a half of the time."""
    with HardRun(path, homes, url, processes, tagged=tagged) as run:
        for number in range(kills):
            if disk is not None and number % 4 == 1:
                fill(disk / "filler")
            elif disk is not None and number % 4 == 3:
                (disk / "filler").unlink()
            run.work_on(operations // kills)
            run.kill()
        return run.end()


def within(bound: float, history: list[Operation]) -> list[Operation]:
    """The same, had every read been allowed to answer as of so many seconds before it began."""
    return [one if one.is_write else one._replace(begin=one.begin - bound) for one in history]


def staleness(history: list[Operation]) -> float:
    """The least bound, in seconds, within which a history is explained; rounded up to a millisecond."""
    low, high = -1, 10_000
    assert violations(within(high / 1000, history)) == []
    while high - low > 1:
        middle = (low + high) // 2
        if violations(within(middle / 1000, history)):
            low = middle
        else:
            high = middle
    return high / 1000


def test_every_read_is_explained_under_kills(tmp_path: Path) -> None:
    """Nothing wrong, nothing old, and nothing missing but what a kill may have taken along."""
    seen = hard_history(tmp_path, [tmp_path / "cache"], 1200, 6, tagged=False)
    assert seen.kills == 6
    assert len(seen.operations) >= 1200
    assert violations(seen.operations, evicts=False) == []


def test_every_read_is_explained_on_a_disk_that_fills_up(tmp_path: Path, disk: Path) -> None:
    """And is emptied again, and so on; with kills."""
    seen = hard_history(tmp_path, [disk / "cache"], 1600, 8, disk=disk)
    assert seen.refused > 0, "the disk was never full"
    assert violations(seen.operations) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_long_history_under_kills_is_explained(tmp_path: Path) -> None:
    """Eight processes, 200,000 operations, 400 kills."""
    seen = hard_history(tmp_path, [tmp_path / "cache"], 200_000, 400, tagged=False)
    print(f"{len(seen.operations)} operations, {seen.kills} kills, {seen.refused} writes refused")
    assert violations(seen.operations, evicts=False) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_long_history_on_a_disk_that_fills_up_is_explained(tmp_path: Path, disk: Path) -> None:
    """The same, with the disk full for half of the time."""
    seen = hard_history(tmp_path, [disk / "cache"], 200_000, 400, disk=disk)
    print(f"{len(seen.operations)} operations, {seen.kills} kills, {seen.refused} writes refused")
    assert seen.refused > 0
    assert violations(seen.operations) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_long_history_of_two_hosts_is_explained(tmp_path: Path, redis_url: str) -> None:
    """Eight processes; prints how old the oldest answer was."""
    seen = hard_history(tmp_path, [tmp_path / "a", tmp_path / "b"], 100_000, 100, url=redis_url)
    oldest = staleness(seen.operations)
    print(f"{len(seen.operations)} operations, {seen.kills} kills; explained within {oldest:.3f} s")
    assert oldest <= 5


@pytest.mark.parametrize("full", [False, True])
def test_a_broken_cache_is_not_explained(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Without the comparison at a hit older values are read, with kills or without room."""
    disk: Path | None = request.getfixturevalue("disk") if full else None
    monkeypatch.setattr(SharedFence, "stands", lambda self: True)
    for attempt in range(20):
        path = tmp_path / str(attempt)
        path.mkdir()
        home = (disk or tmp_path) / f"cache{attempt}"
        seen = hard_history(path, [home], 1500, 4, processes=4, disk=disk)
        if violations(seen.operations):
            return
        shutil.rmtree(home)
    raise AssertionError("the checker saw nothing")


def test_a_history_that_is_too_old_is_found_out() -> None:
    """Within less than what it takes, it is not explained."""
    history = [
        Operation("k", True, b"1", 0.0, 1.0),
        Operation("k", True, b"2", 2.0, 3.0),
        Operation("k", False, b"1", 3.5, 3.6),
    ]
    assert violations(within(0.4, history))
    assert violations(within(0.5, history)) == []
    assert staleness(history) == 0.5
