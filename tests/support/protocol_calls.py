"""What a cache does, as the steps of `levels` in its order, in the model of the protocol."""

from __future__ import annotations

from protocol_state import WRITING, Copy, Effect, Host, Local, Outcome, State, Step, in_flux
from protocol_steps import World


def change_database(state: State, local: Local) -> Outcome:
    """What a writer does before it tells the cache."""
    return state._replace(database="new"), local


def _gone(host: Host, local: Local) -> tuple[Host, Local]:
    return host._replace(file=None), local


def _nothing(host: Host, local: Local) -> tuple[Host, Local]:
    return host, local


# -- writes ---------------------------------------------------------------------------------------------


def write(
    world: World, me: int, name: str, value: str | None, *, ours: bool = True, told: bool = True
) -> list[Step]:
    """`set`, or `delete` if there is no value; of our key, or of another one in its buckets.

    A write that is not `told` leaves the database as it is.
    """

    def put(host: Host, local: Local) -> tuple[Host, Local]:
        made = None if value is None else Copy(value, (name, local.s), local.g)
        return host._replace(file=made) if ours else host, local

    def server(state: State, local: Local) -> Outcome:
        made = None if value is None else Copy(value, tag=local.s)
        state = state._replace(server_token=name)
        return (state._replace(server=made).tell(me, "key") if ours else state), local

    steps: list[Step] = []
    if ours and told:
        steps.append(lambda state, local: (state._replace(database=value or "new"), local))
    steps += world.fence(me, anew=ours)
    if world.server:
        steps.append(world.server_tags(me))
    if world.files:
        steps += world.change(me, name, put, left_in_flux=world.server)
    if world.server:
        steps.append(world.call(me, server))
        if world.files:
            steps += world.settle(me, name)
    return [*steps, _remember(world, me, name, value)] if ours else steps


def _remember(world: World, me: int, name: str, value: str | None) -> Step:
    """The last step of a write: what memory gets."""

    def step(state: State, local: Local) -> Outcome:
        stands = state.fences[me] == local.p or not world.has("fence")
        if value is not None and stands and local.mine:
            return state.keep(me, Copy(value, tag=local.g, token=name)).break_fence(me), local
        return state.forget(me), local

    return step


def create(world: World, me: int, name: str, value: str) -> list[Step]:
    """`add`: the lowest tier stores the value if it has none; the database tells of an earlier winner."""

    def win(state: State) -> State:
        if state.database != "old":
            return state._replace(wrong=f"{state.database} and {value} were both added")
        return state._replace(database=value)

    def server(state: State, local: Local) -> Outcome:
        if state.answer is not None and world.has("absence"):
            return state, local._replace(refused=True)
        made = Copy(value, tag=local.s)
        return win(state)._replace(server=made, server_token=name).tell(me, "key"), local

    def lost(state: State, local: Local) -> Outcome:
        return state, local._replace(end=local.refused, t=name, v=value, r=(name, local.s))

    def vacant(host: Host, local: Local) -> tuple[Host, Local]:
        there = host.file is not None and host.file.tag == host.tag and world.has("absence")
        return host, local._replace(end=there)

    def put(host: Host, local: Local) -> tuple[Host, Local]:
        return host._replace(file=Copy(value, None, local.g)), local

    steps = world.fence(me, anew=True)
    if not world.server:
        won: Step = lambda state, local: (win(state), local)  # noqa: E731
        steps += world.change(me, name, put, left_in_flux=False, expect=vacant)
        return [*steps, won, _remember(world, me, name, value)]
    steps.append(world.server_tags(me))
    if world.files:
        steps += world.change(me, name, _gone, left_in_flux=True)
    steps.append(world.call(me, server))
    if world.files:
        steps += world.settle(me, name)
    steps.append(lost)
    if world.files:
        steps += _add(world, me, name)
    return [*steps, _remember(world, me, name, value)]


