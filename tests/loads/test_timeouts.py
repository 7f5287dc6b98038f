"""hard_timeout: who is let go, what becomes of the load, and what a hung one holds up."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import NoReturn

import inside
import pytest
from racing import in_thread, race

from cachekit import IntelligentCache, LoadOptions, LoadTimeoutError, MemoryCache
from cachekit.model.display import shown_key
from cachekit.testing import ManualClock

SHORT = LoadOptions(hard_timeout=0.02)
LONG = LoadOptions(hard_timeout=30)


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(clock=clock), file_cache=None) as cache:
        yield cache


class Slow:
    """A loader that the test lets go on."""

    def __init__(self, value: str = "slow") -> None:
        self.value = value
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.go_on.wait(60)
        return self.value


def wait_until_kept(cache: IntelligentCache, key: str) -> object:
    """The value that a load in the background keeps."""
    deadline = threading.Event()
    for _ in range(2000):
        value = cache.get(key)
        if value is not None:
            return value
        deadline.wait(0.005)
    raise AssertionError("the load did not end")


def test_whoever_waits_too_long_gets_an_error_and_the_value_is_kept(cache: IntelligentCache) -> None:
    slow = Slow()
    with pytest.raises(
        LoadTimeoutError, match=rf"the load of {shown_key('k')} took longer than 0\.02 s"
    ) as caught:
        cache.get_or_set("k", slow, load=SHORT)
    assert isinstance(caught.value, TimeoutError)
    slow.go_on.set()
    assert wait_until_kept(cache, "k") == "slow"
    stats = cache.get_stats()["combined"]
    assert (stats.loads, stats.load_failures) == (1, 0)


def test_an_invalidation_after_the_timeout_wins(cache: IntelligentCache) -> None:
    """P4 for a load whose caller is gone: its fence was taken before it began."""
    slow = Slow()
    with pytest.raises(LoadTimeoutError):
        cache.get_or_set("k", slow, tags={"t"}, load=SHORT)
    cache.invalidate_by_tags({"t"})
    assert cache.get_or_set("k", lambda: "new") == "new"
    threads = [thread for thread in threading.enumerate() if thread.name == "cachekit-load"]
    slow.go_on.set()
    for thread in threads:
        thread.join(60)
    assert cache.get("k") == "new"
    assert cache.get_stats()["memory"].refusals == 1


def test_a_load_in_time_is_one_for_all(cache: IntelligentCache) -> None:
    """With a timeout that no caller reaches there is still one load, and its error is everyone's."""
    loads = []

    def loader() -> str:
        loads.append(threading.current_thread().name)
        return "value"

    assert race(*[lambda: cache.get_or_set("k", loader, load=LONG)] * 8) == ["value"] * 8
    assert loads == ["cachekit-load"]

    def failing() -> NoReturn:
        raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        cache.get_or_set("j", failing, load=LONG)


def test_waiters_have_their_own_time(cache: IntelligentCache) -> None:
    """One who joins a load without a timeout is let go by its own."""
    slow = Slow()
    leader = in_thread(lambda: cache.get_or_set("k", slow))
    assert slow.began.wait(60)
    with pytest.raises(LoadTimeoutError):
        cache.get_or_set("k", slow, load=SHORT)
    slow.go_on.set()
    assert leader() == "slow"


def test_a_hung_load_does_not_hold_up_those_who_come_later(cache: IntelligentCache) -> None:
    """After its caller was let go no other joins it, and the first value that comes is kept."""
    hung = Slow("hung")
    with pytest.raises(LoadTimeoutError):
        cache.get_or_set("k", hung, load=SHORT)
    assert cache.get_or_set("k", lambda: "quick") == "quick"
    hung.go_on.set()


def test_stale_rather_than_an_error(cache: IntelligentCache, clock: ManualClock) -> None:
    cache.set("k", "old", ttl=10, stale_ttl=60)
    clock.advance(10)
    slow = Slow()
    assert cache.get_or_set("k", slow, stale_ttl=60, load=SHORT) == "old"
    slow.go_on.set()


def test_context_and_nested_loads_reach_the_thread(cache: IntelligentCache) -> None:
    """Contextvars are the caller's; a load that needs its own key, or its caller's, does not deadlock."""
    asked: contextvars.ContextVar[str] = contextvars.ContextVar("asked")
    asked.set("by me")

    def inner() -> str:
        return asked.get() + cache.get_or_set("outer", lambda: " again", load=LONG)

    def outer() -> str:
        return cache.get_or_set("inner", inner, load=LONG)

    assert cache.get_or_set("outer", outer, load=LONG) in {"by me again", " again"}
    assert cache.get("inner") == "by me again"


