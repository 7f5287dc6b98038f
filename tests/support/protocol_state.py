"""What the model of the protocol is made of: the tiers at one moment, and what somebody remembers of them.

One key in one bucket with one tag, so that everybody is in everybody's way. Values are words: "old" is what
everything begins with, and must not come back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

#: What a token that says "a write is under way" begins with.
WRITING = "flux"


class Copy(NamedTuple):
    """A value somewhere, and what must hold for it to be served."""

    value: str
    origin: Any = None  #: in a file: the server's token of the key and, beside it, of the tag
    tag: Any = None  #: in a file or in memory: the host's token of the tag; on the server: its own
    token: Any = None  #: in memory: the host's token of the key
    seen: Any = None  #: in memory: what the host's news were when all of this was compared


class Host(NamedTuple):
    """What the processes of one host share."""

    file: Copy | None = None
    token: Any = "t0"
    tag: Any = "g0"
    epoch: Any = "e0"
    news: Any = "n0"
    lock: str | None = None  #: who has it


class State(NamedTuple):
    """Everything, at one moment."""

    hosts: tuple[Host, ...]
    memories: tuple[Copy | None, ...]
    fences: tuple[int, ...]  #: P of each process, as the number of times that it was broken
    database: str = "old"
    server: Copy | None = None
    server_token: Any = "r0"
    server_tag: Any = "s0"
    messages: frozenset[tuple[int, str]] = frozenset()  #: to a process, of what
    out: frozenset[int] = frozenset()  #: processes whose server is out
    journal: frozenset[tuple[int, str]] = frozenset()  #: of a process: what its server has missed
    done: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()
    evicted: bool = False  #: the server has let go of its value once
    failed: bool = False  #: a call of the server has failed once
    abandoned: bool = False  #: a write under way was taken for dead once
    told: bool = False  #: the writer's call has returned, and its messages have arrived
    shown: tuple[str, ...] = ()  #: what could have been served so far, in this order
    wrong: str = ""  #: what an actor has found out

    def with_host(self, number: int, host: Host) -> State:
        return self._replace(hosts=(*self.hosts[:number], host, *self.hosts[number + 1 :]))

    def keep(self, process: int, copy: Copy | None) -> State:
        memories = (*self.memories[:process], copy, *self.memories[process + 1 :])
        return self._replace(memories=memories)

    def break_fence(self, process: int) -> State:
        fences = (*self.fences[:process], self.fences[process] + 1, *self.fences[process + 1 :])
        return self._replace(fences=fences)

    def forget(self, process: int) -> State:
        """Its memory lets go of the key, and of whatever is on its way there."""
        return self.keep(process, None).break_fence(process)

    def tell(self, speaker: int, what: str) -> State:
        others = {(other, what) for other in range(len(self.memories)) if other != speaker}
        return self._replace(messages=self.messages | others)

    def miss(self, process: int, what: str) -> State:
        """Note for later what the server of the process was not told."""
        return self._replace(out=self.out | {process}, journal=self.journal | {(process, what)})

    @property
    def answer(self) -> Copy | None:
        """What the server says has the key."""
        return self.server if self.server is not None and self.server.tag == self.server_tag else None


class Local(NamedTuple):
    """What an actor remembers between two of its steps."""

    p: int = -1
    t: Any = None
    e: Any = None
    g: Any = None  #: the host's token of the tag
    r: Any = None  #: RT of the key and, beside it, of the tag
    s: Any = None  #: the server's token of the tag
    v: str | None = None  #: the value in hand
    o: Any = None  #: with which origin it was found
    n: Any = None  #: the news
    found: bool = False  #: whether the value comes from a file
    mine: bool = True  #: whether nobody wrote while the own write was in flux
    refused: bool = False  #: whether the server knew of a newer write
    late: bool = False  #: whether it began after the writer's call had returned
    jump: int = 0  #: how many steps to go beyond the next one, or back
    end: bool = False  #: whether that was all


Outcome: TypeAlias = "tuple[State, Local]"
#: One atomic step: what it makes of everything and of what its actor remembers; several, if chance has a
#: part in it; None if it must wait.
Step: TypeAlias = Callable[[State, Local], "Outcome | list[Outcome] | None"]
#: A step that concerns what a host shares, and nothing else.
Effect: TypeAlias = Callable[[Host, Local], "tuple[Host, Local]"]


def in_flux(token: object) -> bool:
    """Whether it says that a write is under way."""
    return isinstance(token, tuple) and token[0] == WRITING
