"""Every interleaving of the steps by which tiers stay one, and a kill at any of them, in a small model.

The model (`protocol_state`, `protocol_steps`, `protocol_calls`) has one key in one bucket with one tag, and
the steps in the order in which `levels` and the tiers take them, one atomic effect each. A writer first
changes the database, from old to new, and then tells the cache; once that has returned (between hosts: once
its messages have arrived), no process may be served "old", and when all are done they must agree, also when
the server lets go of its value. Each guard that the protocol has can be taken out, and then the search
finds the way to a stale read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from protocol_calls import (
    create,
    hit,
    invalidate_pattern,
    invalidate_tag,
    load,
    lookup,
    recover,
    refresh,
    touch,
    write,
    write_elsewhere,
    write_here,
    write_many,
)
from protocol_search import Actors, Search, beginning
from protocol_state import Local, Outcome, State, Step
from protocol_steps import World

WRITERS: dict[str, Callable[[World], list[Step]]] = {
    "set": lambda world: write(world, 0, "w", "new"),
    "delete": lambda world: write(world, 0, "w", None),
    "tag": lambda world: invalidate_tag(world, 0, "w"),
    "pattern": lambda world: invalidate_pattern(world, 0, "w"),
}
#: What others do meanwhile, in the process of that number.
OTHERS: dict[str, Callable[[World, int], list[Step]]] = {
    "load": lambda world, me: load(world, me, "l"),
    "promotion": lambda world, me: lookup(world, me),
    "refresh": lambda world, me: refresh(world, me, "r"),
    "own refresh": lambda world, me: refresh(world, me, "r", anew=True),
    "refresh without room": lambda world, me: refresh(world, me, "r", full=True),
    "touch": lambda world, me: touch(world, me, "t"),
}
WORLDS = {
    "file": World(server=False),
    "redis": World(files=False),
    "both": World(),
    "two hosts": World(homes=(0, 1, 1)),
    "two hosts without files": World(files=False, homes=(0, 1)),
}
#: The searches of both tiers take seconds. The suite leaves them to those of two hosts, which have both, too.
WORLDS_IN_SUITE = [pytest.param(name, marks=[pytest.mark.soak] if name == "both" else []) for name in WORLDS]
#: Who may be killed: no process, or the writer.
KILLED: list[tuple[str, ...]] = [(), ("w",)]
#: One whose hits compare the news first.
CHANGES = replace(WORLDS["file"], news=True)


def search(
    world: World,
    actors: Actors,
    *,
    stored: bool = True,
    memory: bool = False,
    evicted: bool = False,
    **terms: Any,
) -> Search:
    """The actors from a beginning with the old value, or with nothing; "w" is the writer."""
    start = beginning(world, stored=stored, memory=memory)._replace(evicted=evicted)
    return Search(world, start, actors, writer="w" if "w" in actors else None, **terms)


def beside(
    world: World, writer: list[Step], what: str, *, killed: tuple[str, ...] = (), **terms: Any
) -> Search:
    """A writer, and one who does something else meanwhile in another process."""
    actors = {"w": (0, writer), "o": (1, OTHERS[what](world, 1))}
    return search(world, actors, stored=what != "load", memory=not killed, killed=killed, **terms)


@pytest.mark.parametrize("name", WORLDS_IN_SUITE)
def test_no_schedule_serves_the_old_value(subtests: pytest.Subtests, name: str) -> None:
    """One writer, who may be killed anywhere, and one who loads or promotes; the server may evict."""
    world = WORLDS[name]
    for how, what, killed in product(WRITERS, ["load", "promotion"], KILLED):
        with subtests.test(how=how, what=what, killed=killed):
            found = beside(world, WRITERS[how](world), what, killed=killed)
            assert found.run() is None
            assert found.states > 30


@pytest.mark.parametrize("name", WORLDS_IN_SUITE)
def test_no_schedule_brings_the_old_value_back(subtests: pytest.Subtests, name: str) -> None:
    """One writer, and one who replaces what is there by what is no newer, if the fence stands."""
    world = WORLDS[name]
    for how, what in product(WRITERS, ["refresh", "own refresh", "refresh without room", "touch"]):
        with subtests.test(how=how, what=what):
            assert beside(world, WRITERS[how](world), what, evicted=True).run() is None


@pytest.mark.parametrize("name", ["file", "redis", "both"])
def test_two_writers_leave_one_value(name: str) -> None:
    """In every schedule, and whichever is killed."""
    world = WORLDS[name]
    actors = {"a": (0, write(world, 0, "a", "A")), "b": (1, write(world, 1, "b", "B"))}
    assert search(world, actors, killed=("b",), evicted=world.files).run() is None


def two_adds(world: World) -> Search:
    actors = {
        "a": (0, create(world, 0, "a", "A")),
        "b": (1, create(world, 1, "b", "B")),
        "p": (len(world.homes) - 1, lookup(world, len(world.homes) - 1)),
    }
    return search(world, actors, stored=False, evicted=True)


@pytest.mark.parametrize("name", WORLDS_IN_SUITE)
def test_one_of_two_adds_wins(name: str) -> None:
    """In every schedule, beside one who looks; and all agree on its value."""
    assert two_adds(WORLDS[name]).run() is None


@pytest.mark.parametrize("name", WORLDS)
def test_an_add_that_does_not_look_at_what_is_there(name: str) -> None:
    """The search finds the schedule in which both win."""
    found = two_adds(replace(WORLDS[name], without=frozenset({"absence"}))).run()
    assert found is not None
    assert "both added" in found


@pytest.mark.parametrize("name", ["file", "redis", "both"])
def test_an_add_and_a_write_leave_one_value(name: str) -> None:
    """Whichever comes first."""
    world = WORLDS[name]
    actors = {"a": (0, create(world, 0, "a", "A")), "b": (1, write(world, 1, "b", "B", told=False))}
    assert search(world, actors, stored=False, evicted=True).run() is None


@pytest.mark.parametrize("name", ["file", "redis", "both"])
def test_two_loads_leave_one_value(name: str) -> None:
    """Of a database that changes between them without anybody saying so."""
    world = WORLDS[name]

    def change(state: State, local: Local) -> Outcome:
        return state._replace(database="newer"), local

    actors = {"a": (0, load(world, 0, "a")), "b": (1, [change, *load(world, 1, "b")])}
    # What the server lets go of between two such loads may come back as the other one's.
    assert search(world, actors, stored=False, evicted=True).run() is None


@pytest.mark.parametrize("name", ["file", "both"])
def test_a_set_takes_effect_at_one_moment(name: str) -> None:
    """Within a host, for all processes, before it returns."""
    world = WORLDS[name]
    actors = {"w": (0, WRITERS["set"](world)), "p": (1, lookup(world, 1))}
    assert search(world, actors, memory=True, one_way=True).run() is None


def _two_writes(world: World, other: str, *, promoted: bool) -> Search:
    others = {
        "set": lambda: write(world, 1, "b", "B"),
        "delete": lambda: write(world, 1, "b", None),
        "here": lambda: write_here(world, 1, "b"),
        "load": lambda: load(world, 1, "b"),
        "refresh": lambda: refresh(world, 1, "b"),
        "refresh without room": lambda: refresh(world, 1, "b", full=True),
        "tag": lambda: invalidate_tag(world, 1, "b"),
        "pattern": lambda: invalidate_pattern(world, 1, "b"),
    }
    actors = {"a": (0, write(world, 0, "a", "A")), "b": (1, others[other]())}
    if promoted:
        actors["p"] = (2, lookup(world, 2))
    return search(world, actors, memory=True, evicted=promoted, one_way=True)


BESIDE_A_SET = ["set", "delete", "here", "load", "refresh", "refresh without room", "tag", "pattern"]


@pytest.mark.parametrize("other", BESIDE_A_SET)
def test_two_writes_take_effect_one_after_the_other(other: str) -> None:
    """While both are in progress, no process is served one value after another has seen the next one."""
    assert _two_writes(WORLDS["both"], other, promoted=False).run() is None


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("other", BESIDE_A_SET)
def test_two_writes_and_a_copy(other: str) -> None:
    """The same beside a third process that copies what it finds into its memory."""
    assert _two_writes(WORLDS["both"], other, promoted=True).run() is None


@pytest.mark.parametrize("name", [pytest.param("both", marks=pytest.mark.soak), "two hosts"])
def test_a_write_that_takes_too_long(subtests: pytest.Subtests, name: str) -> None:
    """Another process takes it for dead and ends its flux, whether it is dead or slow."""
    world = WORLDS[name]
    for how, killed in product(WRITERS, KILLED):
        with subtests.test(how=how, killed=killed):
            found = beside(world, WRITERS[how](world), "promotion", killed=killed, abandons=True)
            assert found.run() is None


# -- a new life -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["file", "redis", "both", "two hosts"])
def test_nobody_keeps_the_life_from_before_a_touch(name: str) -> None:
    """Which may be a longer one. A server that has let go of the value knows of no touch."""
    world = WORLDS[name]
    found = beside(world, touch(world, 0, "w"), "promotion", evicted=True, stale=("old",))
    assert found.run() is None


# -- for this host alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["both", "two hosts"])
def test_a_write_for_this_host_alone(name: str) -> None:
    """It ends what the key had everywhere, and then comes as if loaded."""
    world = WORLDS[name]
    for what, killed in product(["load", "promotion"], KILLED):
        found = beside(world, write_here(world, 0, "w"), what, killed=killed)
        assert found.run() is None, (what, killed)


def test_a_write_for_this_host_alone_beside_another_one() -> None:
    """One of the two values is left, also when the server lets go of the other."""
    world = World(homes=(0, 0))
    actors = {"a": (0, write_here(world, 0, "a")), "b": (1, write(world, 1, "b", "B"))}
    assert search(world, actors, abandons=True).run() is None


# -- many keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["redis", pytest.param("both", marks=pytest.mark.soak), "two hosts"])
def test_a_write_of_many_keys(name: str) -> None:
    """Two of the same buckets: files first, then the server once for all, which tells the other hosts."""
    world = WORLDS[name]
    for what, killed in product(["load", "promotion"], KILLED):
        actors = {"w": (0, write_many(world, 0, "w", together=True)), "o": (1, OTHERS[what](world, 1))}
        found = search(world, actors, stored=what != "load", killed=killed, abandons=bool(killed))
        assert found.run() is None, (what, killed)


@pytest.mark.parametrize("name", ["redis", "both", "two hosts"])
def test_a_write_of_many_keys_one_by_one(name: str) -> None:
    """The same where the server does one after the other, as the nodes of a Cluster do."""
    world = WORLDS[name]
    actors = {"w": (0, write_many(world, 0, "w", together=False)), "o": (1, lookup(world, 1))}
    assert search(world, actors, memory=True).run() is None


def many_of_which_a_part_fails(name: str, *, together: bool) -> Search:
    world = replace(WORLDS[name], fails=0)
    actors = {
        "w": (0, write_many(world, 0, "w", together=together)),
        "o": (1, lookup(world, 1)),
        "0": (0, recover(world, 0)),
    }
    return search(world, actors, evicted=True, by_message=True)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("name", ["redis", "two hosts"])
def test_a_write_of_many_keys_of_which_a_part_fails(name: str, together: bool) -> None:
    """After any part of the pipeline; what may have been missed is said when the server is back."""
    assert many_of_which_a_part_fails(name, together=together).run() is None


# -- the news ---------------------------------------------------------------------------------------------


def test_hits_that_compare_the_news_first(subtests: pytest.Subtests) -> None:
    """A copy that is looked at during a write, made before or during it; and a write of another key."""
    for how, killed in product(WRITERS, KILLED):
        for others in (
            {"h": (2, [*lookup(CHANGES, 2), *hit(CHANGES, 2)]), "l": (1, load(CHANGES, 1, "l"))},
            {"h": (2, hit(CHANGES, 2)), "e": (1, write_elsewhere(CHANGES, 1, "e"))},
        ):
            with subtests.test(how=how, killed=killed, others=list(others)):
                actors = {"w": (0, WRITERS[how](CHANGES)), **others}
                found = search(CHANGES, actors, memory=True, killed=killed, one_way=how == "set")
                assert found.run() is None


# -- outages ----------------------------------------------------------------------------------------------


def outage(homes: tuple[int, int], how: str, what: str, out: frozenset[int], *without: str) -> Search:
    """A writer and a reader, and the recoveries of both from an outage that began before."""
    world = World(homes=homes, without=frozenset(without))
    actors = {
        "w": (0, WRITERS[how](world)),
        "o": (1, OTHERS[what](world, 1)),
        "0": (0, recover(world, 0)),
        "1": (1, recover(world, 1)),
    }
    start = beginning(world, stored=what != "load")._replace(out=out)
    return Search(world, start, actors, writer="w", by_message=True)


@pytest.mark.parametrize(
    ("how", "what"), [pytest.param("delete", "promotion", marks=pytest.mark.soak), ("tag", "load")]
)
def test_an_outage_of_the_server(how: str, what: str) -> None:
    """One that both processes of a host see: what it missed is made good before anybody trusts it."""
    assert outage((0, 0), how, what, frozenset({0, 1})).run() is None


@pytest.mark.parametrize("how", ["delete", "tag"])
def test_an_outage_that_another_host_does_not_see(how: str) -> None:
    """What one host kept while its server was out it does not keep for longer."""
    assert outage((0, 1), how, "promotion", frozenset({1})).run() is None


@pytest.mark.parametrize(("how", "what"), [("set", "promotion"), ("delete", "load")])
def test_a_call_that_fails(how: str, what: str) -> None:
    """It may have been carried out; no process is served the old value when the outage is over."""
    world = replace(WORLDS["two hosts"], fails=0)
    actors = {"w": (0, WRITERS[how](world)), "o": (1, OTHERS[what](world, 1)), "0": (0, recover(world, 0))}
    assert search(world, actors, stored=what != "load", by_message=True).run() is None


# -- the model can fail -----------------------------------------------------------------------------------


def _of(name: str, how: str, what: str, **terms: Any) -> Callable[[str], Search]:
    def without(guard: str) -> Search:
        world = replace(WORLDS[name], without=frozenset({guard}))
        return beside(world, WRITERS[how](world), what, **terms)

    return without


def _many(name: str, *, together: bool = True, **terms: Any) -> Callable[[str], Search]:
    def without(guard: str) -> Search:
        world = replace(WORLDS[name], without=frozenset({guard}))
        actors = {"w": (0, write_many(world, 0, "w", together=together)), "o": (1, lookup(world, 1))}
        return search(world, actors, memory=True, **terms)

    return without


def _here(guard: str) -> Search:
    world = replace(WORLDS["both"], without=frozenset({guard}))
    actors = {"a": (0, write_here(world, 0, "a")), "b": (1, write(world, 1, "b", "B"))}
    return search(world, actors, abandons=True)


def _news(how: str, *, killed: tuple[str, ...] = ()) -> Callable[[str], Search]:
    def without(guard: str) -> Search:
        world = replace(CHANGES, without=frozenset({guard}))
        others: dict[str, tuple[int, list[Step]]] = {
            "e": (1, write_elsewhere(world, 1, "e")),
            "h": (2, hit(world, 2)),
        }
        if killed:
            others = {"l": (1, load(world, 1, "l")), "h": (2, [*lookup(world, 2), *hit(world, 2)])}
        actors = {"w": (0, WRITERS[how](world)), **others}
        return search(world, actors, memory=True, killed=killed, one_way=how == "set")

    return without


def _life(guard: str) -> Search:
    world = replace(WORLDS["both"], without=frozenset({guard}))
    return beside(world, touch(world, 0, "w"), "promotion", evicted=True, stale=("old",))


#: Each guard, and a search that must fail without it.
GUARDS: dict[str, Callable[[str], Search]] = {
    "mark": _of("file", "set", "promotion"),
    "fence": _of("file", "delete", "load"),
    "flux": _of("both", "set", "promotion"),
    "confirm": _of("two hosts", "set", "promotion"),
    "every tag": _of("redis", "tag", "promotion"),
    "epoch": _of("both", "tag", "promotion"),
    "tokens again": _of("both", "pattern", "promotion"),
    "expect": _of("file", "delete", "refresh"),
    "expect at the server": _of("two hosts", "delete", "refresh"),
    "nothing for memory": _of("file", "delete", "refresh without room"),
    "touch compares": _of("file", "delete", "touch"),
    "touch replaces": _of("redis", "set", "touch"),
    "server first": _life,
    "nobody else": _here,
    "all writes in flux": lambda guard: _two_writes(
        replace(WORLDS["both"], without=frozenset({guard})), "set", promoted=False
    ),
    "settled after all": _many("both"),
    "told after": _many("redis", together=False),
    "news first": _news("set"),
    "news before the record": _news("set"),
    "news that never were": _news("set"),
    "news in flux": _news("tag", killed=("w",)),
    "news of what matches": _news("pattern", killed=("w",)),
    "journal": lambda guard: outage((0, 0), "delete", "promotion", frozenset({0, 1}), guard),
    "told twice": lambda guard: outage((0, 1), "delete", "promotion", frozenset({1}), guard),
}


def test_each_guard_is_needed(subtests: pytest.Subtests) -> None:
    """The protocol without it is found out: so the model could fail."""
    for guard in GUARDS:
        with subtests.test(guard=guard):
            assert GUARDS[guard](guard).run() is not None


# -- deeper -----------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("killed", [(), ("w",), ("o",)])
@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("writer", [*WRITERS, "touch", "here", "many", "many one by one"])
@pytest.mark.parametrize("name", WORLDS)
def test_everything_beside_everything(name: str, writer: str, what: str, killed: tuple[str, ...]) -> None:
    """Whatever there is, with everything in memory and on the server, and a kill of either."""
    world = WORLDS[name]
    if writer in {"here", "many", "many one by one"} and not world.server:
        pytest.skip("there is no server")
    if writer == "here" and not world.files:
        pytest.skip("there are no files")
    if writer == "many one by one" and killed == ("w",):
        pytest.skip("one that is killed between two keys has told no other")
    programs: dict[str, Callable[[], list[Step]]] = {
        **{name: lambda name=name: WRITERS[name](world) for name in WRITERS},  # type: ignore[misc]
        "touch": lambda: touch(world, 0, "w"),
        "here": lambda: write_here(world, 0, "w"),
        "many": lambda: write_many(world, 0, "w", together=True),
        "many one by one": lambda: write_many(world, 0, "w", together=False),
    }
    if writer == "touch" and what != "promotion":
        pytest.skip("what is loaded meanwhile begins a life of its own")
    stale = ["old"] if writer == "touch" else ["old", "old+"]
    found = beside(world, programs[writer](), what, killed=killed, stale=stale, evicted=writer == "touch")
    assert found.run() is None
    print(name, writer, what, killed, found.states)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("killed", [(), ("w",)])
@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("name", WORLDS)
def test_three_at_once(name: str, how: str, killed: tuple[str, ...]) -> None:
    """A writer, a load and a promotion."""
    world = WORLDS[name]
    if killed and how == "pattern" and world.server:
        pytest.skip("one that is killed after dropping has told no other host (docs/coherence.md)")
    last = len(world.homes) - 1
    actors = {"w": (0, WRITERS[how](world)), "l": (1, load(world, 1, "l")), "p": (last, lookup(world, last))}
    # A writer that was killed has told no other process. If the server then lets go of the value, one process
    # loads the new one, and another still has the old one in memory until its TTL.
    untold = bool(killed) and world.server and not world.files
    found = search(world, actors, killed=killed, evicted=untold)
    assert found.run() is None
    print(name, how, killed, found.states)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("together", [True, False])
def test_many_keys_of_which_a_part_fails_with_files(together: bool) -> None:
    """On one host, with everything there is."""
    found = many_of_which_a_part_fails("both", together=together)
    assert found.run() is None
    print(together, found.states)
