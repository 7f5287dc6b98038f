"""Every interleaving of a few callers of polled tiers, one call of the store at a time.

The tiers are the real ones. Their store is a table in this process, whose every call waits until the search
lets its caller go on. The search tries all orders, by running the callers again with another choice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from cachekit import CacheEntry, IntelligentCache, MemoryCache
from cachekit.tiers.polled import Item, PolledTier
from cachekit.tiers.polled.entries import Entries
from cachekit.tiers.polled.journal import PAGES
from cachekit.tiers.polled.listeners import Listeners

KEY, TAG = "user:1", "t"
LONG = 10_000.0  #: seconds: no look and no drop of copies but those of the search


@dataclass
class World:
    """What the callers share: the table, the truth, and what must be seen of it."""

    pause: Callable[[], None] = lambda: None
    table: dict[str, Item] = field(default_factory=dict)
    versions: Iterator[int] = field(default_factory=count)
    truth: int = 0
    settled: int = 0  #: the truth whose invalidation has returned
    noticed: int = 0  #: the truth that was settled when a look of the host began that has returned
    host: IntelligentCache | None = None  #: a cache with copies in memory, on another host than the callers
    stale: list[str] = field(default_factory=list)

    def seen(self, least: int, value: object, where: str) -> None:
        if isinstance(value, int) and value < least:
            self.stale.append(f"{where}: {value} after {least}")


class TableStore:
    """A `PolledStore` in the world's table."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _put(self, name: str, data: bytes) -> None:
        self._world.table[name] = Item(data, next(self._world.versions))

    def read(self, names: Sequence[str]) -> dict[str, Item]:
        self._world.pause()
        return {name: self._world.table[name] for name in names if name in self._world.table}

    def write(self, name: str, data: bytes, life: float | None) -> None:
        self._world.pause()
        self._put(name, data)

    def add(self, name: str, data: bytes, life: float | None) -> bool:
        self._world.pause()
        if name in self._world.table:
            return False
        self._put(name, data)
        return True

    def replace(self, name: str, data: bytes, life: float | None, version: object) -> bool:
        self._world.pause()
        item = self._world.table.get(name)
        if item is None or item.version != version:
            return False
        self._put(name, data)
        return True

    def ping(self) -> None:
        pass

    def close(self) -> None:
        pass


#: What one caller does.
Actor: TypeAlias = Callable[[World, PolledTier], None]


def load(world: World, tier: PolledTier) -> None:
    """Read; load and store if there is nothing."""
    least = world.settled
    found = tier.peek(KEY)
    if found is not None:
        world.seen(least, found.value, "a reader")
        return
    origin = tier.origin(KEY, frozenset({TAG}))
    world.pause()
    value = world.truth
    tier.add(KEY, CacheEntry(KEY, value, tags={TAG}), origin)


def load_truth_first(world: World, tier: PolledTier) -> None:
    """Do the same without the guard of loads: read the truth before the tokens."""
    value = world.truth
    world.pause()
    tier.add(KEY, CacheEntry(KEY, value, tags={TAG}), tier.origin(KEY, frozenset({TAG})))


def read(world: World, tier: PolledTier) -> None:
    """Read."""
    least = world.settled
    found = tier.peek(KEY)
    world.seen(least, None if found is None else found.value, "a reader")


def touch(world: World, tier: PolledTier) -> None:
    """Give what is there a new life."""
    tier.touch(KEY, 100)


def look(world: World, tier: PolledTier) -> None:
    """Let the host look for notices."""
    least = world.settled
    listeners(world).look()
    world.noticed = max(world.noticed, least)


def read_memory(world: World, tier: PolledTier) -> None:
    """Read on the host, from memory or else through it."""
    least = world.noticed
    assert world.host is not None
    world.seen(least, world.host.get(KEY), "a reader on the host")


def look_and_read(world: World, tier: PolledTier) -> None:
    """Do both."""
    look(world, tier)
    read_memory(world, tier)


def remove_another(world: World, tier: PolledTier) -> None:
    """Remove another key, with a notice in the same page as all others."""
    tier.delete("user:2")


def listeners(world: World) -> Listeners:
    assert world.host is not None
    assert isinstance(world.host.redis_cache, PolledTier)
    return world.host.redis_cache._listeners


def changing(invalidate: Callable[[PolledTier], object]) -> Actor:
    """Return an actor that changes the truth and invalidates."""

    def change(world: World, tier: PolledTier) -> None:
        world.pause()
        world.truth += 1
        mine = world.truth
        invalidate(tier)
        world.settled = max(world.settled, mine)

    return change


def put(world: World, tier: PolledTier) -> None:
    """Change the truth and store it."""
    world.pause()
    world.truth += 1
    mine = world.truth
    tier.set(KEY, CacheEntry(KEY, mine, tags={TAG}))
    world.settled = max(world.settled, mine)


