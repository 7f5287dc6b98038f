"""Processes with memory tiers of their own: none is served what was written over, or invalidated.

Beyond the model: shared memory as it is on this machine, and deliberate breaks of each guard in the code.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from coherent_caches import listen, open_cache
from free_threads import HAS_GIL
from redis_server import wait_until

from cachekit import IntelligentCache
from cachekit.testing.history import Operation, violations
from cachekit.testing.kills import KillLoop, KillReport, Store
from cachekit.testing.processes import in_processes
from cachekit.tiers.fences import CHANGES, EPOCH, WRITING, PrivateFence, SharedFence

KEYS = 4


# -- histories of reads and writes ---------------------------------------------------------------------


def history_of(
    path: Path, processes: int, operations: int, url: str | None = None, room: int | None = None
) -> list[Operation]:
    """What so many processes see that read, write and delete the same few keys.

    With `room` no file may grow beyond so many bytes: the disk is full from then on.
    """
    with open_cache(path, url, f"history-{path.name}:") as cache:
        for at in range(KEYS):  # the first write of a shard needs room, also for what removes
            cache.set(f"k{at}", b"")
            cache.delete(f"k{at}")

    def work(number: int) -> list[Operation]:
        random_ = random.Random(number)
        history = []
        with open_cache(path, url, f"history-{path.name}:") as cache:
            if room is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            for step in range(operations):
                key = f"k{random_.randrange(KEYS)}"
                action = random_.random()
                begin = time.monotonic()
                if action < 0.7:
                    value = cache.get(key)
                    history.append(Operation(key, False, value, begin, time.monotonic()))
                elif action < 0.9:
                    value = b"%d-%d" % (number, step)
                    done = cache.set(key, value)
                    # One that a tier missed is only finished when it has been told.
                    history.append(Operation(key, True, value, begin, time.monotonic() if done else INFINITE))
                else:
                    cache.delete(key)
                    history.append(Operation(key, True, None, begin, time.monotonic()))
        return history

    return [one for history in in_processes(processes, work) for one in history]


INFINITE = float("inf")


def test_every_read_is_explained_with_a_server(tmp_path: Path, redis_url: str) -> None:
    """With a server between memory and file: nothing wrong, and nothing old."""
    assert violations(history_of(tmp_path, 4, 250, redis_url)) == []


def test_every_read_is_explained_on_a_full_disk(tmp_path: Path) -> None:
    """No segment may be begun any more: what cannot be stored is not served from elsewhere either."""
    history = history_of(tmp_path, 4, 500, room=1)
    assert violations(history) == []


# -- stale reads, with loads, tags and patterns --------------------------------------------------------


class Counted(NamedTuple):
    """What the readers of one run saw."""

    reads: int
    stale: int


INVALIDATE: list[Callable[[IntelligentCache, str], object]] = [
    lambda cache, key: cache.delete(key),
    lambda cache, key: cache.invalidate_by_tags({key}),
    lambda cache, key: cache.delete_many([key]),
    lambda cache, key: cache.invalidate_by_pattern(key + r"\Z"),
]


def stale_reads(
    path: Path,
    writes: int,
    *,
    readers: int = 6,
    url: str | None = None,
    patterns: bool = True,
    only_one: bool = False,
    least: int = 0,
) -> Counted:
    """Readers load from a database, while two writers change it and invalidate; reads of before count.

    The database is shared memory: of each key a version, and the version that a returned invalidation has
    made the oldest that may be served. With `only_one` everybody stops as soon as one such read is counted;
    writers go on beyond `writes` until there are `least` reads.
    """
    board = memoryview(mmap.mmap(-1, 8 * (2 * KEYS + 3 + readers))).cast("Q")
    # Of each writer whether it is done, in a word of its own; whether one read is enough; reads by reader.
    done, enough, counts = 2 * KEYS, 2 * KEYS + 2, 2 * KEYS + 3
    prefix = f"stale-{path.name}:"
    open_cache(path, url, prefix).close()

    def work(number: int) -> tuple[int, int]:
        random_ = random.Random(number)
        with open_cache(path, url, prefix) as cache:
            if number < 2:  # each writes keys of its own
                for written in itertools.count():
                    if board[enough] or (written >= writes and sum(board[counts:]) > least):
                        break
                    own = random_.randrange(number, KEYS, 2)
                    board[own] += 1
                    version = board[own]
                    if random_.random() < 0.4:
                        cache.set(f"k{own}", version, tags={f"k{own}"})
                    else:
                        how = random_.choice(INVALIDATE if patterns else INVALIDATE[:3])
                        how(cache, f"k{own}")
                    board[KEYS + own] = version
                    for _ in range(random_.randrange(3)):
                        os.sched_yield()
                board[done + number] = 1
                return 0, 0
            stale = 0
            mine = counts + number - 2
            while not (board[done] and board[done + 1]):
                at = random_.randrange(KEYS)
                key = f"k{at}"
                oldest = board[KEYS + at]
                value = cache.get_or_set(key, lambda at=at: board[at], tags={key})  # type: ignore[misc]
                board[mine] += 1
                if value < oldest:
                    stale += 1
                    board[enough] = only_one
            return board[mine], stale

    seen = in_processes(2 + readers, work)
    return Counted(sum(reads for reads, _ in seen), sum(stale for _, stale in seen))


def test_no_stale_read_between_processes(tmp_path: Path) -> None:
    """After a delete, a set, a tag or a pattern has returned, no process is served anything older."""
    counted = stale_reads(tmp_path, 150, readers=4, least=500)
    assert counted.stale == 0
    assert counted.reads > 500


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_stale_read_in_a_million(tmp_path: Path) -> None:
    """The same until a million reads have been counted."""
    reads = rounds = 0
    while reads < 1_000_000:
        counted = stale_reads(tmp_path / str(rounds), 5000)
        assert counted.stale == 0
        reads += counted.reads
        rounds += 1
    print(f"{reads} reads, 0 stale")


def without_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hits do not ask whether another process has written."""
    monkeypatch.setattr(SharedFence, "stands", lambda self: True)


