"""An invalidation between any two steps of a load, a promotion, a reload and a write, of one key or many.

Beyond the model: the steps are the lines of the code, so one that the model does not have is tried too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import inside
import pytest
import traced
from coherent_caches import three_caches
from pairwise import in_suite_or_soak
from redis_server import wait_until
from tracing import at_line

from cachekit import CacheLevel, IntelligentCache, RedisCache
from cachekit.loading.options import OFF
from cachekit.loading.request import LoadRequest

pytestmark = pytest.mark.usefixtures("few_buckets")

Three = tuple[IntelligentCache, IntelligentCache, IntelligentCache]
_numbers = itertools.count()


class Setting(NamedTuple):
    """Two caches of one host and one of another, over some tiers."""

    caches: Three
    shared: bool  #: whether the other host sees anything of this one


@pytest.fixture(scope="module")
def setting(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setting]:
    kind = request.param
    path = tmp_path_factory.mktemp("hosts")
    url = None if kind == "file" else redis_url
    with three_caches(path, url, f"everywhere-{path.name}-{kind}:", files=kind != "redis") as caches:
        yield Setting(caches, kind != "file")


INVALIDATIONS: dict[str, Callable[[IntelligentCache, str], object]] = {
    "set": lambda cache, key: cache.set(key, "new", tags={key}),
    "delete": lambda cache, key: cache.delete(key),
    "tags": lambda cache, key: cache.invalidate_by_tags({key}),
    "pattern": lambda cache, key: cache.invalidate_by_pattern(re.escape(key) + r"\Z"),
}

OPERATIONS = [
    "load", "load of many", "from redis", "from file", "many from redis", "many from file", "reload",
    "renewal", "adopted",
]  # fmt: skip
#: Which tiers there are, and who invalidates; without files the other host is as any other process.
PLACES = [
    (tiers, who)
    for tiers in ("file", "redis", "both")
    for who in ("same", "neighbour", "other host")
    if who != "other host" or tiers == "both"
]
CASES = in_suite_or_soak(
    (tiers, name, how, who) for tiers, who in PLACES for name in OPERATIONS for how in INVALIDATIONS
)
WRITES = in_suite_or_soak(
    (tiers, level, how, who, many)
    for tiers, levels_of in {
        "file": ["all", "file"], "redis": ["all", "redis"], "both": ["all", "file", "redis"],
    }.items()
    for level in levels_of
    for how in ("set", "delete", "tags")
    for who in ("same", "neighbour")
    for many in ("alone", "with others")
)  # fmt: skip


def operation(name: str, setting: Setting, key: str, database: dict[str, str]) -> Callable[[], object]:
    """Something slow with a key of which the database has "old", ready to begin."""
    one, two, _ = setting.caches

    def load() -> object:
        return one.get_or_set(key, lambda: database[key], tags={key})

    if name == "load":
        return load
    if name == "load of many":

        def values(keys: list[str]) -> dict[str, str]:
            return {each: database.get(each, "another") for each in keys}

        return lambda: one.get_or_set_many([f"{key}-another", key], values, tags={key})
    if name == "adopted":

        def late() -> str:
            value = database[key]
            two.get_or_set(key, lambda: database[key], tags={key})
            return value

        return lambda: one.get_or_set(key, late, tags={key})
    one.set(key, "old", tags={key})
    if name == "reload":
        terms = LoadRequest(60.0, frozenset({key}))
        return lambda: inside.loads(one).reload(key, lambda: database[key], terms)
    if name == "renewal":
        # What a hit in the last part of a life begins, or keeping warm.
        terms = LoadRequest(
            lambda _: 60.0, frozenset({key}), CacheLevel.ALL, 0.0, OFF, replaces=True, waits=False
        )
        return lambda: inside.loads(one).reload_now(key, lambda: database[key], terms)
    assert one.memory_cache is not None
    one.memory_cache.delete(key)
    if name.endswith("from file") and one.redis_cache is not None:
        evict(one, key)
    if name.startswith("many"):
        return lambda: one.get_many([f"{key}-another", key])
    return lambda: one.get(key)


def evict(cache: IntelligentCache, key: str) -> None:
    """The server runs out of room, and lets go of the value, not of its token."""
    inside.let_go(cast("RedisCache", cache.redis_cache), key)


@pytest.mark.parametrize(("setting", "name", "how", "who"), CASES, indirect=["setting"])
def test_it_wins_at_each_step(setting: Setting, name: str, how: str, who: str) -> None:
    """Whoever invalidates, and wherever the slow one is: nobody gets the old value afterwards."""
    actor = setting.caches[["same", "neighbour", "other host"].index(who)]
    readers = setting.caches if setting.shared else setting.caches[:2]
    for number in itertools.count(1):
        key = f"k{next(_numbers)}"
        database = {key: "old"}

        def invalidate(key: str = key, database: dict[str, str] = database) -> None:
            database[key] = "new"
            INVALIDATIONS[how](actor, key)

        work = operation(name, setting, key, database)
        reached = at_line(number, traced.COHERENCE, invalidate, work)
        if not reached:
            assert number > 3, "the operation has that many steps"
            break
        for reader in readers:
            if who == "other host" or reader is setting.caches[2] or setting.caches[0].file_cache is None:
                # By message: within the bus's delay.
                wait_until(lambda r=reader, k=key: r.get(k) != "old", f"{name} at {number} is refused")  # type: ignore[misc]
            assert reader.get(key) != "old", (name, number)
        for reader in readers:
            assert reader.memory_cache is not None
            reader.memory_cache.delete(key)
        assert all(reader.get(key) != "old" for reader in readers), (name, number)
        if setting.shared:
            evict(setting.caches[0], key)
            for reader in readers:
                assert reader.memory_cache is not None
                reader.memory_cache.delete(key)
                assert reader.get(key) != "old", (name, number)


@pytest.mark.parametrize(("setting", "level", "how", "who", "many"), WRITES, indirect=["setting"])
def test_two_writes_leave_one_value(setting: Setting, level: str, how: str, who: str, many: str) -> None:
    """Another one's write between any two steps of a write: one of the two values is left, for everybody."""
    one, two, _ = setting.caches
    cache_level = CacheLevel.ALL if level == "all" else CacheLevel[level.upper()] | CacheLevel.MEMORY
    actor = one if who == "same" else two

    def write(key: str) -> None:
        if many == "with others":
            one.set_many({"before": 1, key: "mine", "after": 1}, cache_level=cache_level, tags={key})
        else:
            one.set(key, "mine", cache_level=cache_level, tags={key})

    for number in itertools.count(1):
        key = f"k{next(_numbers)}"
        reached = at_line(
            number,
            traced.COHERENCE,
            lambda key=key: INVALIDATIONS[how](actor, key),  # type: ignore[misc]
            lambda key=key: write(key),  # type: ignore[misc]
        )
        if not reached:
            assert number > 3
            break

        def seen(key: str = key) -> set[object]:
            return {one.get(key), two.get(key)} - {None}

        wait_until(lambda: len(seen()) <= 1, f"the caches agree, at {number}")
        before = seen()
        for cache in (one, two):
            assert cache.memory_cache is not None
            cache.memory_cache.delete(key)
        assert seen() <= before or not before, (number, before, seen())
        if setting.shared:
            evict(one, key)
            for cache in (one, two):
                assert cache.memory_cache is not None
                cache.memory_cache.delete(key)
            assert len(seen() | before) <= 1, number
