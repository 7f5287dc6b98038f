"""LowerFacade: the facade of a tier on a disk or a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, Self, TypeVar

from cachekit.aio.facade import Facade
from cachekit.runtime.threads import in_own_thread, run_in_thread

P = ParamSpec("P")
R = TypeVar("R")


class _Closes(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closes)


class LowerFacade(Facade[C]):
    """A facade over a tier on a disk or a server, which runs its methods in threads."""

    __slots__ = ()

    async def _run(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await run_in_thread(step, *args, **kwargs)

    async def close(self) -> None:
        """Close the tier, also for code that uses it without awaiting."""
        await in_own_thread(self._sync.close)

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