def write_many(world: World, me: int, name: str, *, together: bool) -> list[Step]:
    """`set` of our key and of another one in the same buckets, with one pipeline for the server.

    Args:
        world: where.
        me: the process.
        name: of the writer.
        together: whether the server carries all of the pipeline out at once, and not one by one.
    """
    second = f"{name}2"

    def put(host: Host, local: Local) -> tuple[Host, Local]:
        return host._replace(file=Copy("new", (name, local.s), local.g)), local

    def ours(state: State, local: Local) -> Outcome:
        return state._replace(server=Copy("new", tag=local.s), server_token=name), local

    def other(state: State, local: Local) -> Outcome:
        return state._replace(server_token=second), local

    def publish(state: State, local: Local) -> Outcome:
        return state.tell(me, "key"), local

    def settled(one: str) -> list[Step]:
        return world.settle(me, one) if world.files else []

    steps: list[Step] = [change_database, *world.fence(me, anew=True), world.server_tags(me)]
    if world.files:
        steps += world.change(me, name, put, left_in_flux=True)
        steps += world.change(me, second, _nothing, left_in_flux=True)
    if not world.has("settled after all"):
        steps += [*settled(name), *settled(second)]
    calls = [ours, other, publish] if world.has("told after") else [publish, ours, other]
    steps += [world.call(me, *calls)] if together else [world.call(me, one) for one in calls]
    if world.has("settled after all"):
        steps += [*settled(name), *settled(second)]
    return [*steps, _remember(world, me, name, "new")]


def write_here(world: World, me: int, name: str) -> list[Step]:
    """`set` at the levels of files and memory, where there is a server: gone, and then as if loaded."""

    def server(state: State, local: Local) -> Outcome:
        return state._replace(server=None, server_token=name).tell(me, "key"), local

    def look(state: State, local: Local) -> Outcome:
        # What somebody else on this host wrote in between comes after it.
        return state, local._replace(end=local.t != name, v="here")

    def nobody(state: State, local: Local) -> Outcome:
        # So does what somebody has put on the server before its token was read.
        there = me not in state.out and state.answer is not None and world.has("nobody else")
        return state, local._replace(end=there)

    return [
        lambda state, local: (state._replace(database="here"), local),
        *world.change(me, name, _gone, left_in_flux=True),
        world.call(me, server),
        *world.settle(me, name),
        lambda state, local: (state.forget(me), local),
        *world.fence(me),
        world.origin(me),
        look,
        nobody,
        *_add(world, me, name),
        _promote(world, me),
    ]


def touch(world: World, me: int, name: str) -> list[Step]:
    """The same value with a new life, which is written behind it as a plus."""

    def host_reads(state: State, local: Local) -> Outcome:
        file = state.hosts[world.homes[me]].file
        if file is None or file.tag != state.hosts[world.homes[me]].tag:
            return state, local._replace(v=None)
        return state, local._replace(v=file.value, o=file.origin, g=file.tag)

    def expect(host: Host, local: Local) -> tuple[Host, Local]:
        if world.has("touch compares") and (host.token != local.t or in_flux(local.t)):
            return host, local._replace(jump=-3)
        return host, local

    def put(host: Host, local: Local) -> tuple[Host, Local]:
        if local.v is None:
            return host._replace(file=None), local
        return host._replace(file=Copy(_longer(local.v), local.o, local.g)), local

    def server_reads(state: State, local: Local) -> Outcome:
        there = None if me in state.out else state.answer
        return state, local._replace(o=there, jump=1 if there is None and me not in state.out else 0)

    def server(state: State, local: Local) -> Outcome:
        if local.o is None or (state.server != local.o and world.has("touch replaces")):
            return state, local._replace(jump=-2)
        made = local.o._replace(value=_longer(local.o.value))
        return state._replace(server=made, server_token=name).tell(me, "key"), local

    host_steps: list[Step] = []
    if world.files:
        host_steps = [world.shared(me), host_reads]
        host_steps += world.change(me, name, put, left_in_flux=False, expect=expect)
    server_steps: list[Step] = [server_reads, world.call(me, server)] if world.server else []
    steps = [*server_steps, *host_steps] if world.has("server first") else [*host_steps, *server_steps]
    return [*steps, lambda state, local: (state.forget(me), local)]


