"""Notices among hosts: after a look, no copy in memory is older than what was settled before the look."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from polled_guards import notice_first, notices_are_unconditional
from polled_search import (
    CHANGES,
    KEY,
    TAG,
    Actor,
    TableStore,
    World,
    look,
    look_and_read,
    lose_notices,
    put,
    read_memory,
    remove_another,
    search,
)

from cachekit import CacheEntry, IntelligentCache, MemoryCache
from cachekit.testing.processes import in_processes
from cachekit.tiers.polled import PolledTier, journal
from cachekit.tiers.polled.listeners import _dropping

BESIDE: dict[str, Actor] = {
    "reader": read_memory,
    "look": look_and_read,
    "loss": lose_notices,
    "another": remove_another,
}


@pytest.mark.parametrize(
    ("beside", "change", "warm"),
    [
        # Two writers take most of the time.
        pytest.param(*case, marks=[pytest.mark.soak] if case[0] == "another" and case[1] != "clear" else [])
        for case in itertools.product(BESIDE, [*CHANGES, "put"], [True, False])
    ],
)
def test_two_callers(beside: str, change: str, warm: bool) -> None:
    """Each change, beside a reader with memory, a look, the loss of all notices, or another writer."""
    tried, stale = search([BESIDE[beside], CHANGES.get(change, put)], True, warm=warm)
    assert stale is None
    assert tried > 5


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("change", ["clear", "tags"])
@pytest.mark.parametrize(
    "beside", [[read_memory, look], [look_and_read, lose_notices]], ids=["reader", "loss"]
)
def test_three_callers(change: str, beside: list[Actor]) -> None:
    """A reader that fills memory while a change and a look go on, and a loss beside a look."""
    tried, stale = search([*beside, CHANGES[change]], True, warm=False)
    print(change, beside, tried)
    assert stale is None


@pytest.mark.parametrize("change", [*CHANGES, "put"])
def test_notices_that_do_not_fit(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without space for them says that there was one."""
    monkeypatch.setattr(journal, "LARGEST", 1)
    assert search([look_and_read, CHANGES.get(change, put)], True, warm=True)[1] is None


def _ignore_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    real = journal._missed
    monkeypatch.setattr(journal, "_missed", lambda page, seen: real(page, seen) or [])


