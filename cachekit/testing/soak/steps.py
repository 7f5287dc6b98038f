"""The mixed work of one thread or task: each call of a cache is noted in a log for the checker."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar, final

from cachekit.cache.default import core_of
from cachekit.cache.intelligent import IntelligentCache
from cachekit.model.types import CacheLevel
from cachekit.testing.history_log import DONE, GONE, OPEN, VOID, HistoryLog

T = TypeVar("T")

KEYS: Final = 12
_SIZES: Final = (10, 10, 10, 300, 3000, 40_000)
#: Milliseconds that some values live.
_LIVES: Final = (100, 500)


@final
class Immediate:
    """A cache whose methods are awaited and never wait, so that threads and tasks share the steps below."""

    def __init__(self, cache: IntelligentCache) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._cache, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call


def finish(steps: Awaitable[T]) -> T:
    """Return the result of a coroutine that never waits."""
    try:
        next(iter(steps.__await__()))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise RuntimeError("the coroutine waits; it needs an event loop")


@final
class Steps:
    """Calls of one thread or task.

    Args:
        sync: The cache.
        awaited: How to call it: an `aio.IntelligentCache`, or `Immediate`.
        log: Where to note the calls.
        prefix: The beginning of the keys, which no other round has.
        name: The beginning of the values, which no other thread, task or process has.
    """

    def __init__(self, sync: IntelligentCache, awaited: Any, log: HistoryLog, prefix: str, name: str) -> None:
        self._cache = awaited
        self._is_immediate = isinstance(awaited, Immediate)
        self._log = log
        self._keys = keys_of(prefix)
        self._name = name
        self._random = random.Random(name)
        self._states = list(core_of(sync).tiers.states().values())
        # Copies in memory may be older than the server by the delay of a message, so reads skip these.
        self._level = level_below_memory(sync) if sync.redis_cache is not None else CacheLevel.ALL
        self._count = 0
        self._calls: Sequence[tuple[str, Callable[[str], Awaitable[None]]]] = (
            [("get", self._get)] * 11
            + [("get_many", self._get_many)] * 2
            + [("set", self._set)] * 4
            + [("update", self._update)]
            + [("get_or_set", self._get_or_set)] * 2
            + [("delete", self._delete)]
            + [("invalidate_by_tags", self._invalidate)]
        )

    def choose(self) -> tuple[str, Awaitable[None]]:
        """Return the next call, and its name."""
        name, call = self._random.choice(self._calls)
        return name, call(self._random.choice(self._keys))

    async def _get(self, key: str) -> None:
        begin = time.monotonic()
        found = await self._cache.get(key, cache_level=self._level)
        self._log.note_read(key, told(found), begin)

    async def _get_many(self, key: str) -> None:
        keys = [key, *self._random.sample(self._keys, 2)]
        begin = time.monotonic()
        found = await self._cache.get_many(keys, cache_level=self._level)
        for one in keys:
            self._log.note_read(one, told(found.get(one)), begin)

    async def _set(self, key: str) -> None:
        life = self._random.choice((None, None, None, *_LIVES))
        value = self._value("" if life is None else f"~{life}")
        tags = _tags_of(key)

        async def change() -> str:
            before = self._outages()
            if await self._cache.set(key, value, None if life is None else life / 1000, tags=tags):
                return DONE
            return self._how_it_ended(before, GONE)

        await self._write(key, told(value), change)

    async def _update(self, key: str) -> None:
        value, seen = self._value(), [None]

        def function(old: Any) -> str:
            seen.append(old)
            return value

        begin, how, replaced = time.monotonic(), OPEN, None
        self._log.begin_write(key, told(value), begin)
        try:
            before = self._outages()
            await self._cache.update(key, function, tags=_tags_of(key))
            how, replaced = self._how_it_ended(before), told(seen[-1])
        finally:
            self._log.end_write(how, replaced if how == DONE else None)

    async def _get_or_set(self, key: str) -> None:
        value, called = self._value(), False
        begin, how = time.monotonic(), OPEN

        def load() -> str:
            nonlocal called
            called = True
            # From the begin of the call on: an invalidation after that may have refused the value.
            self._log.begin_write(key, told(value), begin)
            return value

        async def load_in_task() -> str:
            return load()

        try:
            before = self._outages()
            loader = load if self._is_immediate else load_in_task
            found = await self._cache.get_or_set(key, loader, tags=_tags_of(key))
            how = self._how_it_ended(before) if found == value else VOID
        finally:
            if called:
                self._log.end_write(how)
        if found != value and self._level is CacheLevel.ALL:
            self._log.note_read(key, told(found), begin)

    async def _delete(self, key: str) -> None:
        await self._remove(key, lambda: self._cache.delete(key))

    async def _invalidate(self, key: str) -> None:
        if _tags_of(key):
            await self._remove(key, lambda: self._cache.invalidate_by_tags({key}))
        else:
            await self._remove(key, lambda: self._cache.delete_many([key]))

    async def _remove(self, key: str, remove: Callable[[], Awaitable[object]]) -> None:
        async def change() -> str:
            before = self._outages()
            await remove()
            return self._how_it_ended(before)

        await self._write(key, None, change)

    async def _write(self, key: str, value: str | None, change: Callable[[], Awaitable[str]]) -> None:
        how = OPEN
        self._log.begin_write(key, value, time.monotonic())
        try:
            how = await change()
        finally:
            self._log.end_write(how)

    def _value(self, life: str = "") -> str:
        self._count += 1
        return f"{self._name}.{self._count}{life}|{'#' * self._random.choice(_SIZES)}"

    def _outages(self) -> list[int] | None:
        """Return how many there were; None during one, when no other process learns of a write."""
        if any(state.is_out for state in self._states):
            return None
        return [state.outages for state in self._states]

    def _how_it_ended(self, before: list[int] | None, otherwise: str = DONE) -> str:
        return otherwise if before is not None and before == self._outages() else OPEN


def keys_of(prefix: str) -> list[str]:
    """Return the keys of a round."""
    return [f"{prefix}:k{number}" for number in range(KEYS)]


def _tags_of(key: str) -> set[str] | None:
    """Return the tags that all values of a key have: of every second key none."""
    return {key} if int(key[-1]) % 2 else None


def level_below_memory(cache: IntelligentCache) -> CacheLevel:
    """Return the levels that processes share."""
    return CacheLevel.FILE if cache.redis_cache is None else CacheLevel.REDIS


def told(value: Any) -> str | None:
    """Return the part of a value that names it; another word if the value is not as it was written."""
    if value is None:
        return None
    name, _, rest = str(value).partition("|")
    if rest == "#" * len(rest) and len(rest) in _SIZES:
        return name
    return "damaged:" + "".join(one if one.isalnum() else "_" for one in str(value)[:40])
