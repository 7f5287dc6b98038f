"""Warming on a loop: many keys loaded ahead of time, several at once, and a report of what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cachekit.coherence.tier_stack import TierStack
from cachekit.errors import CacheError
from cachekit.loading.progress import ProgressCallback
from cachekit.loading.request import LoadRequest
from cachekit.loading.tasks_driver import AwaitedLoads
from cachekit.loading.warming import Agenda, check, is_fresh, report, shown, warming_request
from cachekit.model.reports import WarmReport
from cachekit.model.types import MISSING


async def warm(
    levels: TierStack,
    loads: AwaitedLoads,
    keys: Sequence[str],
    loader: Callable[[str], Awaitable[Any]],
    request: LoadRequest,
    concurrency: int,
    progress: ProgressCallback | bool | None,
) -> WarmReport:
    """`cachekit.loading.warming.warm`, with as many tasks as that has threads; they end with the call.

    Raises:
        TypeError: `progress` is neither True or False, nor callable, nor None.
        ValueError: `concurrency` is not an int of at least 1.
    """
    check(concurrency, progress)
    agenda = Agenda(keys)
    outcomes: dict[str, bool | Exception] = {}

    async def warm_one(key: str, waits: bool) -> bool | None:
        """Whether it was loaded here; None if somebody else is doing that."""
        if levels.peek_memory(key) is not MISSING:
            return False
        if levels.lower and await loads.in_io_thread(is_fresh, levels, key):
            return False
        called = False

        async def load() -> Any:
            nonlocal called
            called = True
            return await loader(key)

        value = await loads.load_on(key, load, warming_request(request, waits))
        return None if value is MISSING else called

    async def warm_some() -> None:
        while (following := agenda.next()) is not None:
            key, _ = following
            outcome: bool | Exception | None
            try:
                outcome = await warm_one(*following)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                outcome = CacheError(f"the load of {key!r} was cancelled")
            except Exception as error:  # noqa: BLE001  # the report says which, and why
                outcome = error
            if outcome is None:
                agenda.put_off(key)
            else:
                outcomes[key] = outcome
                display.update(len(outcomes))

    with shown(progress, len(keys), outcomes) as display:
        workers = [asyncio.ensure_future(warm_some()) for _ in range(min(concurrency, len(keys)))]
        try:
            pending = set(workers)
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=display.patience, return_when=asyncio.FIRST_EXCEPTION
                )
                for worker in done:
                    worker.result()
                display.draw()
        finally:
            # A failing progress callback, or this task was cancelled: begin no further load.
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return report(keys, outcomes)
