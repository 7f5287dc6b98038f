"""Celery: tasks of which one call runs at a time, and workers that close their cache when they end.

Cached functions need no adapter: a cache works in workers that were forked before or after its first use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from celery import Task
from celery.exceptions import Ignore
from celery.signals import worker_process_shutdown, worker_shutdown

from cachekit.cache.default import DefaultSource, core_of, get_default_cache
from cachekit.cache.intelligent import IntelligentCache
from cachekit.decorator.key_encoding import arguments_text
from cachekit.loading.options import LoadOptions
from cachekit.model.display import safe_repr
from cachekit.model.types import MISSING, Missing

P = ParamSpec("P")
R = TypeVar("R")

#: By this Celery knows the receiver, so that a second call replaces it.
_RECEIVER: Final = "cachekit.close_at_exit"


def single_run(
    cache: IntelligentCache, *, lease_timeout: float = 300.0
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for the function of a task, below `@app.task`: equal calls do not run together.

    While one call runs, others with the same arguments end at once, in the state IGNORED.

    Args:
        cache: The cache whose lease it is: among the hosts of its server, or else among the processes of its
            directory.
        lease_timeout: Seconds until a lease on the server ends, if the worker that has it was killed (default
            300). Make it longer than the task takes.

    Raises:
        TypeError: `cache` is not an IntelligentCache.
        ValueError: the cache has only memory, or a `lease_timeout` out of range.

    If the server or the directory is out, every call runs. A call raises KeyEncodingError for an argument
    that cannot be part of a key.
    """
    if not isinstance(cache, IntelligentCache):
        raise TypeError(
            f"cache must be an IntelligentCache, not {safe_repr(cache)}; pass cache=IntelligentCache()"
        )
    permits = core_of(cache).loads.path.permits
    scope = permits.widest()
    if scope == "thread":
        raise ValueError(
            "cache must have a server or a directory, which workers share, and this one has neither: give it "
            "redis_cache=RedisCache(...) or file_cache=FileCache(...)"
        )
    options = LoadOptions(lease=scope, lease_timeout=lease_timeout)
    permits.check(options)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = f"cachekit.single_run:{function.__module__}.{function.__qualname__}"

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            # With bind=True, the first argument is the task itself.
            own = args[1:] if args and isinstance(args[0], Task) else args
            key = f"{name}({arguments_text([('args', own), ('kwargs', kwargs)])})"
            permit = permits.permit(key, options, _nothing, _nothing)
            try:
                if permit.try_acquire() is None:
                    raise Ignore(f"another call of {function.__qualname__} with these arguments runs")
                return function(*args, **kwargs)
            finally:
                permit.release()

        return run

    return decorate


def close_at_exit(cache: IntelligentCache | None = None) -> None:
    """Close a cache when a worker process ends, so that its last figures are counted.

    Args:
        cache: The cache (default: the default cache, if the process has used it).
    """
    if cache is not None and not isinstance(cache, IntelligentCache):
        raise TypeError(f"cache must be an IntelligentCache or None, not {safe_repr(cache)}")

    def close(**_: Any) -> None:
        if cache is not None:
            cache.close()
        elif DefaultSource().is_ready():
            get_default_cache().close()

    for signal in (worker_process_shutdown, worker_shutdown):
        signal.connect(close, weak=False, dispatch_uid=_RECEIVER)


def _nothing() -> Missing:
    return MISSING
