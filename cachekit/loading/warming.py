"""Warming: load many keys ahead of time, several at once, and report what came of each.

A key that a lower tier has needs no load, and is copied into memory. Processes and hosts that warm the same
keys at the same time load each key once: a key that another one is loading is put off until all others are
done, and then waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

from cachekit.errors import CacheError
from cachekit.loading.path import Blocking, LoadPath, Path
from cachekit.loading.progress import Progress, ProgressCallback, check_progress, progress_for
from cachekit.loading.request import LoadRequest
from cachekit.loading.tasks_driver import AwaitedLoads
from cachekit.loading.threads_driver import Loads
from cachekit.model.display import safe_repr, shown_key
from cachekit.model.reports import WarmReport
from cachekit.model.types import MISSING
from cachekit.runtime.interrupts import is_interrupt

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


@final
class _Agenda:
    """The keys that are left, and how to load them. Safe in any thread.

    `finished` is called with each key, and with whether it was loaded here, or with its error.
    """

    def __init__(
        self,
        path: LoadPath,
        keys: Sequence[str],
        loader: Callable[[str], Any],
        request: LoadRequest,
        finished: Callable[[str, bool | BaseException], object],
    ) -> None:
        self._path = path
        self._keys = deque((key, False) for key in keys)
        self._loader = loader
        self._request = request
        self._finished = finished

    def drop(self) -> None:
        """Begin no further load."""
        self._keys.clear()

    def work(self, loop: AbstractEventLoop | None = None) -> Path[None]:
        """Warm keys until none is left."""
        while self._keys:
            try:
                key, waits = self._keys.popleft()
            except IndexError:  # another worker has taken the last one
                return
            result: bool | BaseException | None
            try:
                result = yield from self._warm(key, waits, loop)
            except Exception as error:
                if is_interrupt(error):
                    self.drop()
                    raise
                result = error  # for the report
            except BaseException as error:
                if loop is None or not _is_of_the_load(error):
                    self.drop()
                    raise
                result = CacheError(f"the load of {shown_key(key)} was cancelled")
            if result is None:
                self._keys.append((key, True))  # to wait for another process after all other keys
            else:
                self._finished(key, result)

    def _warm(
        self, key: str, waits: bool, loop: AbstractEventLoop | None
    ) -> Path[bool | BaseException | None]:
        """Load a key that no tier has; None if another process is loading it, and this one does not wait."""
        tiers = self._path.tiers
        if tiers.peek_memory(key) is not MISSING:
            return False
        if tiers.lower and (yield Blocking(tiers.promote_quietly, key)) is not MISSING:
            return False
        called = False

        def load() -> Any:
            nonlocal called
            called = True
            return self._loader(key)

        values: dict[str, Any] = {}
        request = self._request.unasked(waits)
        failed = yield from self._path.load((key,), load, request, values, loop)
        if failed is not None:
            return failed.error
        return called if values else None


def _is_of_the_load(error: BaseException) -> bool:
    """Return whether the load was cancelled, and not the task that waits for it."""
    import asyncio

    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()


def warm(
    loads: Loads,
    keys: Sequence[str],
    loader: Callable[[str], Any],
    request: LoadRequest,
    concurrency: int,
    progress: ProgressCallback | bool | None,
) -> WarmReport:
    """Load the keys that no tier has, in a pool of threads that ends with the call.

    A key that fails stops no other. The loads run in copies of the caller's context, which also says what
    the caller itself is loading (see `flights`).

    Args:
        loads: of the cache.
        keys: distinct.
        loader: returns the value of a key.
        request: for all keys.
        concurrency: how many threads, at least 1.
        progress: called in the caller's thread as `progress(done, total)` after each key; True shows a bar.

    Raises:
        TypeError: `progress` is neither True or False, nor callable, nor None.
        ValueError: `concurrency` is not an int of at least 1.
    """
    _check(concurrency, progress)
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context
    from queue import Empty, SimpleQueue

    context = copy_context()
    finished: SimpleQueue[tuple[str, bool | BaseException]] = SimpleQueue()

    def load(key: str) -> Any:
        return copy_context().run(loader, key)  # what it sets there is not for the keys that follow

    agenda = _Agenda(loads.path, keys, load, request, lambda *one: finished.put(one))

    def work() -> None:
        try:
            context.copy().run(loads.drive, agenda.work())
        except BaseException as error:  # noqa: BLE001  # SystemExit and the like, for the caller
            finished.put(("", error))

    results: dict[str, bool | BaseException] = {}
    with (
        ThreadPoolExecutor(concurrency, thread_name_prefix="cachekit-warm") as threads,
        _shown(progress, len(keys), results) as display,
    ):
        try:
            for _ in range(min(concurrency, len(keys))):
                threads.submit(work)
            while len(results) < len(keys):
                try:
                    key, result = finished.get(timeout=display.patience)
                except Empty:
                    display.draw()
                    continue
                if isinstance(result, BaseException) and not isinstance(result, Exception):
                    raise result
                results[key] = result
                display.update(len(results))
        finally:
            agenda.drop()  # after Ctrl-C, or if the progress callback fails
    return _report(keys, results)


async def warm_async(
    loads: AwaitedLoads,
    keys: Sequence[str],
    loader: Callable[[str], Awaitable[Any]],
    request: LoadRequest,
    concurrency: int,
    progress: ProgressCallback | bool | None,
) -> WarmReport:
    """Load the keys that no tier has, as `warm`, in tasks that end with the call.

    Raises:
        TypeError, ValueError: as `warm`.
    """
    _check(concurrency, progress)
    import asyncio

    results: dict[str, bool | BaseException] = {}

    def finished(key: str, result: bool | BaseException) -> None:
        results[key] = result
        display.update(len(results))

    agenda = _Agenda(loads.path, keys, loader, request, finished)
    loop = asyncio.get_running_loop()
    with _shown(progress, len(keys), results) as display:
        workers = [
            asyncio.ensure_future(loads.drive(agenda.work(loop))) for _ in range(min(concurrency, len(keys)))
        ]
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
            for worker in workers:  # if this task was cancelled, or the progress callback fails
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return _report(keys, results)


def _check(concurrency: object, progress: object) -> None:
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ValueError(f"concurrency must be an int of at least 1, not {safe_repr(concurrency)}")
    check_progress(progress)


@contextmanager
def _shown(
    progress: ProgressCallback | bool | None, total: int, results: Mapping[str, bool | BaseException]
) -> Iterator[Progress]:
    """Show the progress inside a `with` block, and a summary of the results at its end."""
    display = progress_for(progress, "warming", total)
    try:
        yield display
    except BaseException:
        display.end(None)
        raise
    loaded, fresh = (sum(result is which for result in results.values()) for which in (True, False))
    failed = total - loaded - fresh
    display.end(f"{total:,} keys: {loaded:,} loaded, {fresh:,} fresh, {failed:,} failed")


def _report(keys: Sequence[str], results: Mapping[str, bool | BaseException]) -> WarmReport:
    return WarmReport(
        loaded=[key for key in keys if results[key] is True],
        fresh=[key for key in keys if results[key] is False],
        failed={key: why for key in keys if isinstance(why := results[key], Exception)},
    )
