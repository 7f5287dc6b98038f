"""Every interleaving of the steps by which tiers stay one, and a kill at any of them, in a small model.

The model has one key in one bucket with one tag, and the steps in the order in which `levels` takes them,
one atomic effect each. A writer first changes the database, from old to new, and then tells the cache;
once that has returned (between hosts: once its messages have arrived), nobody may be served "old", and
when everybody is done all must agree, also when the server lets go of its value. Each guard that the
protocol has can be taken out here, and then the model finds the way to a stale read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest

FLUX = "flux"


class Copy(NamedTuple):
    """A value somewhere, and what must hold for it to be served."""

    value: str
    origin: Any = None  #: in a file: the server's token; of the key and, beside it, of the tag
    tag: Any = None  #: in a file or in memory: the host's token of the tag; on the server: its own
    token: Any = None  #: in memory: the host's token of the key
    epoch: Any = None  #: in memory: the host's epoch of tags


@dataclass(frozen=True)
class Host:
    """What the processes of one host share."""

    file: Copy | None = None
    token: Any = "t0"
    tag: Any = "g0"
    epoch: Any = "e0"
    lock: str | None = None


@dataclass(frozen=True)
class State:
    """Everything, at one moment."""

    hosts: tuple[Host, ...]
    memories: tuple[Copy | None, ...]
    fences: tuple[int, ...]  #: P of each process, as the number of times that it was broken
    database: str = "old"
    server: Copy | None = None
    server_token: Any = "r0"
    server_tag: Any = "s0"
    messages: tuple[tuple[int, str], ...] = ()  #: to a process, of what
    out: frozenset[int] = frozenset()  #: processes whose server is out
    journal: frozenset[tuple[int, str]] = frozenset()
    done: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()
    evicted: bool = False

    def host(self, number: int, **changes: Any) -> State:
        hosts = list(self.hosts)
        hosts[number] = replace(hosts[number], **changes)
        return replace(self, hosts=tuple(hosts))

    def keep(self, process: int, copy: Copy | None) -> State:
        memories = list(self.memories)
        memories[process] = copy
        return replace(self, memories=tuple(memories))

    def break_fence(self, process: int) -> State:
        fences = list(self.fences)
        fences[process] += 1
        return replace(self, fences=tuple(fences))


Local = Mapping[str, Any]
#: What a step makes of the state and of what its actor remembers; None if it must wait.
Outcome = tuple[State, dict[str, Any]] | None
Step = Callable[[State, dict[str, Any]], Outcome]
END: dict[str, Any] = {"end": True}


@dataclass(frozen=True)
class World:
    """Which tiers there are, where the processes run, and which guards are in force."""

    files: bool = True
    server: bool = True
    homes: tuple[int, ...] = (0, 0, 0)  #: the host of each process
    without: frozenset[str] = frozenset()

    def has(self, guard: str) -> bool:
        return guard not in self.without

    # -- what a lookup returns at this moment ---------------------------------------------------------

    def served(self, state: State, process: int) -> str | None:
        held, host = state.memories[process], state.hosts[self.homes[process]]
        if held is not None and self._stands(held, host):
            return held.value
        if self.server and process not in state.out and self._alive(state):
            assert state.server is not None
            return state.server.value
        if self.files and host.file is not None and host.file.tag == host.tag:
            if not self.server or process in state.out:
                return host.file.value
            if not self.has("confirm") or host.file.origin == (state.server_token, state.server_tag):
                return host.file.value
        return None

    def _stands(self, held: Copy, host: Host) -> bool:
        if not self.files or not self.has("mark"):
            return True
        if host.token != held.token or held.token == FLUX:
            return False
        return bool(host.epoch == held.epoch or host.tag == held.tag)

    @staticmethod
    def _alive(state: State) -> bool:
        return state.server is not None and state.server.tag == state.server_tag

    # -- steps ----------------------------------------------------------------------------------------

    def fence(self, me: int) -> Step:
        """P, then T: to be taken before anything is read."""

        def step(state: State, local: dict[str, Any]) -> Outcome:
            host = state.hosts[self.homes[me]]
            return state, {
                **local, "p": state.fences[me], "t": host.token, "e": host.epoch, "g": host.tag,
            }  # fmt: skip

        return step

    def successor(self, me: int) -> Step:
        take = self.fence(me)
        return lambda state, local: take(state.break_fence(me), local)

    def origin(self, me: int) -> Step:
        def step(state: State, local: dict[str, Any]) -> Outcome:
            return state, {**local, "r": None if me in state.out else (state.server_token, state.server_tag)}

        return step

    def lock(self, me: int, name: str) -> Step:
        def step(state: State, local: dict[str, Any]) -> Outcome:
            home = self.homes[me]
            return (state.host(home, lock=name), local) if state.hosts[home].lock is None else None

        return step

    def unlock(self, me: int) -> Step:
        return lambda state, local: (state.host(self.homes[me], lock=None), local)

    def on_host(self, me: int, change: Callable[[Host, dict[str, Any]], dict[str, Any]]) -> Step:
        def step(state: State, local: dict[str, Any]) -> Outcome:
            home = self.homes[me]
            return state.host(home, **change(state.hosts[home], local)), local

        return step

    def tell(self, state: State, me: int, what: str) -> State:
        others = [(other, what) for other in range(len(self.homes)) if other != me]
        return replace(state, messages=tuple(sorted({*state.messages, *others})))

    def write(self, me: int, name: str, value: str | None) -> list[Step]:
        """`set`, or `delete` if there is no value."""
        fresh = f"{name}-token"

        def begin(state: State, local: dict[str, Any]) -> Outcome:
            return replace(state, database=value or "new"), local

        def put(host: Host, local: dict[str, Any]) -> dict[str, Any]:
            made = None if value is None else Copy(value, (fresh, local.get("s")), host.tag)
            local["g"], local["e"] = host.tag, host.epoch
            return {"file": made}

        def tags(state: State, local: dict[str, Any]) -> Outcome:
            return state, {**local, "s": state.server_tag}

        def server(state: State, local: dict[str, Any]) -> Outcome:
            if me in state.out:
                if self.has("journal"):
                    state = replace(state, journal=state.journal | {(me, "key")})
                return state, local
            made = None if value is None else Copy(value, tag=local["s"])
            state = replace(state, server=made, server_token=fresh)
            return self.tell(state, me, "key"), local

        def settle(host: Host, local: dict[str, Any]) -> dict[str, Any]:
            mine = host.token == (FLUX, fresh) or not self.has("flux")
            local["mine"] = mine
            return {"token": fresh if mine else f"{fresh}-other"}

        def memory(state: State, local: dict[str, Any]) -> Outcome:
            stands = state.fences[me] == local["p"] or not self.has("fence")
            if value is not None and stands and local.get("mine", True):
                copy = Copy(value, tag=local["g"], token=fresh, epoch=local["e"])
                return state.keep(me, copy).break_fence(me), local
            return state.keep(me, None).break_fence(me), local

        steps: list[Step] = [begin, self.successor(me), tags]
        flux: Any = (FLUX, fresh)
        if self.files:
            steps += [self.lock(me, name)]
            if self.has("flux"):
                steps += [self.on_host(me, lambda host, local: {"token": flux})]
            steps += [self.on_host(me, put)]
            if not self.server or not self.has("flux"):
                steps += [self.on_host(me, lambda host, local: {"token": fresh})]
            steps += [self.unlock(me)]
        if self.server:
            steps += [server]
            if self.files:
                steps += [self.lock(me, name), self.on_host(me, settle), self.unlock(me)]
        return [*steps, memory]

    def load(self, me: int, name: str) -> list[Step]:
        """A miss, then the loader, then the value is kept wherever its fence stands."""

        def loader(state: State, local: dict[str, Any]) -> Outcome:
            return state, {**local, "v": state.database}

        def add(state: State, local: dict[str, Any]) -> Outcome:
            home = self.homes[me]
            host = state.hosts[home]
            if self.has("fence") and (host.token != local["t"] or host.tag != local["g"]):
                return state.host(home, lock=None), END
            if isinstance(local["t"], tuple):
                return state.host(home, lock=None), END
            if host.file is not None and host.file.tag == host.tag:
                return state.host(home, lock=None), END  # taken over, which is a lookup of its own
            return state.host(home, file=Copy(local["v"], local.get("r"), local["g"])), local

        def server(state: State, local: dict[str, Any]) -> Outcome:
            if local["r"] is None or me in state.out:
                return state, local
            if self._alive(state):
                return state, END
            if (state.server_token, state.server_tag) != local["r"]:
                if self.has("fence"):
                    return state, END
                return replace(state, server=Copy(local["v"], tag=state.server_tag)), local
            return replace(state, server=Copy(local["v"], tag=local["r"][1])), local

        steps = [self.fence(me), *([self.origin(me)] if self.server else []), loader]
        if self.files:
            steps += [self.lock(me, name), add, self.unlock(me)]
        if self.server:
            steps += [server]
        return [*steps, self.promote(me)]

    def promote(self, me: int) -> Step:
        def step(state: State, local: dict[str, Any]) -> Outcome:
            if self.has("fence") and state.fences[me] != local["p"]:
                return state, local
            if isinstance(local["t"], tuple) and self.files:
                return state, local  # a write was under way
            copy = Copy(local["v"], tag=local["g"], token=local["t"], epoch=local["e"])
            return state.keep(me, copy), local

        return step

    def lookup(self, me: int) -> list[Step]:
        """What memory does not have, from the server or the file, copied."""

        def from_server(state: State, local: dict[str, Any]) -> Outcome:
            if me in state.out or not self._alive(state):
                return state, local
            assert state.server is not None
            return state, {**local, "v": state.server.value}

        def name_tags(state: State, local: dict[str, Any]) -> Outcome:
            if "v" not in local or not self.files:
                return state, local
            host = state.hosts[self.homes[me]]
            if host.epoch != local["e"] or isinstance(local["e"], tuple):
                return state, END  # a tag was invalidated since: nobody knows which
            return state, {**local, "g": host.tag}

        def from_file(state: State, local: dict[str, Any]) -> Outcome:
            file = state.hosts[self.homes[me]].file
            if "v" in local:
                return state, local
            if file is None or file.tag != state.hosts[self.homes[me]].tag:
                return state, END
            return state, {**local, "v": file.value, "g": file.tag, "o": file.origin}

        def confirm(state: State, local: dict[str, Any]) -> Outcome:
            if "o" not in local or me in state.out or not self.has("confirm"):
                return state, local
            if self._alive(state):
                assert state.server is not None
                return state, {**local, "v": state.server.value}
            if local["o"] != (state.server_token, state.server_tag):
                home = self.homes[me]
                if state.hosts[home].lock is not None:
                    return None
                return state.host(home, file=None, token=f"removed-{me}"), END
            return replace(state, server=Copy(local["v"], tag=local["o"][1])), local

        steps = [self.fence(me)]
        if self.server:
            steps += [from_server, name_tags]
        if self.files:
            steps += [from_file]
            if self.server:
                steps += [confirm]
        else:
            steps += [lambda state, local: (state, local if "v" in local else END)]
        return [*steps, self.promote(me)]

    def invalidate_tag(self, me: int, name: str) -> list[Step]:
        def begin(state: State, local: dict[str, Any]) -> Outcome:
            return replace(state, database="new"), local

        def server(state: State, local: dict[str, Any]) -> Outcome:
            if me in state.out:
                return replace(state, journal=state.journal | {(me, "tag")}), local
            return self.tell(replace(state, server_tag=f"{name}-s"), me, "tag"), local

        def memory(state: State, local: dict[str, Any]) -> Outcome:
            # A copy under way names every tag, as nobody knows which it has.
            return (state.break_fence(me) if self.has("every tag") else state).keep(me, None), local

        steps: list[Step] = [begin]
        if self.server:
            steps += [server]
        if self.files:
            if self.has("epoch"):
                steps += [self.on_host(me, lambda host, local: {"epoch": (FLUX, name)})]
            steps += [self.on_host(me, lambda host, local: {"tag": f"{name}-g"})]
            if self.has("epoch"):
                steps += [self.on_host(me, lambda host, local: {"epoch": f"{name}-e"})]
        return [*steps, memory]

    def invalidate_pattern(self, me: int, name: str) -> list[Step]:
        """Host: tokens, file, tokens. Server: tokens, value, message, tokens. Host: tokens again."""

        def begin(state: State, local: dict[str, Any]) -> Outcome:
            return replace(state, database="new"), local

        def tokens(number: int) -> list[Step]:
            renew = self.on_host(me, lambda host, local: {"token": f"{name}-{number}"})
            return [self.lock(me, name), renew, self.unlock(me)]

        def forget(number: int) -> Step:
            return lambda state, local: (replace(state, server_token=f"{name}-r{number}"), local)

        def unlink(state: State, local: dict[str, Any]) -> Outcome:
            return replace(state, server=None), local

        steps: list[Step] = [begin]
        if self.files:
            gone = self.on_host(me, lambda host, local: {"file": None, "token": f"{name}-gone"})
            steps += [*tokens(1), self.lock(me, name), gone, self.unlock(me), *tokens(2)]
        if self.server:
            steps += [forget(1), unlink, lambda state, local: (self.tell(state, me, "key"), local), forget(2)]
            if self.files and self.has("tokens again"):
                steps += tokens(3)
        return [*steps, lambda state, local: (state.keep(me, None).break_fence(me), local)]

    def recover(self, me: int) -> list[Step]:
        """The server is back: what it missed, memory is told, calls go through, memory is told again."""

        def replay(state: State, local: dict[str, Any]) -> Outcome:
            for owner, what in state.journal:
                if owner == me:
                    if what == "key":
                        state = replace(state, server=None, server_token="replayed")
                    else:
                        state = replace(state, server_tag="replayed")
                    state = self.tell(state, me, what)
            return replace(state, journal=frozenset(one for one in state.journal if one[0] != me)), local

        def clear(state: State, local: dict[str, Any]) -> Outcome:
            return state.keep(me, None).break_fence(me), local

        def close(state: State, local: dict[str, Any]) -> Outcome:
            state, _ = replay(state, local) or (state, local)
            return replace(state, out=state.out - {me}), local

        return [replay, clear, close, *([clear] if self.has("told twice") else [])]


class Search:
    """All schedules of some actors from a beginning on."""

    def __init__(
        self,
        world: World,
        start: State,
        actors: Mapping[str, tuple[int, list[Step]]],
        *,
        writer: str | None = None,
        killed: str | None = None,
        by_message: bool = False,
    ) -> None:
        self.world = world
        #: Whether the promise is one for when messages have arrived.
        self.by_message = by_message or len(set(world.homes)) > 1 or not world.files
        self.actors = actors
        self.start = start
        self.writer = writer
        self.killed = killed
        self.states = 0

    def run(self) -> str | None:
        """What is wrong in some schedule, and the schedule; None if nothing ever is."""
        names = list(self.actors)
        first = (self.start, tuple(0 for _ in names), tuple(() for _ in names))
        stack: list[tuple[Any, tuple[str, ...]]] = [(first, ())]
        seen = {first}
        while stack:
            (state, counters, locals_), trace = stack.pop()
            self.states += 1
            wrong = self._wrong(state, counters)
            if wrong:
                return f"{wrong}: {' '.join(trace)}"
            for following, what in self._following(names, state, counters, locals_):
                if following not in seen:
                    seen.add(following)
                    stack.append((following, (*trace, what)))
        return None

    def _following(
        self, names: list[str], state: State, counters: tuple[int, ...], locals_: tuple[Any, ...]
    ) -> Iterator[tuple[Any, str]]:
        for at, name in enumerate(names):
            me, program = self.actors[name]
            if name in state.dead or counters[at] >= len(program):
                continue
            memory = dict(locals_[at])
            outcome = program[counters[at]](state, memory)
            if outcome is not None:
                after, memory = outcome
                now = len(program) if memory.get("end") else counters[at] + 1
                if now == len(program):
                    after = replace(after, done=after.done | {name})
                following = (
                    after,
                    (*counters[:at], now, *counters[at + 1 :]),
                    (*locals_[:at], tuple(sorted(memory.items())), *locals_[at + 1 :]),
                )
                yield following, f"{name}{counters[at]}"
            if name == self.killed and counters[at]:
                after = replace(state, dead=state.dead | {name}).keep(me, None)
                home = self.world.homes[me]
                if state.hosts[home].lock == name:  # the system gives it back
                    after = after.host(home, lock=None)
                yield (after, counters, locals_), f"{name}-killed"
        for message in state.messages:
            # To drop a key, or what has a tag, breaks the fences of copies under way.
            after = replace(state, messages=tuple(one for one in state.messages if one != message))
            after = after.keep(message[0], None)
            if message[1] == "key" or self.world.has("every tag"):
                after = after.break_fence(message[0])
            yield (after, counters, locals_), f"bus-{message[0]}"
        if state.server is not None and not state.evicted:
            yield (replace(state, server=None, evicted=True), counters, locals_), "evicted"

    def _wrong(self, state: State, counters: tuple[int, ...]) -> str | None:
        world = self.world
        living = [
            process
            for process in range(len(world.homes))
            if not any(self.actors[name][0] == process for name in state.dead)
        ]
        # An outage lasts until everybody's recovery has come to its end.
        recovered = all(name in state.done for name in self.actors if name.isdigit())
        returned = self.writer in state.done and recovered and not state.journal
        if returned and not (self.by_message and state.messages):
            for process in living:
                if world.served(state, process) == "old":
                    return f"process {process} is served the old value"
        quiet = all(name in state.done | state.dead for name in self.actors)
        if quiet and not state.messages and not state.out:
            for view in (state, replace(state, server=None)):
                seen = {world.served(view, process) for process in living} - {None}
                seen |= {world.served(state, process) for process in living} - {None}
                if len(seen) > 1:
                    return f"processes disagree: {sorted(map(str, seen))}"
        return None


def beginning(world: World, *, stored: bool, memory: bool = False) -> State:
    """Nothing anywhere, or the old value in the lower tiers, and in the memory of the last process."""
    count = len(world.homes)
    old = Copy("old", ("r0", "s0"), "g0")
    host = Host(file=old if stored and world.files else None)
    state = State(tuple(host for _ in range(max(world.homes) + 1)), (None,) * count, (0,) * count)
    if stored and world.server:
        state = replace(state, server=Copy("old", tag="s0"))
    if memory:
        state = state.keep(count - 1, Copy("old", tag="g0", token="t0", epoch="e0"))
    return state


WRITERS: dict[str, Callable[[World], list[Step]]] = {
    "set": lambda world: world.write(0, "w", "new"),
    "delete": lambda world: world.write(0, "w", None),
    "tag": lambda world: world.invalidate_tag(0, "w"),
    "pattern": lambda world: world.invalidate_pattern(0, "w"),
}
WORLDS = {
    "file": World(server=False),
    "redis": World(files=False),
    "both": World(),
    "two hosts": World(homes=(0, 1, 1)),
    "two hosts without files": World(files=False, homes=(0, 1)),
}


def search(
    world: World, how: str, what: str, *, stored: bool, killed: str | None = None, memory: bool = False
) -> Search:
    reader = world.load(1, "l") if what == "load" else world.lookup(1)
    return Search(
        world,
        beginning(world, stored=stored, memory=memory),
        {"w": (0, WRITERS[how](world)), what[0]: (1, reader)},
        writer="w",
        killed=killed,
    )


@pytest.mark.parametrize("kill", [None, "w"])
@pytest.mark.parametrize("what", ["load", "promotion"])
@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("name", WORLDS)
def test_no_schedule_serves_the_old_value(name: str, how: str, what: str, kill: str | None) -> None:
    """One writer, who may be killed anywhere, and one who loads or promotes; the server may evict."""
    found = search(WORLDS[name], how, what, stored=what == "promotion", killed=kill, memory=kill is None)
    assert found.run() is None
    assert found.states > 30


@pytest.mark.parametrize("name", ["file", "redis", "both"])
def test_two_writers_leave_one_value(name: str) -> None:
    """In every schedule, and whichever is killed."""
    world = WORLDS[name]
    for killed in (None, "b"):
        actors = {"a": (0, world.write(0, "a", "A")), "b": (1, world.write(1, "b", "B"))}
        assert Search(world, beginning(world, stored=True), actors, killed=killed).run() is None


@pytest.mark.parametrize("name", ["file", "redis", "both"])
def test_two_loads_leave_one_value(name: str) -> None:
    """Of a database that changes between them without anybody saying so."""
    world = WORLDS[name]

    def change(state: State, local: dict[str, Any]) -> Outcome:
        return replace(state, database="newer"), local

    actors = {"a": (0, world.load(0, "a")), "b": (1, [change, *world.load(1, "b")])}
    # What the server lets go of between two such loads may come back as the other one's.
    start = replace(beginning(world, stored=False), evicted=True)
    assert Search(world, start, actors).run() is None


def outage(homes: tuple[int, int], how: str, what: str, out: frozenset[int], *without: str) -> Search:
    """A writer and a reader, and the recoveries of both from an outage that began before."""
    world = World(homes=homes, without=frozenset(without))
    reader = world.load(1, "l") if what == "load" else world.lookup(1)
    actors = {
        "w": (0, WRITERS[how](world)),
        "l": (1, reader),
        "0": (0, world.recover(0)),
        "1": (1, world.recover(1)),
    }
    start = replace(beginning(world, stored=what == "promotion"), out=out)
    return Search(world, start, actors, writer="w", by_message=True)


@pytest.mark.parametrize("how", ["delete", "tag"])
@pytest.mark.parametrize("what", ["load", "promotion"])
def test_an_outage_of_the_server(how: str, what: str) -> None:
    """One that both processes of a host see: what it missed is made good before anybody trusts it."""
    assert outage((0, 0), how, what, frozenset({0, 1})).run() is None


@pytest.mark.parametrize("how", ["delete", "tag"])
def test_an_outage_that_another_host_does_not_see(how: str) -> None:
    """What one host kept while its server was out it does not keep for longer."""
    assert outage((0, 1), how, "promotion", frozenset({1})).run() is None


def test_what_an_outage_needs() -> None:
    """The journal; and that memory is told again when calls go through."""
    assert outage((0, 0), "delete", "promotion", frozenset({0, 1}), "journal").run() is not None
    assert outage((0, 1), "delete", "promotion", frozenset({1}), "told twice").run() is not None


#: Each guard, and a search that must fail without it.
GUARDS: dict[str, tuple[str, str, str]] = {
    "mark": ("file", "set", "promotion"),
    "fence": ("file", "delete", "load"),
    "flux": ("both", "set", "promotion"),
    "confirm": ("two hosts", "set", "promotion"),
    "every tag": ("redis", "tag", "promotion"),
    "epoch": ("file", "tag", "promotion"),
    "tokens again": ("both", "pattern", "promotion"),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_is_needed(guard: str) -> None:
    """The protocol without it is found out: so the model could fail."""
    name, how, what = GUARDS[guard]
    world = replace(WORLDS[name], without=frozenset({guard}))
    memory = guard in {"mark", "epoch"}
    assert search(world, how, what, stored=what == "promotion", memory=memory).run() is not None


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kill", [None, "w"])
@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("name", WORLDS)
def test_three_at_once(name: str, how: str, kill: str | None) -> None:
    """A writer, a load and a promotion."""
    world = WORLDS[name]
    last = len(world.homes) - 1
    actors = {
        "w": (0, WRITERS[how](world)),
        "l": (1, world.load(1, "l")),
        "p": (last, world.lookup(last)),
    }
    found = Search(world, beginning(world, stored=True), actors, writer="w", killed=kill)
    assert found.run() is None
    print(name, how, kill, found.states)
