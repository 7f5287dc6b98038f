"""Loaders as callers write them, made into what a load on a loop awaits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any, ParamSpec

from cachekit.offloop import in_own_thread

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
        value = await in_own_thread(loader, *args, **kwargs)
        return await value if isawaitable(value) else value

    return load