def without_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask only when there is news, and then not about the key."""
    monkeypatch.setattr(
        SharedFence, "is_current", lambda self: not self.tags or self.tokens.are_current(self.tags)
    )


def without_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask, but not about the tags."""
    monkeypatch.setattr(SharedFence, "is_current", lambda self: self.words[self.bucket] == self.token)


def without_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes change the token of the key, and do not say that there is news."""
    from cachekit.tiers.file.engine import shard

    monkeypatch.setattr(shard, "CHANGES", UNREAD)


def without_news_of_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of invalidations by tag."""
    from cachekit.tiers.file.engine.fence_tokens import Tokens
    from cachekit.tiers.fresh_tokens import fresh

    def invalidate(self: Tokens, tags: Iterable[str]) -> None:
        self.words[EPOCH] = fresh() | WRITING
        for tag in tags:
            self.words[self._tag_start + self._tag_bucket(tag)] = fresh()
        self.words[EPOCH] = fresh()

    monkeypatch.setattr(Tokens, "invalidate_tags", invalidate)


def with_news_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hit remembers of the news was read after it had compared the rest."""

    def stands(self: SharedFence) -> bool:
        if not self.is_current():
            return False
        for _ in range(5):
            os.sched_yield()  # others get their turn where it matters
        self.seen = self.tokens.news()
        return True

    monkeypatch.setattr(SharedFence, "stands", stands)


def with_news_written_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is news only when others have been able to see for a while what was written."""
    from cachekit.tiers.file.engine import shard
    from cachekit.tiers.fresh_tokens import fresh

    put = shard.Shard.put
    monkeypatch.setattr(shard, "CHANGES", UNREAD)

    def put_late(self: shard.Shard, *arguments: Any) -> Any:
        done = put(self, *arguments)
        for _ in range(20):
            os.sched_yield()
        self.tokens.words[CHANGES] = fresh()
        return done

    monkeypatch.setattr(shard.Shard, "put", put_late)


#: A word of the table that no process reads.
UNREAD = 6