def _longer(value: str) -> str:
    return value if value.endswith("+") else f"{value}+"


# -- loads ----------------------------------------------------------------------------------------------


def load(world: World, me: int, name: str) -> list[Step]:
    """A miss, then the loader, then the value is kept wherever its fence stands."""

    def server(state: State, local: Local) -> Outcome:
        if local.r is None or me in state.out:
            return state, local
        if state.answer is not None:
            return state, local._replace(end=True)  # taken over, which is a lookup of its own
        if (state.server_token, state.server_tag) != local.r and world.has("fence"):
            return state, local._replace(end=True)
        return state._replace(server=Copy(local.v or "", tag=local.r[1])), local

    steps = [*world.fence(me), *([world.origin(me)] if world.server else []), _loader]
    if world.files:
        steps += [_current(world, me), *_add(world, me, name)]
    if world.server:
        steps.append(server)
    return [*steps, _promote(world, me)]


def _loader(state: State, local: Local) -> Outcome:
    return state, local._replace(v=state.database)


def _current(world: World, me: int) -> Step:
    """The fence as a whole; the tags are not looked at again under the lock, for the record has them."""

    def step(state: State, local: Local) -> Outcome:
        host = state.hosts[world.homes[me]]
        stands = (host.token, host.tag) == (local.t, local.g) or not world.has("fence")
        return state, local._replace(end=not stands or in_flux(local.t))

    return step


def _add(world: World, me: int, name: str) -> list[Step]:
    """Into the file, if T stands and nothing is there."""

    def add(host: Host, local: Local) -> tuple[Host, Local]:
        refused = (world.has("fence") and host.token != local.t) or in_flux(local.t)
        if refused or (host.file is not None and host.file.tag == host.tag):
            return host, local._replace(end=True)
        return host._replace(file=Copy(local.v or "", local.r, local.g)), local

    return world.locked(me, name, [add])


def _promote(world: World, me: int) -> Step:
    """Into memory, if P stands, marked with T."""

    def step(state: State, local: Local) -> Outcome:
        if local.late and local.v == "old":
            state = state._replace(wrong="a lookup that began afterwards returns the old value")
        if world.has("fence") and state.fences[me] != local.p:
            return state, local
        if world.files and in_flux(local.t):
            return state, local  # a write was under way
        return state.keep(me, Copy(local.v or "", tag=local.g, token=local.t)), local

    return step


def refresh(world: World, me: int, name: str, *, anew: bool = False, full: bool = False) -> list[Step]:
    """A reload: what the loader returns takes the place of what is there, behind the fence.

    Args:
        world: where.
        me: the process.
        name: of the load.
        anew: whether it breaks the fences of older loads, as one that somebody asks for does.
        full: whether the host's tier has no room for it.
    """

    def expect(host: Host, local: Local) -> tuple[Host, Local]:
        stands = host.token == local.t or not world.has("expect")
        return host, local._replace(end=not stands)

    def put(host: Host, local: Local) -> tuple[Host, Local]:
        origin = None if local.r is None else (name, local.r[1])
        return host._replace(file=Copy(local.v or "", origin, local.g)), local

    def server(state: State, local: Local) -> Outcome:
        if local.r is None:  # there was nobody to ask: what the server has now goes
            return state._replace(server=None, server_token=name).tell(me, "key"), local
        if state.server_token != local.r[0] and world.has("expect at the server"):
            return state, local._replace(refused=True)
        made = Copy(local.v or "", tag=local.r[1])
        return state._replace(server=made, server_token=name).tell(me, "key"), local

    def memory(state: State, local: Local) -> Outcome:
        if local.refused:
            return state.forget(me), local
        remembered = _remember(world, me, name, local.v)(state, local)
        assert isinstance(remembered, tuple)
        return remembered

    steps = [*world.fence(me, anew=anew), *([world.origin(me)] if world.server else []), _loader]
    if world.files:
        if world.has("expect"):
            steps.append(_current(world, me))
        if full:  # what could not be stored is removed, and once more without looking at the token
            steps += world.change(me, f"{name}-full", _gone, left_in_flux=world.server, expect=expect)
            steps += world.change(me, name, _gone, left_in_flux=world.server)
            if world.has("nothing for memory"):
                steps.append(lambda state, local: (state.break_fence(me), local))
        else:
            steps += world.change(me, name, put, left_in_flux=world.server, expect=expect)
    if world.server:
        steps.append(world.call(me, server))
        if world.files:
            taken_back = world.change(me, f"{name}-back", _gone, left_in_flux=False)
            steps += world.settle(me, name)
            beyond = len(taken_back)
            steps.append(lambda state, local: (state, local._replace(jump=0 if local.refused else beyond)))
            steps += taken_back
    return [*steps, memory]


