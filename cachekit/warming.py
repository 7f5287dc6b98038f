"""Warming: many keys loaded ahead of time, several at once, and a report of what came of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cachekit.model import WarmReport


def warm(
    keys: Sequence[str],
    is_fresh: Callable[[str], bool],
    load: Callable[[str], object],
    concurrency: int,
    progress: Callable[[int, int], object] | None,
) -> WarmReport:
    """Load the keys that are not fresh, in a pool of threads that ends with the call.

    A key that fails stops no other. The loads run in the caller's context, which also says what the
    caller itself is loading (see `singleflight`).

    Args:
        keys: distinct.
        is_fresh: whether a key needs no load.
        load: loads one key and keeps its value.
        concurrency: how many threads, at least 1.
        progress: called in the caller's thread as `progress(done, total)` after each key.

    Raises:
        TypeError: `progress` is not callable.
        ValueError: `concurrency` is not an int of at least 1.
    """
    check(concurrency, progress)
    from concurrent.futures import ThreadPoolExecutor, as_completed
    from contextvars import copy_context

    def warm_one(key: str) -> bool:
        if is_fresh(key):
            return False
        load(key)
        return True

    outcomes: dict[str, bool | Exception] = {}
    with ThreadPoolExecutor(concurrency, thread_name_prefix="cachekit-warm") as threads:
        jobs = {threads.submit(copy_context().run, warm_one, key): key for key in keys}
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                try:
                    outcomes[jobs[job]] = job.result()
                except Exception as error:  # noqa: BLE001  # the report says which, and why
                    outcomes[jobs[job]] = error
                if progress is not None:
                    progress(done, len(jobs))
        except BaseException:
            # Ctrl-C, or a failing progress callback: begin no further load.
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return report(keys, outcomes)


def check(concurrency: object, progress: object) -> None:
    """Refuse what cannot be either.

    Raises:
        TypeError: `progress` is not callable.
        ValueError: `concurrency` is not an int of at least 1.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ValueError(f"concurrency must be an int of at least 1, not {concurrency!r}")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of done and total, not {progress!r}")


def report(keys: Sequence[str], outcomes: Mapping[str, bool | Exception]) -> WarmReport:
    """What came of each key: True was loaded, False was fresh, an error failed."""
    return WarmReport(
        loaded=[key for key in keys if outcomes[key] is True],
        fresh=[key for key in keys if outcomes[key] is False],
        failed={key: why for key in keys if isinstance(why := outcomes[key], Exception)},
    )
