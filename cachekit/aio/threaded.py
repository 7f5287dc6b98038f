"""What the tiers below memory have in common: everything that may touch a disk or a socket has threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, Self, TypeVar

from cachekit.aio.facade import Facade
from cachekit.runtime.threads import IoThreadPool, in_own_thread

P = ParamSpec("P")
R = TypeVar("R")


class _Closes(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closes)


class LowerFacade(Facade[C]):
    """A facade over a tier on a disk or a server, with threads of its own."""

    __slots__ = ("_threads",)

    def _set_up(self, sync: C) -> None:
        super()._set_up(sync)
        self._threads = IoThreadPool()

    async def _run(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._threads.run(step, *args, **kwargs)

    async def close(self) -> None:
        """Close the tier, also for who uses it without awaiting, and end the threads."""
        await in_own_thread(self._sync.close)
        await in_own_thread(self._threads.close, wait=True)

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
