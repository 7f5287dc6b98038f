"""What the engine of the file tier costs alone, beside other stores in a directory that processes share.

These are not figures of a call that a user makes: `calls.py` has those. Hit, miss, overwrite and new key with
values of 200 bytes and of 32 KB, in microseconds per operation; 90 % reads and 10 % writes by 1, 4 and 8
processes, over all of them; get-or-set of Zipf-distributed keys under a limit of 8 MiB, with the share of
hits; and opening a directory with many entries. The engine stores bytes; a row with pickle beside it does
what a cache of objects has to.
"""

from __future__ import annotations

import atexit
import pickle
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from itertools import accumulate, count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness import NotOfferedError, Question, Report, Round, Row, Target, options, seconds

from cachekit.testing.processes import in_processes
from cachekit.tiers.file.engine.engine import Engine

LIBRARIES = ("cachekit-tiered", "diskcache", "lmdb", "filelock")
LIMIT = 1000 << 20
SMALL_LIMIT = 8 << 20
SIZES = {"200 B": 200, "32 KB": 32 << 10}
_SCRATCH = Path(tempfile.mkdtemp(prefix="cachekit-bench-"))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
_numbers = count()


class Store:
    """A store of bytes under str keys in the directory `path`."""

    get: Callable[[str], object]  #: None if it is not there
    set: Callable[[str, bytes], object]
    close: Callable[[], object]

    def __init__(self, path: Path, limit: int) -> None:
        raise NotImplementedError

    def fill(self, keys: list[str], value: bytes) -> None:
        for key in keys:
            self.set(key, value)


class OurEngine(Store):
    def __init__(self, path: Path, limit: int) -> None:
        engine = Engine(path, limit)
        self.get, self.set, self.close = engine.get, engine.put, engine.close


class OurEngineWithPickle(Store):
    def __init__(self, path: Path, limit: int) -> None:
        engine = Engine(path, limit)
        get, put = engine.get, engine.put

        def get_object(key: str) -> object:
            found = get(key)
            return None if found is None else pickle.loads(found.payload)

        self.get = get_object
        self.set = lambda key, value: put(key, pickle.dumps(value, 5))
        self.close = engine.close


def policy(limit: int) -> str:
    """Of diskcache: its default, whose hits write nothing, but LRU where it matters which entry goes."""
    return "least-recently-stored" if limit == LIMIT else "least-recently-used"


class DiskCache(Store):
    def __init__(self, path: Path, limit: int) -> None:
        cache: Any = import_module("diskcache").Cache(
            str(path), size_limit=limit, eviction_policy=policy(limit)
        )
        self.cache, self.get, self.set, self.close = cache, cache.get, cache.set, cache.close

    def fill(self, keys: list[str], value: bytes) -> None:
        with self.cache.transact():
            super().fill(keys, value)


class FanoutCache(Store):
    def __init__(self, path: Path, limit: int) -> None:
        cache: Any = import_module("diskcache").FanoutCache(
            str(path), shards=8, size_limit=limit, eviction_policy=policy(limit)
        )
        self.get, self.set, self.close = cache.get, cache.set, cache.close


class Lmdb(Store):
    def __init__(self, path: Path, limit: int) -> None:
        if limit < LIMIT:
            raise NotOfferedError("it evicts nothing")
        environment: Any = import_module("lmdb").open(str(path), map_size=4 << 30, sync=False)

        def get(key: str) -> object:
            with environment.begin(buffers=True) as transaction:
                found = transaction.get(key.encode())
                return None if found is None else pickle.loads(found)

        def set(key: str, value: bytes) -> None:  # noqa: A001
            with environment.begin(write=True) as transaction:
                transaction.put(key.encode(), pickle.dumps(value, 5))

        self.get, self.set, self.close = get, set, environment.close


class Sqlite(Store):
    def __init__(self, path: Path, limit: int) -> None:
        if limit < LIMIT:
            raise NotOfferedError("it evicts nothing")
        import sqlite3

        path.mkdir(exist_ok=True)
        database = sqlite3.connect(path / "db", timeout=60, isolation_level=None)
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=normal")
        database.execute("create table if not exists t (k text primary key, v blob) without rowid")
        self.database = database

        def get(key: str) -> object:
            row = database.execute("select v from t where k = ?", (key,)).fetchone()
            return None if row is None else row[0]

        def set(key: str, value: bytes) -> None:  # noqa: A001
            database.execute("insert or replace into t values (?, ?)", (key, value))

        self.get, self.set, self.close = get, set, database.close

    def fill(self, keys: list[str], value: bytes) -> None:
        self.database.execute("begin")
        super().fill(keys, value)
        self.database.execute("commit")


STORES: dict[str, type[Store]] = {
    "engine": OurEngine,
    "engine + pickle": OurEngineWithPickle,
    "diskcache": DiskCache,
    "FanoutCache(8)": FanoutCache,
    "lmdb + pickle, nosync": Lmdb,
    "sqlite, WAL": Sqlite,
}
OURS = ("engine", "engine + pickle")


def new_path() -> Path:
    return _SCRATCH / str(next(_numbers))


def keys_named(name: str, number: int) -> list[str]:
    return [f"{name}:{n}" for n in range(number)]


def reads(get: Callable[[str], object], keys: list[str]) -> Round:
    def work() -> None:
        for key in keys:
            get(key)

    return lambda: seconds(work)


def hits(kind: type[Store], keys: list[str], value: bytes) -> Round:
    store = kind(new_path(), LIMIT)
    store.fill(keys, value)
    get = store.get
    if any(get(key) is None for key in keys):
        raise ValueError("it lost something")
    return reads(get, keys)


def misses(kind: type[Store], keys: list[str], value: bytes) -> Round:
    store = kind(new_path(), LIMIT)
    store.fill(keys, value)
    return reads(store.get, [f"absent {key}" for key in keys])


