"""Every interleaving of the steps of some actors, with a kill at any of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

from interrupting import no_collection
from protocol_state import Copy, Host, Local, State, Step, in_flux
from protocol_steps import World

#: Of each actor: in which process it runs, and its steps.
Actors: TypeAlias = "Mapping[str, tuple[int, list[Step]]]"
_Node: TypeAlias = "tuple[State, tuple[int, ...], tuple[Local, ...]]"


class Search:
    """All schedules of some actors from a beginning on.

    Once the call of the `writer` has returned (between hosts: once its messages have arrived), nobody may be
    served "old"; and when all is quiet everybody who is served something is served the same, also when the
    server lets go of its value.

    Args:
        world: where they act.
        start: how it begins.
        actors: by name. Digits are recoveries from an outage: they begin with it, if it comes.
        writer: the one who replaces "old".
        killed: those of them that may be killed between any two steps.
        by_message: whether the promise holds when messages have arrived, not before. So it is between
            hosts, and without files.
        abandons: whether somebody takes a write under way for dead, once: it lasts too long.
        stale: what counts as "old".
        one_way: whether at each moment all are served the same, and no value comes back after another one.
    """

    def __init__(
        self,
        world: World,
        start: State,
        actors: Actors,
        *,
        writer: str | None = None,
        killed: Collection[str] = (),
        by_message: bool = False,
        abandons: bool = False,
        one_way: bool = False,
        stale: Collection[str] = ("old", "old+"),
    ) -> None:
        self.world = world
        self.by_message = by_message or len(set(world.homes)) > 1 or not world.files
        self.names = list(actors)
        self.owners = [actors[name][0] for name in self.names]
        self.programs = [actors[name][1] for name in self.names]
        self.start = start
        self.writer = writer
        self.killed = killed
        self.abandons = abandons
        self.one_way = one_way
        self.stale = frozenset(stale)
        self.states = 0

    def run(self) -> str | None:
        """What is wrong in some schedule, and the schedule; None if nothing ever is."""
        with no_collection():  # it would walk over all nodes, again and again, and find nothing
            return self._run()

    def _run(self) -> str | None:
        count = len(self.names)
        first: _Node = (self.start, (0,) * count, (Local(),) * count)
        came_from: dict[_Node, tuple[_Node | None, str]] = {first: (None, "")}
        stack = [first]
        while stack:
            node = stack.pop()
            self.states += 1
            wrong = self._wrong(*node[:2])
            if wrong:
                return f"{wrong}: {self._way_to(node, came_from)}"
            for following, what in self._following(*node):
                if following not in came_from:
                    came_from[following] = (node, what)
                    stack.append(following)
        return None

    @staticmethod
    def _way_to(node: _Node, came_from: Mapping[_Node, tuple[_Node | None, str]]) -> str:
        steps: list[str] = []
        at: _Node | None = node
        while at is not None:
            at, what = came_from[at]
            steps.append(what)
        return " ".join(reversed(steps)).strip()

    def _following(
        self, state: State, counters: tuple[int, ...], locals_: tuple[Local, ...]
    ) -> Iterator[tuple[_Node, str]]:
        for at, name in enumerate(self.names):
            program, counter = self.programs[at], counters[at]
            if counter >= len(program) or name in state.dead:
                continue
            outcome = program[counter](state, locals_[at])
            outcomes = outcome if isinstance(outcome, list) else [] if outcome is None else [outcome]
            for number, (after, local) in enumerate(outcomes):
                now = len(program) if local.end else counter + 1 + local.jump
                if now >= len(program):
                    after = after._replace(done=after.done | {name})
                    local = Local()
                elif local.jump:
                    local = local._replace(jump=0)
                then = (*counters[:at], now, *counters[at + 1 :])
                node = (self._noted(after, then), then, (*locals_[:at], local, *locals_[at + 1 :]))
                yield node, f"{name}{counter}" + "'" * number
            if name in self.killed and counter:
                yield (self._without(state, at), counters, locals_), f"{name}-killed"
        for after, what in self._by_itself(state):
            yield (self._noted(after, counters), counters, locals_), what

    def _noted(self, state: State, counters: tuple[int, ...]) -> State:
        if self.one_way:
            served = self._served(state)
            if len(served) > 1:
                return state._replace(wrong=f"at one moment processes are served {sorted(served)}")
            for value in served.difference(state.shown[-1:]):
                if value in state.shown:
                    return state._replace(wrong=f"{value} is served again after {state.shown[-1]}")
                state = state._replace(shown=(*state.shown, value))
        if not state.told and self.writer in state.done and self._has_ended(state, counters):
            state = state._replace(told=True)
        return state

    def _has_ended(self, state: State, counters: tuple[int, ...]) -> bool:
        """Whether what was said has arrived, also with those whose server was out."""
        if state.out or state.journal or (self.by_message and state.messages):
            return False
        return not self._recovering(state, counters)

    def _recovering(self, state: State, counters: tuple[int, ...]) -> bool:
        """Whether an outage is not over yet: memory is told once more after calls go through."""
        return any(
            name.isdigit() and counter and name not in state.done and name not in state.dead
            for name, counter in zip(self.names, counters, strict=True)
        )

    def _without(self, state: State, at: int) -> State:
        name, me = self.names[at], self.owners[at]
        # Its journal goes with it, and there is nobody to whom its server could be out.
        state = state._replace(
            dead=state.dead | {name},
            out=state.out - {me},
            journal=frozenset(one for one in state.journal if one[0] != me),
            messages=frozenset(one for one in state.messages if one[0] != me),
        ).keep(me, None)
        home = self.world.homes[me]
        host = state.hosts[home]
        return state.with_host(home, host._replace(lock=None)) if host.lock == name else state

    def _by_itself(self, state: State) -> Iterator[tuple[State, str]]:
        """What happens without anybody's doing."""
        for message in state.messages:
            # To drop a key, or what has a tag, breaks the fences of copies under way.
            after = state._replace(messages=state.messages - {message}).keep(message[0], None)
            if message[1] == "key" or self.world.has("every tag"):
                after = after.break_fence(message[0])
            yield after, f"bus-{message[0]}"
        if state.server is not None and not state.evicted:
            yield state._replace(server=None, evicted=True), "evicted"
        if self.abandons and not state.abandoned:
            for number, host in enumerate(state.hosts):
                if in_flux(host.token) and host.lock is None:
                    given_up = host._replace(token="given up", news="n-given up")
                    yield state.with_host(number, given_up)._replace(abandoned=True), "given-up"

    def _living(self, state: State) -> list[int]:
        dead = {owner for name, owner in zip(self.names, self.owners, strict=True) if name in state.dead}
        return [process for process in range(len(self.world.homes)) if process not in dead]

    def _served(self, state: State) -> set[str]:
        served = {self.world.served(state, process) for process in self._living(state)}
        return {value for value in served if value is not None}

    def _wrong(self, state: State, counters: tuple[int, ...]) -> str | None:
        if state.wrong:
            return state.wrong
        if state.told and not self.stale.isdisjoint(self._served(state)):
            return "somebody is served the old value"
        over = all(
            name in state.done or name in state.dead or (name.isdigit() and not counter)
            for name, counter in zip(self.names, counters, strict=True)
        )
        if over and not state.messages and not state.out:
            now = self._served(state)
            for view in (state, state._replace(server=None)):
                seen = {value.rstrip("+") for value in now | self._served(view)}
                if len(seen) > 1:
                    return f"processes disagree: {sorted(seen)}"
        return None


def beginning(world: World, *, stored: bool, memory: bool = False) -> State:
    """Nothing anywhere, or the old value in the lower tiers, and in the memory of the last process."""
    count = len(world.homes)
    old = Copy("old", ("r0", "s0"), "g0")
    host = Host(file=old if stored and world.files else None)
    state = State((host,) * (max(world.homes) + 1), (None,) * count, (0,) * count)
    if stored and world.server:
        state = state._replace(server=Copy("old", tag="s0"))
    if memory:
        seen = "n0" if world.news else None
        state = state.keep(count - 1, Copy("old", tag="g0", token="t0", seen=seen))
    return state
