"""Adapters between plain loaders, coroutine functions, threads and event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Final, ParamSpec

from cachekit.decorator.source import named_as
from cachekit.errors import CacheError
from cachekit.model.display import shown_key
from cachekit.runtime.threads import in_daemon_thread

_GLANCE: Final = 1.0  # seconds between two looks at whether the loop still runs

P = ParamSpec("P")


def awaiting(loader: Callable[P, Any]) -> Callable[P, Awaitable[Any]]:
    """Return the loader as a coroutine function.

    A plain function runs in a thread made for it: it may block, or wait for other loads, and no full pool can
    delay it. If it returns an awaitable, that is awaited here, so `lambda: fetch(url)` works like `fetch`.
    """
    if iscoroutinefunction(loader):
        return loader

    async def load(*args: P.args, **kwargs: P.kwargs) -> Any:
        value = await in_daemon_thread(loader, *args, **kwargs)
        return await value if isawaitable(value) else value

    return named_as(loader, load)


def from_threads(loader: Callable[[str], Awaitable[Any]]) -> Callable[[str], Any]:
    """Return a function for threads, which awaits the loader on the loop that runs now.

    Raises:
        CacheError: Raised by the returned function if the loop has ended.
    """
    loop = asyncio.get_running_loop()

    async def on_loop(key: str) -> Any:
        return await loader(key)

    def load(key: str) -> Any:
        if not loop.is_running():
            raise CacheError(f"{shown_key(key)} cannot be loaded, because its event loop has ended")
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
                    return future.result()  # it ended just now, or the loader raised TimeoutError
                if not loop.is_running():
                    future.cancel()
                    raise CacheError(
                        f"the load of {shown_key(key)} stopped, because its event loop has ended"
                    ) from None

    return load