def _no_harm(entries: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("beside", "harm", "largest"),
    [
        pytest.param(look_and_read, notice_first, None, id="the notice comes after the change"),
        pytest.param(remove_another, notices_are_unconditional, None, id="compare-and-set"),
        pytest.param(lose_notices, _no_harm, None, id="a lost page is a change of everything"),
        pytest.param(remove_another, _no_harm, 1, id="a notice that is missing is a change of everything"),
    ],
)
def test_each_guard_is_needed(
    beside: Actor, harm: Callable[[Any], None], largest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the search finds a stale read."""
    if harm is _no_harm:
        _ignore_loss(monkeypatch)
    if largest is not None:
        monkeypatch.setattr(journal, "LARGEST", largest)
    found = [search([beside, CHANGES[change]], True, harm, warm=True)[1] for change in ("clear", "delete")]
    print(found)
    assert any(found)


def hosts(world: World) -> tuple[PolledTier, PolledTier]:
    made = [PolledTier(TableStore(world), max_staleness=10_000, poll=10_000) for _ in range(2)]
    return made[0], made[1]


def create(tier: PolledTier) -> None:
    """Store a value where the server has dropped the one that hosts have copies of."""
    assert isinstance(tier._store, TableStore)
    del tier._store._world.table[tier._names.of_key(KEY)]
    assert tier.create(KEY, CacheEntry(KEY, 2), tier.successor())


def test_every_change_is_noted(subtests: pytest.Subtests) -> None:
    """By the host that makes it; its own copies stay."""
    here, there = hosts(World())
    changes: dict[str, Callable[[], object]] = {
        "set": lambda: there.set(KEY, CacheEntry(KEY, 2)),
        "put_many": lambda: there.put_many({KEY: CacheEntry(KEY, 2)}, {KEY: there.successor()}),
        "create": lambda: create(there),
        "expect": lambda: there.put(
            KEY, CacheEntry(KEY, 2), there.successor(), expect=there.origin(KEY)
        ),
        "touch": lambda: there.touch(KEY, 5),
        "touch for no time": lambda: there.touch(KEY, 0),
        "delete": lambda: there.delete(KEY),
        "remove_many": lambda: there.remove_many(["x", KEY]),
        "tags": lambda: there.invalidate_by_tags({TAG}),
        "pattern": lambda: there.invalidate_by_pattern("user:"),
        "clear": there.clear,
    }  # fmt: skip
    with (
        IntelligentCache(MemoryCache(), here, file_cache=None) as cache,
        IntelligentCache(MemoryCache(), there, file_cache=None) as other,
    ):
        assert cache.memory_cache is not None
        assert other.memory_cache is not None
        for tier in (here, there, here, there):
            tier._listeners.look()
        for name, change in changes.items():
            with subtests.test(name=name):
                cache.set(KEY, 1, tags={TAG})
                cache.set("page:1", 1)
                there._listeners.look()
                here._listeners.look()
                assert cache.memory_cache.peek(KEY) is not None, "a host lost a copy of its own write"
                change()
                here._listeners.look()
                assert cache.memory_cache.peek(KEY) is None
                if name not in ("clear", "pattern"):
                    assert cache.memory_cache.peek("page:1") is not None, "more than the change was dropped"


def test_a_load_is_no_change() -> None:
    """It costs no notice: what it stores is no other value than the copies have."""
    world = World()
    here, there = hosts(world)
    here._listeners.note("keys", [])
    before = dict(world.table)
    assert there.add(KEY, CacheEntry(KEY, 1), there.origin(KEY)) is True
    pages = here._names.of_notices(journal.PAGES)
    assert {name: world.table.get(name) for name in pages} == {name: before.get(name) for name in pages}


def test_pages_that_no_client_wrote() -> None:
    """They are a change of everything, and no error; the next notice replaces them."""
    world = World()
    here, there = hosts(world)
    with IntelligentCache(MemoryCache(), here, file_cache=None) as cache:
        assert cache.memory_cache is not None
        for data in (
            b"", b"x", b"null", b"[1,2]", b"[1,2,3]", b'["1",2,[]]', b'[1,2,[["c","keys","k"]]]',
            b"[" * 50_000, b'[1,2,[["c","keys",[1]]]]', b"[%s,2,[]]" % (b"1" * 5000), b"\xff\xfe",
            b'[1,2,[["c","keys"]]]',
        ):  # fmt: skip
            for page in here._names.of_notices(journal.PAGES):
                there._store.write(page, data, None)
            cache.memory_cache.set_value("k", 1)
            here._listeners.look()
            assert cache.memory_cache.peek("k") is None, data
            cache.memory_cache.set_value("k", 1)
            there.delete("k")
            here._listeners.look()
            assert cache.memory_cache.peek("k") is None, data


@pytest.mark.parametrize("lost", [False, True])
def test_a_page_stays_small(lost: bool) -> None:
    """Also the first one after a loss, with a notice of more keys than a server takes in one item."""
    world = World()
    here, there = hosts(world)
    with IntelligentCache(MemoryCache(), here, file_cache=None) as cache:
        assert cache.memory_cache is not None
        here._listeners.look()
        pages = here._names.of_notices(journal.PAGES)
        for page in pages if lost else ():
            del world.table[page]
        cache.memory_cache.set_value("k1", 1)
        there.remove_many([f"k{number}" for number in range(5_000)])
        assert max(len(world.table[page].data) for page in pages if page in world.table) <= journal.LARGEST
        here._listeners.look()
        assert cache.memory_cache.peek("k1") is None


def test_unusual_names() -> None:
    """Any key and any tag is told as it is; so many that they do not fit are everything."""
    here, there = hosts(World())
    with IntelligentCache(MemoryCache(), here, file_cache=None) as cache:
        assert cache.memory_cache is not None
        for key in ("", "\0", "ключ", "\ud800", '"quoted"\\', "line\nbreak", "x" * 10_000):
            for _ in range(2):
                here._listeners.look()
            cache.set(key, 1)
            there.delete(key)
            here._listeners.look()
            assert cache.memory_cache.peek(key) is None, key


@pytest.mark.parametrize("size", [7, 400])
def test_a_page_is_bounded(size: int) -> None:
    """However many notices there are. It holds all that fit, and has the bytes of no more."""
    world = World()
    here, _ = hosts(world)
    for number in range(2000):
        here._listeners.note("keys", [f"{number:{size}}"])
    pages = [world.table[name].data for name in here._names.of_notices(journal.PAGES)]
    assert f"{1999:{size}}" in [json.loads(page)[2][-1][2][0] for page in pages]
    for page in pages:
        one_more = len(json.dumps(json.loads(page)[2][-1], separators=(",", ":"))) + 1
        assert journal.LARGEST - one_more - 2 <= len(page) <= journal.LARGEST


def test_a_notice_that_fills_a_page() -> None:
    """To the last byte it is kept, alone; one more, and the page says that a notice is missing."""
    world = World()
    here, _ = hosts(world)
    (name,) = here._names.of_notices(1)
    store = TableStore(world)
    written = journal.Journal(store, [name])
    empty = journal.packed(journal.Page(7, 70, []))
    store.write(name, empty, None)
    written.note("keys", [""])
    free = journal.LARGEST - len(store.read([name])[name].data)
    for before, (longer, kept) in itertools.product((0, 1, 3), ((0, 1), (1, 0))):
        store.write(name, empty, None)
        for _ in range(before):
            written.note("keys", [""])
        written.note("keys", ["x" * (free + longer)])
        page = journal.opened(store.read([name])[name].data)
        assert page is not None
        assert (page.last, len(page.notices)) == (71 + before, kept)


def test_children_are_other_clients() -> None:
    """Two children of one process, and the process: each gets the notices of the others."""
    here, _ = hosts(World())
    written = here._listeners._journal
    assert written is not None
    clients = in_processes(2, lambda _: written._client)
    assert len({written._client, *clients}) == 3


def test_looks_begin_and_end_with_the_listeners() -> None:
    """One task looks for all of them, also after one that was dropped without `close`."""
    here, _ = hosts(World())
    listeners = here._listeners
    for _ in range(3):
        cache = IntelligentCache(MemoryCache(), here, file_cache=None, close_tiers=False)
        task = listeners._looking
        assert task is not None
        with IntelligentCache(MemoryCache(), here, file_cache=None, close_tiers=False):
            assert listeners._looking is task
        assert listeners._looking is task
        cache.close()
        assert listeners._looking is None
        assert task not in _dropping._tasks
    dropped = IntelligentCache(MemoryCache(), here, file_cache=None, close_tiers=False)
    task = listeners._looking
    del dropped
    gc.collect()
    with IntelligentCache(MemoryCache(), here, file_cache=None, close_tiers=False):
        assert listeners._looking is task
    assert listeners._looking is None


def test_a_wrong_interval() -> None:
    """It is refused by name."""
    for poll in (0, -1, 6, float("nan")):
        with pytest.raises(ValueError, match="poll must"):
            PolledTier(TableStore(World()), max_staleness=5, poll=poll)