def overwrites(kind: type[Store], keys: list[str], value: bytes) -> Round:
    store = kind(new_path(), LIMIT)
    store.fill(keys, value)
    set_ = store.set

    def work() -> None:
        for key in keys:
            set_(key, value)

    return lambda: seconds(work)


def new_keys(kind: type[Store], keys: list[str], value: bytes) -> Round:
    set_ = kind(new_path(), LIMIT).set
    rounds: Iterator[int] = count()

    def work() -> float:
        batch = [f"{next(rounds)} {key}" for key in keys]
        started = time.perf_counter()
        for key in batch:
            set_(key, value)
        return time.perf_counter() - started

    return work


def in_parallel(kind: type[Store], keys: list[str], value: bytes, processes: int, each: int) -> Round:
    """Seconds that all operations took together; all begin at once, each having read every key once."""
    path = new_path()
    with closing(kind(path, LIMIT)) as store:
        store.fill(keys, value)
    together = get_context("fork").Barrier(processes)

    def one(number: int) -> tuple[float, float]:
        random_ = random.Random(number)
        chosen = random_.choices(keys, k=each)
        with closing(kind(path, LIMIT)) as store:
            get, set_ = store.get, store.set
            for key in keys:
                get(key)
            together.wait()
            begin = time.monotonic()
            for step, key in enumerate(chosen):
                if step % 10:
                    get(key)
                else:
                    set_(key, value)
            return begin, time.monotonic()

    def work() -> float:
        spans = in_processes(processes, one)
        return max(end for _, end in spans) - min(begin for begin, _ in spans)

    return work


#: Hits and lookups of the runs under a limit, by store.
_shares: dict[type[Store], float] = {}


def under_a_limit(kind: type[Store], operations: int) -> Round:
    """Get, and set what was not there: 1 KB values, five times as many keys as there is room for."""
    population = 40_000
    weights = list(accumulate(1 / rank**0.9 for rank in range(1, population + 1)))
    names = keys_named("key", population)
    value = b"v" * 1000
    store = kind(new_path(), SMALL_LIMIT)
    get, set_ = store.get, store.set
    random_ = random.Random(1)
    for key in random_.choices(names, cum_weights=weights, k=operations):
        if get(key) is None:
            set_(key, value)

    def work() -> float:
        chosen = random_.choices(names, cum_weights=weights, k=operations)
        found = 0
        started = time.perf_counter()
        for key in chosen:
            if get(key) is None:
                set_(key, value)
            else:
                found += 1
        taken = time.perf_counter() - started
        _shares[kind] = found / operations
        return taken

    return work


def share_of_hits(kind: type[Store]) -> Round:
    if kind not in _shares:
        raise NotOfferedError("it did not run under a limit")
    return lambda: _shares[kind]


def opens(kind: type[Store], entries: int) -> Round:
    path = new_path()
    with closing(kind(path, LIMIT)) as store:
        store.fill(keys_named("key", entries), b"v" * 200)

    def work() -> float:
        started = time.perf_counter()
        store = kind(path, LIMIT)
        found = store.get("key:7")
        taken = time.perf_counter() - started
        store.close()
        if found is None:
            raise ValueError("it lost something")
        return taken

    return work


def rows(prepare: Callable[..., Round], *arguments: Any) -> list[Row]:
    return [
        Row(name, lambda kind=kind: prepare(kind, *arguments), name in OURS)  # type: ignore[misc]
        for name, kind in STORES.items()
    ]


def main() -> None:
    chosen = options(__doc__, rounds=7)
    report = Report(chosen, LIBRARIES)
    targets: list[Target] = []
    for label, size in SIZES.items():
        keys = keys_named(
            "key", (50 if chosen.quick else 2000) if size < 1000 else (10 if chosen.quick else 300)
        )
        value = random.Random(size).randbytes(size)
        for what, prepare in (("hit", hits), ("miss", misses), ("overwrite", overwrites), ("new", new_keys)):
            report.ask(Question(f"{what}, {label}", len(keys), rows(prepare, keys, value), "us", 1e-6))
    each = 100 if chosen.quick else 6000
    keys = keys_named("key", 50 if chosen.quick else 2000)
    for processes in (1, 4, 8):
        question = f"90 % get, 10 % set, {processes} processes"
        parallel = rows(in_parallel, keys, b"v" * 200, processes, each)
        report.ask(Question(question, processes * each, parallel, "us", 1e-6, 3))
    operations = 500 if chosen.quick else 20_000
    report.ask(
        Question("get or set under a limit", operations, rows(under_a_limit, operations), "us", 1e-6, 3)
    )
    report.ask(Question("share of hits under a limit", 1, rows(share_of_hits), "%", 0.01, 1))
    entries = 500 if chosen.quick else 100_000
    report.ask(Question(f"open with {entries:,} entries", 1, rows(opens, entries), "us", 1e-6))
    eight = "90 % get, 10 % set, 8 processes"
    for peer, hit, write, many in (("diskcache", 0.40, 0.15, 8), ("lmdb + pickle, nosync", 1.7, 1.2, 1.5)):
        targets.append(Target("hit, 200 B", "engine + pickle", peer, hit))
        targets.append(Target("overwrite, 200 B", "engine + pickle", peer, write))
        targets.append(Target("new, 200 B", "engine + pickle", peer, write))
        targets.append(Target(eight, "engine + pickle", peer, many, throughput=True))
    targets.append(Target("get or set under a limit", "engine + pickle", "diskcache", 0.2))
    targets.append(Target(f"open with {entries:,} entries", "engine", "diskcache", 0.5))
    report.judge(targets)
    report.end()


if __name__ == "__main__":
    main()