def test_an_exit_in_the_loader_is_its_callers(cache: IntelligentCache) -> None:
    def leaving() -> NoReturn:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        cache.get_or_set("k", leaving, load=LONG)
    with pytest.raises(SystemExit):
        cache.get_or_set_many(["k"], lambda keys: leaving(), load=LONG)
    assert cache.get_or_set("k", lambda: 1, load=LONG) == 1


@pytest.mark.parametrize("load", [LONG, LoadOptions(soft_timeout=30)], ids=["hard", "soft"])
def test_an_exit_in_a_refresh_is_its_callers(cache: IntelligentCache, load: LoadOptions) -> None:
    """The caller waits for the thread of the load, whatever ends that."""
    leaves = False

    @cache.cached(name="f", stale_ttl=60, load=load)
    def function() -> int:
        if leaves:
            raise SystemExit(3)
        return 1

    assert function() == 1
    leaves = True
    finish = in_thread(function.refresh)
    with pytest.raises(SystemExit):
        finish()
    assert len(inside.flights(cache)) == 0


def test_batches_have_it_too(cache: IntelligentCache) -> None:
    slow = Slow()

    def loader(keys: list[str]) -> dict[str, str]:
        return dict.fromkeys(keys[:1], slow())

    with pytest.raises(LoadTimeoutError):
        cache.get_or_set_many(["a", "b"], loader, load=SHORT)
    slow.go_on.set()
    assert wait_until_kept(cache, "a") == "slow"
    assert cache.get("b") is None
    assert cache.get_or_set_many(["b", "c"], loader, load=LONG) == {"b": "slow"}


def test_a_soft_timeout_on_an_event_loop(cache: IntelligentCache, clock: ManualClock) -> None:
    calls = []

    @cache.cached(name="soft", ttl=10, stale_ttl=60, load=LoadOptions(soft_timeout=0.01))
    async def soft() -> int:
        calls.append(1)
        if len(calls) > 1:
            await go_on.wait()
        return len(calls)

    go_on = asyncio.Event()

    async def main() -> list[int]:
        answers = [await soft()]
        clock.advance(10)
        answers.append(await soft())
        go_on.set()
        while cache.get_stats()["combined"].loads < 2:
            await asyncio.sleep(0)
        return [*answers, await soft()]

    assert asyncio.run(main()) == [1, 1, 2]


def test_a_batch_that_hangs_is_left_behind_with_all_of_its_keys() -> None:
    """The next caller begins again, for each of them."""
    go = threading.Event()

    def hangs(keys: list[str]) -> dict[str, int]:
        assert go.wait(60)
        return {}

    with IntelligentCache(file_cache=None) as cache:
        with pytest.raises(LoadTimeoutError):
            cache.get_or_set_many(["a", "b"], hangs, load=LoadOptions(hard_timeout=0.01))
        found = cache.get_or_set_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1))
        assert found == {"a": 1, "b": 1}
        go.set()


@pytest.mark.parametrize("error", [OSError("backend down"), SystemExit("no more")], ids=["error", "exit"])
def test_an_error_that_no_caller_gets_is_logged(
    cache: IntelligentCache, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """The caller has left after its timeout, so nothing else tells of the failure."""
    slow = Slow()

    def failing() -> NoReturn:
        slow()
        raise error

    with pytest.raises(LoadTimeoutError):
        cache.get_or_set("k", failing, load=SHORT)
    threads = [thread for thread in threading.enumerate() if thread.name == "cachekit-load"]
    slow.go_on.set()
    for thread in threads:
        thread.join(60)
    assert (
        f"load of {shown_key('k')} failed, serving the old value if there is one: {type(error).__name__}"
        in caplog.text
    )


def test_an_error_that_no_task_gets_is_logged(
    cache: IntelligentCache, caplog: pytest.LogCaptureFixture
) -> None:
    """As in threads."""

    @cache.cached(key_func=lambda: "k", load=SHORT)
    async def failing() -> NoReturn:
        await go_on.wait()
        raise OSError("backend down")

    go_on = asyncio.Event()

    async def main() -> None:
        with pytest.raises(LoadTimeoutError):
            await failing()
        (load,) = inside.tasks(cache)
        go_on.set()
        await load

    asyncio.run(main())
    assert f"load of {shown_key('k')} failed, serving the old value if there is one: OSError" in caplog.text


@pytest.mark.parametrize("load", [LoadOptions(), LONG], ids=["here", "background"])
def test_stop_iteration_is_an_error_like_any_other(cache: IntelligentCache, load: LoadOptions) -> None:
    """A loader such as `lambda: next(rows)`: what it raises reaches the caller as it is."""
    with pytest.raises(StopIteration):
        cache.get_or_set("k", lambda: next(iter(())), load=load)
    with pytest.raises(StopIteration):
        cache.get_or_set_many(["k"], lambda keys: next(iter(())), load=load)
    assert isinstance(
        cache.warm_cache(["k"], lambda key: next(iter(())), load=load).failed["k"], StopIteration
    )