def without_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was loaded is kept."""
    from cachekit.tiers.file.engine.shard import Shard

    add = Shard.add

    def believe(self: Shard, hashed: int, key: bytes, record: bytes, bucket: int, expect: int, now: float):  # type: ignore[no-untyped-def]
        return add(self, hashed, key, record, bucket, self.tokens.words[bucket], now)

    monkeypatch.setattr(Shard, "add", believe)
    monkeypatch.setattr(SharedFence, "is_current", lambda self: True)
    monkeypatch.setattr(PrivateFence, "is_current", lambda self: True)


def of_news(sabotage: Callable[..., None]) -> Any:
    """A sabotage that only hits without a lock notice."""
    reason = "hits of a free-threaded build compare the tokens each time, and need no news"
    return pytest.param(sabotage, marks=pytest.mark.skipif(not HAS_GIL, reason=reason))


@pytest.mark.parametrize(
    "sabotage",
    [
        without_mark, without_token, without_tags, without_fence, of_news(without_news),
        of_news(without_news_of_tags), of_news(with_news_read_late),
    ],
)  # fmt: skip
def test_a_broken_cache_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Without the comparison at a hit, or at the end of a load, stale reads are counted."""
    sabotage(monkeypatch)
    for attempt in range(20):
        if stale_reads(tmp_path / str(attempt), 300 << attempt // 5, patterns=False, only_one=True).stale:
            return
    raise AssertionError("no process saw anything stale")


@pytest.mark.parametrize(
    "sabotage",
    [without_mark, without_token, of_news(without_news), of_news(with_news_written_late)],
)
def test_a_broken_cache_is_not_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """The same of histories; there no process is served the older value after another had the newer."""
    sabotage(monkeypatch)
    for attempt in range(40):
        # Longer ones where the processes take turns, because others keep the machine busy.
        if violations(history_of(tmp_path / str(attempt), 4, 400 << attempt // 10)):
            return
    raise AssertionError("the checker saw nothing")


# -- kills ----------------------------------------------------------------------------------------------


class CacheStore:
    """A cache as the kill loop wants it."""

    def __init__(self, cache: IntelligentCache) -> None:
        self._cache = cache

    def read(self, key: str) -> bytes | None:
        value: bytes | None = self._cache.get(key)
        return value

    def write(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._cache.delete(key)
        else:
            self._cache.set(key, value)


def kill_loop(path: Path, kills: int, workers: int) -> KillReport:
    # One cache in the survivor, whose memory outlives every kill: what it serves is compared.
    parent = os.getpid()
    with open_cache(path, None) as survivor:

        @contextmanager
        def open_store() -> Iterator[Store]:
            if os.getpid() == parent:
                yield CacheStore(survivor)
            else:
                with open_cache(path, None) as cache:
                    yield CacheStore(cache)

        return KillLoop(open_store, workers).run(kills)


def assert_clean(report: KillReport, kills: int) -> None:
    assert report.errors == []
    assert (report.kills, report.wrong, report.lost, report.stuck, report.unreadable) == (kills, 0, 0, 0, 0)


def test_kills(tmp_path: Path) -> None:
    """The memory of the survivor has what the dead had written, and nothing older."""
    assert_clean(kill_loop(tmp_path, 10, 4), 10)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_kills(tmp_path: Path) -> None:
    """500 kills over 8 processes."""
    report = kill_loop(tmp_path, 500, 8)
    print(report)
    assert_clean(report, 500)


# -- two hosts ------------------------------------------------------------------------------------------


def test_two_hosts_converge(tmp_path: Path, redis_url: str) -> None:
    """What one host writes the other one sees within the bus's delay, whatever it had in memory and file."""
    assert len(converge(tmp_path, redis_url, 60)) == 60


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hosts_converge_for_long(tmp_path: Path, redis_url: str) -> None:
    """20,000 writes; prints how long the slowest took to arrive."""
    took = sorted(converge(tmp_path, redis_url, 20_000))
    print(f"{len(took)} writes; seen elsewhere after {took[len(took) // 2]:.6f} s, at worst {took[-1]:.6f} s")


def converge(path: Path, url: str, rounds: int) -> list[float]:
    """For each round how long it took until the other host was served the newer value."""
    prefix = f"hosts-{path.name}:"
    random_ = random.Random(0)
    took = []
    with open_cache(path / "a", url, prefix) as one, open_cache(path / "b", url, prefix) as two:
        listen(one, two)
        for version in range(rounds):
            writer, reader = random_.sample([one, two], 2)
            key = f"k{random_.randrange(KEYS)}"
            reader.get(key)
            if random_.random() < 0.6:
                writer.set(key, version, tags={key})
                expected: int | None = version
            else:
                random_.choice(INVALIDATE)(writer, key)
                expected = None
            begin = time.monotonic()
            wait_until(
                lambda reader=reader, key=key, expected=expected: reader.get(key) == expected,  # type: ignore[misc]
                "the other host sees it",
            )
            took.append(time.monotonic() - begin)
            assert writer.get(key) == expected
    return took
