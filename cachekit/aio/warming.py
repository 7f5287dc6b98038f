"""Warming on a loop: many keys loaded ahead of time, several at once, and a report of what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from cachekit import warming
from cachekit.errors import CacheError
from cachekit.model import WarmReport


async def warm(
    keys: Sequence[str],
    is_fresh: Callable[[str], Awaitable[bool]],
    load: Callable[[str], Awaitable[object]],
    concurrency: int,
    progress: Callable[[int, int], object] | None,
) -> WarmReport:
    """`cachekit.warming.warm`, with as many tasks as that has threads; they end with the call.

    Raises:
        TypeError: `progress` is not callable.
        ValueError: `concurrency` is not an int of at least 1.
    """
    warming.check(concurrency, progress)
    outcomes: dict[str, bool | Exception] = {}
    waiting = iter(keys)

    async def warm_some() -> None:
        for key in waiting:
            try:
                if await is_fresh(key):
                    outcomes[key] = False
                else:
                    await load(key)
                    outcomes[key] = True
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                outcomes[key] = CacheError(f"the load of {key!r} was cancelled")
            except Exception as error:  # noqa: BLE001  # the report says which, and why
                outcomes[key] = error
            if progress is not None:
                progress(len(outcomes), len(keys))

    workers = [asyncio.ensure_future(warm_some()) for _ in range(min(concurrency, len(keys)))]
    try:
        await asyncio.gather(*workers)
    finally:
        # A failing progress callback, or this task was cancelled: begin no further load.
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return warming.report(keys, outcomes)