# -- lookups --------------------------------------------------------------------------------------------


def lookup(world: World, me: int) -> list[Step]:
    """What memory does not have, from the server or the file, copied."""

    def from_server(state: State, local: Local) -> Outcome:
        if me in state.out or state.answer is None:
            return state, local
        return state, local._replace(v=state.answer.value)

    def tags(state: State, local: Local) -> Outcome:
        if local.v is None:
            return state, local
        return state, local._replace(g=state.hosts[world.homes[me]].tag)

    def epoch(state: State, local: Local) -> Outcome:
        if local.v is None or state.hosts[world.homes[me]].epoch == local.e or not world.has("epoch"):
            return state, local
        return state, local._replace(
            t=(WRITING, "unnamed")
        )  # a tag was invalidated since: nobody knows which

    def again(state: State, local: Local) -> Outcome:
        if local.v is not None:
            return state, local
        return state, local._replace(t=state.hosts[world.homes[me]].token)

    def from_file(state: State, local: Local) -> Outcome:
        host = state.hosts[world.homes[me]]
        if local.v is not None:
            return state, local
        if host.file is None or host.file.tag != host.tag:
            return state, local._replace(end=True)
        return state, local._replace(v=host.file.value, g=host.file.tag, o=host.file.origin, found=True)

    def confirm(state: State, local: Local) -> Outcome | None:
        if not local.found or me in state.out or not world.has("confirm"):
            return state, local
        if state.answer is not None:
            return state, local._replace(v=state.answer.value)
        if local.o == (state.server_token, state.server_tag):
            return state._replace(server=Copy(local.v or "", tag=local.o[1])), local
        host = state.hosts[world.homes[me]]
        if host.lock is not None:
            return None
        host = host._replace(file=None, token=world.renewed(host, f"removed-{me}"))
        return state.with_host(world.homes[me], host), local._replace(end=True)

    steps = world.fence(me)
    if world.server:
        steps += [from_server, *([tags, epoch] if world.files else [])]
    if world.files:
        steps += [again, from_file, *([confirm] if world.server else [])]
    else:
        steps.append(lambda state, local: (state, local._replace(end=local.v is None)))
    return [*steps, _promote(world, me)]


def hit(world: World, me: int) -> list[Step]:
    """What a hit does whose copy was not compared with the latest news: it looks, and notes them."""

    def news(state: State, local: Local) -> Outcome:
        return state, local._replace(n=state.hosts[world.homes[me]].news)

    def compare(state: State, local: Local) -> Outcome:
        held = state.memories[me]
        if held is None or not world.agrees(held, state.hosts[world.homes[me]]):
            return state, local._replace(end=True)
        return state, local._replace(o=(held.token, held.tag))

    def note(state: State, local: Local) -> Outcome:
        held = state.memories[me]
        if held is None or (held.token, held.tag) != local.o:
            return state, local
        if in_flux(local.n) and world.has("news in flux"):
            return state, local
        return state.keep(me, held._replace(seen=local.n)), local

    return [news, compare, note] if world.has("news first") else [compare, news, note]


