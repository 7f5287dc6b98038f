"""Loaders as callers write them, made into what a load on a loop awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Final, ParamSpec

from cachekit.errors import CacheError
from cachekit.runtime.threads import in_daemon_thread

_GLANCE: Final = 1.0  # seconds between two looks at whether the loop still runs

P = ParamSpec("P")


def awaiting(loader: Callable[P, Any]) -> Callable[P, Awaitable[Any]]:
    """The loader as a coroutine function.

    A plain function is called in a thread of its own: it may block, or wait for other loads, and no pool
    that others fill keeps it from beginning. What it returns is awaited here if it can be, so that
    `lambda: fetch(url)` is as good as `fetch`.
    """
    if iscoroutinefunction(loader):
        return loader

    async def load(*args: P.args, **kwargs: P.kwargs) -> Any:
        value = await in_daemon_thread(loader, *args, **kwargs)
        return await value if isawaitable(value) else value

    return load


def from_threads(loader: Callable[[str], Awaitable[Any]]) -> Callable[[str], Any]:
    """The loader for threads, awaited on the loop that runs now.

    Raises:
        CacheError: (the function returned) the loop has ended.
    """
    loop = asyncio.get_running_loop()

    async def on_loop(key: str) -> Any:
        return await loader(key)

    def load(key: str) -> Any:
        if not loop.is_running():
            raise CacheError(f"{key!r} was to be loaded on an event loop, which has ended")
        waiting = on_loop(key)
        try:
            future = asyncio.run_coroutine_threadsafe(waiting, loop)
        except RuntimeError:  # it was closed in this moment
            waiting.close()
            raise
        while True:
            try:
                return future.result(_GLANCE)
            except TimeoutError:
                if future.done():
                    return future.result()  # just now; or the error is the loader's own
                if not loop.is_running():
                    future.cancel()
                    raise CacheError(f"{key!r} was being loaded on an event loop, which has ended") from None

    return load