CHANGES: dict[str, Actor] = {
    "delete": changing(lambda tier: tier.delete(KEY)),
    "tags": changing(lambda tier: tier.invalidate_by_tags({TAG})),
    "pattern": changing(lambda tier: tier.invalidate_by_pattern("user:")),
    "clear": changing(lambda tier: tier.clear()),
}


def evicting(name: Callable[[PolledTier], str]) -> Actor:
    """Return an actor that lets the server drop an item."""

    def evict(world: World, tier: PolledTier) -> None:
        world.pause()
        world.table.pop(name(tier), None)

    return evict


EVICTIONS: dict[str, Actor] = {
    "key": evicting(lambda tier: tier._names.of_key(KEY)),
    "generation": evicting(lambda tier: tier._names.of_generation()),
    "segment": evicting(lambda tier: tier._names.of_segment("user")),
    "tag": evicting(lambda tier: tier._names.of_tag(TAG)),
}


class Run:
    """One run of the actors in the order that the choices say, and in the first possible one after that."""

    def __init__(
        self, actors: Sequence[Actor], filled: bool, harm: Callable[[Entries], None], warm: bool | None
    ) -> None:
        self.world = World()
        self._harm = harm
        self._poll = None if warm is None else LONG
        with self._tier() as tier:
            tier.origin(KEY, frozenset({TAG}))
            if filled:
                tier.set(KEY, CacheEntry(KEY, 0, tags={TAG}))
        if warm is not None:
            tier = self._tier()
            harm(tier._entries)
            self.world.host = IntelligentCache(MemoryCache(cleanup_interval=None), tier, file_cache=None)
            listeners(self.world).look()
            listeners(self.world).look()  # which finds the pages that the first one made
            if warm:
                self.world.host.get(KEY)
        self._actors = actors
        self._controller = threading.Semaphore(0)
        self._steps = [threading.Semaphore(0) for _ in actors]
        self._mine = threading.local()
        self._alive = list(range(len(actors)))
        self.failures: list[BaseException] = []

    def _tier(self) -> PolledTier:
        tier = PolledTier(TableStore(self.world), max_staleness=LONG, poll=self._poll)
        if tier._listeners._journal is not None:
            del tier._listeners._journal._names[1:]  # one page, so that writers meet
        return tier

    def _pause(self) -> None:
        self._controller.release()
        self._steps[self._mine.number].acquire()

    def _act(self, number: int) -> None:
        self._mine.number = number
        self._steps[number].acquire()
        try:
            with self._tier() as tier:
                self._harm(tier._entries)
                self._actors[number](self.world, tier)
        except BaseException as error:
            self.failures.append(error)
        self._alive.remove(number)
        self._controller.release()

    def play(self, choices: Sequence[int]) -> list[tuple[int, int]]:
        """Return each choice with the number of those that there were."""
        self.world.pause = self._pause
        threads = [threading.Thread(target=self._act, args=(number,)) for number in self._alive]
        for thread in threads:
            thread.start()
        made: list[tuple[int, int]] = []
        while self._alive:
            possible = list(self._alive)
            choice = choices[len(made)] if len(made) < len(choices) else 0
            made.append((choice, len(possible)))
            self._steps[possible[choice]].release()
            self._controller.acquire()
        for thread in threads:
            thread.join()
        self.world.pause = lambda: None
        if self.world.host is not None:
            with self.world.host:
                for actor in (read_memory, look, read_memory):
                    actor(self.world, self._tier())
        with self._tier() as tier:
            self._harm(tier._entries)
            found = tier.peek(KEY)
            self.world.seen(self.world.settled, None if found is None else found.value, "the last reader")
        return made


def search(
    actors: Sequence[Actor],
    filled: bool = False,
    harm: Callable[[Entries], None] = lambda entries: None,
    warm: bool | None = None,
) -> tuple[int, str | None]:
    """Return how many orders were tried, and the first stale read with its order, if there was one.

    Args:
        actors: what runs at the same time.
        filled: whether the key has a value at first.
        harm: takes a guard out of the entries of each tier.
        warm: whether the host has a copy of the value in memory at first; None for no host, and no notices.
    """
    choices: list[int] = []
    tried = 0
    while True:
        run = Run(actors, filled, harm, warm)
        made = run.play(choices)
        tried += 1
        if run.failures:
            raise run.failures[0]
        if run.world.stale:
            return tried, f"{run.world.stale[0]}, in the order {[choice for choice, _ in made]}"
        while made and made[-1][0] == made[-1][1] - 1:
            made.pop()
        if not made:
            return tried, None
        choices = [choice for choice, _ in made[:-1]] + [made[-1][0] + 1]


def lose_notices(world: World, tier: PolledTier) -> None:
    """Let the server drop all notices."""
    world.pause()
    for name in tier._names.of_notices(PAGES):
        world.table.pop(name, None)
