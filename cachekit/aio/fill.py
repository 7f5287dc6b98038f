"""Fill, awaited: a load that is not a function, from before it begins until its value is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, final

from cachekit.aio.facade import Facade, in_thread
from cachekit.cache.fill import Fill as Core

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")


class Runner(Protocol):
    """Runs a step off the loop."""

    async def __call__(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the step returns."""
        ...


@final
class Fill(Facade[Core[V]], Generic[V]):
    """`cachekit.Fill`, awaited. `begin` of a cache or a region returns one."""

    __slots__ = ("_run_in_thread",)

    def __init__(self, sync: Core[V], run: Runner) -> None:
        self._set_up(sync)
        self._run_in_thread = run

    async def _run(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run_in_thread(step, *args, **kwargs)

    @property
    def key(self) -> str:
        """Return the key that is loaded."""
        return self._sync.key

    store = in_thread(Core.store)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Fill belongs to its cache and its process, so it cannot be pickled")