# -- invalidations --------------------------------------------------------------------------------------


def invalidate_tag(world: World, me: int, name: str) -> list[Step]:
    """`invalidate_by_tags`."""

    def server(state: State, local: Local) -> Outcome:
        return state._replace(server_tag=f"{name}-s").tell(me, "tag"), local

    def memory(state: State, local: Local) -> Outcome:
        # A copy under way names every tag, as nobody knows which it has.
        return (state.break_fence(me) if world.has("every tag") else state).keep(me, None), local

    def epoch(value: object) -> Effect:
        return lambda host, local: (host._replace(epoch=value), local)

    def news(value: object) -> Effect:
        return lambda host, local: (host._replace(news=value), local)

    effects: list[Effect] = [lambda host, local: (host._replace(tag=f"{name}-g"), local)]
    if world.has("epoch"):
        effects = [epoch((WRITING, name)), *effects, epoch(f"{name}-e")]
    if world.news:
        effects.insert(1, news((WRITING, f"n-{name}")))
        effects.append(news(f"n-{name}-over"))
    steps: list[Step] = [change_database]
    if world.server:
        steps.append(world.call(me, server, missed="tag"))
    if world.files:
        steps += [world.on_host(me, effect) for effect in effects]
    return [*steps, memory]


def write_elsewhere(world: World, me: int, name: str) -> list[Step]:
    """A write of a key in other buckets: of it, only the news are seen."""

    def look(state: State, local: Local) -> Outcome:
        return state, local._replace(n=state.hosts[world.homes[me]].news)

    def news(host: Host, local: Local) -> tuple[Host, Local]:
        number = f"n-{name}" if world.has("news that never were") else f"{local.n}+1"
        return host._replace(news=number), local

    return [look, world.on_host(me, news)]


def invalidate_pattern(world: World, me: int, name: str) -> list[Step]:
    """Host: tokens, file, tokens. Server: tokens, value, message, tokens. Host: tokens again."""

    def tokens(number: int) -> list[Step]:
        effects: list[Effect] = [
            lambda host, local: (host._replace(token=world.renewed(host, f"{name}-{number}")), local)
        ]
        if world.news:
            effects.append(lambda host, local: (host._replace(news=f"n-{name}-{number}"), local))
        return world.locked(me, name, effects)

    def forget(number: int) -> Step:
        return lambda state, local: (state._replace(server_token=f"{name}-r{number}"), local)

    steps: list[Step] = [change_database]
    if world.files:
        gone = world.change(
            me, f"{name}-gone", _gone, left_in_flux=False, news=world.has("news of what matches")
        )
        steps += [*tokens(1), *gone, *tokens(2)]
    if world.server:
        steps += [
            forget(1),
            lambda state, local: (state._replace(server=None), local),
            lambda state, local: (state.tell(me, "key"), local),
            forget(2),
        ]
        if world.files and world.has("tokens again"):
            steps += tokens(3)
    return [*steps, lambda state, local: (state.forget(me), local)]


def recover(world: World, me: int) -> list[Step]:
    """The server is back: what it missed, memory is told, calls go through, memory is told again."""

    def wait(state: State, local: Local) -> Outcome | None:
        return (state, local) if me in state.out else None

    def replay(state: State, local: Local) -> Outcome:
        for owner, what in sorted(state.journal):
            if owner == me:
                if what == "key":
                    state = state._replace(server=None, server_token="replayed")
                else:
                    state = state._replace(server_tag="replayed")
                state = state.tell(me, what)
        return state._replace(journal=frozenset(one for one in state.journal if one[0] != me)), local

    def close(state: State, local: Local) -> Outcome:
        state, _ = replay(state, local)
        return state._replace(out=state.out - {me}), local

    def clear(state: State, local: Local) -> Outcome:
        return state.forget(me), local

    return [wait, replay, clear, close, *([clear] if world.has("told twice") else [])]
