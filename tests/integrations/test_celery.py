"""The adapter for Celery: single runs, and a real worker whose processes share a directory."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("celery", reason="celery is not installed; the extra celery has it")

from celery import Celery
from celery.signals import worker_process_shutdown
from redis_server import wait_until

from cachekit import CacheClosedError, FileCache, IntelligentCache, KeyEncodingError, MemoryCache
from cachekit.integrations.celery import close_at_exit, single_run


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[IntelligentCache]:
    with IntelligentCache(file_cache=FileCache(tmp_path / "cache")) as made:
        yield made


class Blocking:
    """The function of a task, which waits inside until it is told to go on."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.goes_on = threading.Event()
        self.calls: list[str] = []

    def run(self, day: str, fails: bool = False) -> str:
        self.calls.append(day)
        self.inside.set()
        assert self.goes_on.wait(60)
        if fails:
            raise ValueError(day)
        return day


def task_of(cache: IntelligentCache, blocking: Blocking, **options: Any) -> Any:
    app = Celery("tests", set_as_current=False)

    @single_run(cache)
    def nightly(*args: Any, **kwargs: Any) -> str:
        return blocking.run(*(args[1:] if options.get("bind") else args), **kwargs)

    return app.task(name="nightly", **options)(nightly)


@pytest.mark.parametrize("bind", [False, True])
def test_one_at_a_time(cache: IntelligentCache, bind: bool) -> None:
    """A second call with the same arguments is ignored, one with others runs, and afterwards it may run."""
    blocking = Blocking()
    task = task_of(cache, blocking, bind=bind)
    results: list[Any] = []
    first = threading.Thread(target=lambda: results.append(task.apply(("monday",))))
    first.start()
    assert blocking.inside.wait(60)
    assert task.apply(("monday",)).state == "IGNORED"
    blocking.goes_on.set()
    assert task.apply(("tuesday",)).get() == "tuesday"
    first.join()
    assert results[0].get() == "monday"
    assert task.apply(("monday",)).get() == "monday"
    assert blocking.calls == ["monday", "tuesday", "monday"]


def test_a_task_that_fails_gives_the_lease_back(cache: IntelligentCache) -> None:
    blocking = Blocking()
    blocking.goes_on.set()
    task = task_of(cache, blocking)
    for _ in range(2):
        assert task.apply(("monday",), {"fails": True}).state == "FAILURE"
    assert len(blocking.calls) == 2


def test_wrong_arguments(cache: IntelligentCache) -> None:
    wrong: Any = "cache"
    with pytest.raises(TypeError, match="cache must be an IntelligentCache, not 'cache'"):
        single_run(wrong)
    with pytest.raises(TypeError, match="cache must be an IntelligentCache or None"):
        close_at_exit(wrong)
    with pytest.raises(ValueError, match="lease_timeout must be from"):
        single_run(cache, lease_timeout=0)
    with (
        IntelligentCache(MemoryCache(), file_cache=None) as memory,
        pytest.raises(ValueError, match="cache must have a server or a directory"),
    ):
        single_run(memory)
    with pytest.raises(KeyEncodingError):
        single_run(cache)(print)(threading.Lock())


def test_close_at_exit(tmp_path: Path) -> None:
    cache = IntelligentCache(file_cache=FileCache(tmp_path / "cache"))
    close_at_exit(cache)
    close_at_exit(cache)
    worker_process_shutdown.send(sender=None)
    with pytest.raises(CacheClosedError):
        cache.get("a")


APP = """
import pathlib, time
from celery import Celery
from cachekit import FileCache, IntelligentCache, cache_result
from cachekit.integrations.celery import close_at_exit, single_run

here = pathlib.Path(__file__).parent
cache = IntelligentCache(file_cache=FileCache(here / "cache"))  # before the workers are forked
app = Celery("program", broker={url!r})
close_at_exit(cache)

def note(name, said):
    with open(here / name, "a") as file:
        file.write(f"{{said}}\\n")

@cache_result(cache=cache)
def price(item):
    note("loads", item)
    return len(item)

@app.task
def priced(item):
    note("prices", price(item))

@app.task
@single_run(cache)
def nightly(day):
    note("begun", day)
    while not (here / "go-on").exists():
        time.sleep(0.01)  # between two looks at the file that the test touches
    note("ended", day)
"""


@pytest.mark.soak
def test_a_worker(tmp_path: Path, redis_url: str) -> None:
    """Its two processes share a cache that was made before they were forked, and one runs the task."""
    (tmp_path / "program.py").write_text(APP.format(url=redis_url))
    command = [sys.executable, "-m", "celery", "-A", "program", "worker", "-c", "2", "-l", "warning"]
    worker = subprocess.Popen(command, cwd=tmp_path)

    def noted(name: str) -> list[str]:
        file = tmp_path / name
        return file.read_text().split() if file.exists() else []

    app = Celery("program", broker=redis_url, set_as_current=False)
    with app.connection_for_write() as connection:
        try:
            app.send_task("program.nightly", ("monday",), connection=connection)
            wait_until(lambda: noted("begun"), "the task runs")
            app.send_task("program.nightly", ("monday",), connection=connection)
            for _ in range(5):
                app.send_task("program.priced", ("apple",), connection=connection)
            wait_until(lambda: len(noted("prices")) == 5, "all are priced, by the process that is free")
            assert (set(noted("prices")), noted("loads")) == ({"5"}, ["apple"])
            (tmp_path / "go-on").touch()
            wait_until(lambda: noted("ended"), "the task ends")
            app.send_task("program.nightly", ("tuesday",), connection=connection)
            wait_until(lambda: len(noted("ended")) == 2, "the next one ends")
            assert noted("begun") == ["monday", "tuesday"]
        finally:
            worker.terminate()
            worker.wait(60)
