"""Warming: many keys loaded ahead of time, several at once, and a report of what came of each.

What some tier has needs no load, and is copied into memory. Whoever else warms the same keys, in another
process or on another host, does so at the same time and not twice: a key that somebody else is loading is
put off until all others are done, and then waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

from cachekit.coherence.tier_stack import TierStack
from cachekit.loading.path import Loads
from cachekit.loading.progress import Progress, ProgressCallback, check_progress, progress_for
from cachekit.loading.request import LoadRequest
from cachekit.model.reports import WarmReport
from cachekit.model.types import MISSING


@final
class Agenda:
    """The keys that are left, those that others are loading at the end. Safe in any thread."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._first = deque(keys)
        self._later: deque[str] = deque()

    def next(self) -> tuple[str, bool] | None:
        """A key, and whether to wait for somebody else who loads it; None if there is none left."""
        for keys, waits in ((self._first, False), (self._later, True)):
            try:
                return keys.popleft(), waits
            except IndexError:
                pass
        return None

    def put_off(self, key: str) -> None:
        """Somebody else is loading it."""
        self._later.append(key)

    def drop(self) -> None:
        """Begin nothing more."""
        self._first.clear()
        self._later.clear()


def warming_request(request: LoadRequest, waits: bool) -> LoadRequest:
    """The terms on which one key is warmed: looking for it is nobody's request."""
    return request._replace(is_asked=False, waits=waits)


def is_fresh(levels: TierStack, key: str) -> bool:
    """Whether some tier has the key, which is then copied into memory; no lookup that counts."""
    return levels.peek_memory(key) is not MISSING or (
        levels.lower and levels.promote_quietly(key) is not MISSING
    )


def warm(
    levels: TierStack,
    loads: Loads,
    keys: Sequence[str],
    loader: Callable[[str], Any],
    request: LoadRequest,
    concurrency: int,
    progress: ProgressCallback | bool | None,
) -> WarmReport:
    """Load the keys that are not fresh, in a pool of threads that ends with the call.

    A key that fails stops no other. The loads run in copies of the caller's context, which also says what
    the caller itself is loading (see `singleflight`).

    Args:
        levels: where the keys shall be.
        loads: of the same cache.
        keys: distinct.
        loader: from a key to its value.
        request: of all of the keys.
        concurrency: how many threads, at least 1.
        progress: called in the caller's thread as `progress(done, total)` after each key; True shows a bar.

    Raises:
        TypeError: `progress` is none of these.
        ValueError: `concurrency` is not an int of at least 1.
    """
    check(concurrency, progress)
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context
    from queue import Empty, SimpleQueue

    agenda = Agenda(keys)
    context = copy_context()
    finished: SimpleQueue[tuple[str, bool | BaseException]] = SimpleQueue()

    def warm_one(key: str, waits: bool) -> bool | None:
        """Whether it was loaded here; None if somebody else is doing that."""
        if is_fresh(levels, key):
            return False
        called = False

        def load() -> Any:
            nonlocal called
            called = True
            return loader(key)

        value = loads.load_on(key, load, warming_request(request, waits))
        return None if value is MISSING else called

    def work() -> None:
        while (following := agenda.next()) is not None:
            key, _ = following
            try:
                outcome: bool | BaseException | None = context.copy().run(warm_one, *following)
            except BaseException as error:  # noqa: BLE001  # for the report, or for the caller
                outcome = error
                if not isinstance(error, Exception):  # SystemExit and the like: nothing more begins
                    agenda.drop()
            if outcome is None:
                agenda.put_off(key)
            else:
                finished.put((key, outcome))

    outcomes: dict[str, bool | Exception] = {}
    with (
        ThreadPoolExecutor(concurrency, thread_name_prefix="cachekit-warm") as threads,
        shown(progress, len(keys), outcomes) as display,
    ):
        try:
            for _ in range(min(concurrency, len(keys))):
                threads.submit(work)
            while len(outcomes) < len(keys):
                try:
                    key, outcome = finished.get(timeout=display.patience)
                except Empty:
                    display.draw()
                    continue
                if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
                    raise outcome  # SystemExit and the like
                outcomes[key] = outcome
                display.update(len(outcomes))
        finally:
            # Ctrl-C, or a failing progress callback: begin no further load.
            agenda.drop()
    return report(keys, outcomes)


def check(concurrency: object, progress: object) -> None:
    """Refuse what cannot be either.

    Raises:
        TypeError: `progress` is neither True or False, nor callable, nor None.
        ValueError: `concurrency` is not an int of at least 1.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ValueError(f"concurrency must be an int of at least 1, not {concurrency!r}")
    check_progress(progress)


@contextmanager
def shown(
    progress: ProgressCallback | bool | None, total: int, outcomes: Mapping[str, bool | Exception]
) -> Iterator[Progress]:
    """A display for as long as the block lasts; it ends with what came of them."""
    display = progress_for(progress, "warming", total)
    try:
        yield display
    except BaseException:
        display.end(None)
        raise
    loaded, fresh = (sum(outcome is which for outcome in outcomes.values()) for which in (True, False))
    failed = total - loaded - fresh
    display.end(f"{total:,} keys: {loaded:,} loaded, {fresh:,} fresh, {failed:,} failed")


def report(keys: Sequence[str], outcomes: Mapping[str, bool | Exception]) -> WarmReport:
    """What came of each key: True was loaded, False was fresh, an error failed."""
    return WarmReport(
        loaded=[key for key in keys if outcomes[key] is True],
        fresh=[key for key in keys if outcomes[key] is False],
        failed={key: why for key in keys if isinstance(why := outcomes[key], Exception)},
    )
