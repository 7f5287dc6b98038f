"""The atomic steps of which the calls of a cache consist, in the model of the protocol.

Each guard of the protocol can be taken out of a `World`; then there must be a schedule that goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from protocol_state import WRITING, Copy, Effect, Host, Local, Outcome, State, Step, in_flux


@dataclass(frozen=True)
class World:
    """Which tiers there are, where the processes run, and which guards are in force."""

    files: bool = True
    server: bool = True
    homes: tuple[int, ...] = (0, 0, 0)  #: the host of each process
    news: bool = False  #: whether hits compare the news first; else all is compared at every hit
    fails: int = -1  #: the process of which one call of the server fails, carried out or not
    without: frozenset[str] = frozenset()

    def has(self, guard: str) -> bool:
        return guard not in self.without

    # -- what a lookup returns at this moment ---------------------------------------------------------

    def served(self, state: State, process: int) -> str | None:
        held, host = state.memories[process], state.hosts[self.homes[process]]
        if held is not None and self.stands(held, host):
            return held.value
        if self.server and process not in state.out and state.answer is not None:
            return state.answer.value
        if self.files and host.file is not None and host.file.tag == host.tag:
            if not self.server or process in state.out or not self.has("confirm"):
                return host.file.value
            if host.file.origin == (state.server_token, state.server_tag):
                return host.file.value
        return None

    def stands(self, held: Copy, host: Host) -> bool:
        if not self.files or not self.has("mark") or (self.news and held.seen == host.news):
            return True
        return self.agrees(held, host)

    @staticmethod
    def agrees(held: Copy, host: Host) -> bool:
        return not in_flux(held.token) and (held.token, held.tag) == (host.token, host.tag)

    # -- what the steps consist of --------------------------------------------------------------------

    def private(self, me: int, *, anew: bool = False) -> Step:
        """P."""

        def step(state: State, local: Local) -> Outcome:
            if anew:
                state = state.break_fence(me)
            return state, local._replace(p=state.fences[me], late=state.told)

        return step

    def shared(self, me: int) -> Step:
        """T, and the token and the epoch of tags."""

        def step(state: State, local: Local) -> Outcome:
            host = state.hosts[self.homes[me]]
            epoch = None if in_flux(host.epoch) else host.epoch
            news = None if self.has("news that never were") else host.news
            return state, local._replace(t=host.token, e=epoch, g=host.tag, n=news)

        return step

    def fence(self, me: int, *, anew: bool = False) -> list[Step]:
        """Before anything is read."""
        return [self.private(me, anew=anew), *([self.shared(me)] if self.files else [])]

    def origin(self, me: int) -> Step:
        """RT."""

        def step(state: State, local: Local) -> Outcome:
            return state, local._replace(
                r=None if me in state.out else (state.server_token, state.server_tag)
            )

        return step

    def server_tags(self, me: int) -> Step:
        def step(state: State, local: Local) -> Outcome:
            return state, local._replace(s=None if me in state.out else state.server_tag)

        return step

    def on_host(self, me: int, effect: Effect) -> Step:
        """An effect that needs no lock."""

        def step(state: State, local: Local) -> Outcome:
            host, local = effect(state.hosts[self.homes[me]], local)
            return state.with_host(self.homes[me], host), local

        return step

    def locked(self, me: int, name: str, effects: Iterable[Effect]) -> list[Step]:
        """Effects under the lock, which the first one takes and the last one gives back."""
        effects = list(effects)

        def of(number: int, effect: Effect) -> Step:
            def step(state: State, local: Local) -> Outcome | None:
                host = state.hosts[self.homes[me]]
                if not number and host.lock is not None:
                    return None
                host, local = effect(host, local)
                over = number == len(effects) - 1 or local.jump or local.end
                return state.with_host(self.homes[me], host._replace(lock=None if over else name)), local

            return step

        return [of(number, effect) for number, effect in enumerate(effects)]

    def change(
        self,
        me: int,
        name: str,
        put: Effect,
        *,
        left_in_flux: bool,
        expect: Effect | None = None,
        news: bool = True,
    ) -> list[Step]:
        """What a host's tier does to change a key: flux, news, the record, the token; under its lock."""

        def now(host: Host, local: Local) -> tuple[Host, Local]:
            fresh = self.has("news that never were")
            return host._replace(news=f"n-{name}" if fresh else f"{local.n}+1"), local

        def flux(host: Host, local: Local) -> tuple[Host, Local]:
            return host._replace(token=(WRITING, name, self.under_way(host))), local

        def left(host: Host, local: Local) -> tuple[Host, Local]:
            return host._replace(token=(WRITING, name, self.under_way(host) + 1)), local

        def token(host: Host, local: Local) -> tuple[Host, Local]:
            return host._replace(token=self.renewed(host, name)), local

        told = [now] if self.news and news else []
        effects = [] if expect is None else [expect]
        if self.has("flux"):
            effects.append(flux)
        effects += told if self.has("news before the record") else []
        effects.append(put)
        effects.append(left if left_in_flux and self.has("flux") else token)
        effects += [] if self.has("news before the record") else told
        return self.locked(me, name, effects)

    def under_way(self, host: Host) -> int:
        """How many writes are left in flux."""
        return int(host.token[2]) if in_flux(host.token) and self.has("all writes in flux") else 0

    def renewed(self, host: Host, token: str, ended: int = 0) -> Any:
        """The token after a change that is over; it says so if other writes are left in flux."""
        others = self.under_way(host) - ended
        return (WRITING, token, others) if others > 0 else token

    def settle(self, me: int, name: str) -> list[Step]:
        """The end of a write in flux; whether nobody wrote meanwhile."""

        def effect(host: Host, local: Local) -> tuple[Host, Local]:
            mine = host.token == (WRITING, name, 1) or not self.has("flux")
            token = name if mine else self.renewed(host, f"{name}-other", ended=1)
            news = f"n-{name}-settled" if self.news else host.news
            return host._replace(token=token, news=news), local._replace(mine=mine)

        return self.locked(me, name, [effect])

    def call(self, me: int, *effects: Callable[[State, Local], Outcome], missed: str = "key") -> Step:
        """A call of the server: all at once, and not at all while it is out.

        Where one fails, that may be after any part of it.
        """

        def step(state: State, local: Local) -> list[Outcome]:
            if me in state.out:
                missing = state.miss(me, missed) if self.has("journal") else state
                return [(missing, local)]
            outcomes = [(state, local)]
            for effect in effects:
                outcomes.append(effect(*outcomes[-1]))
            failures: list[Outcome] = []
            if self.fails == me and not state.failed:
                for after, _ in outcomes:
                    after = after.miss(me, missed) if self.has("journal") else after
                    failures.append((after._replace(failed=True, out=after.out | {me}), local))
            return [outcomes[-1], *failures]

        return step
