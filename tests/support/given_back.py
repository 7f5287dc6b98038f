"""After each test: its descriptors, threads and child processes are gone. A plugin.

What a fixture of a class or module holds is looked for when that fixture is over, and what one of the session
holds stays.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from collections.abc import Generator
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import pytest
from without_wheels import ABSENT

#: One for all caches of the process, which may end some time after the last of them.
THREADS = {"cachekit-upkeep"}
#: What a library opens once and keeps: the shared memory of multiprocessing, the fonts of matplotlib.
FILES = ("/dev/shm/pym-", "/mpl-data/fonts/")

_CHILDREN = f"/proc/self/task/{os.getpid()}/children"
_PATIENCE = 10.0


class Held(NamedTuple):
    """What this process has now."""

    descriptors: frozenset[str]
    threads: frozenset[threading.Thread]
    children: frozenset[str]

    def more_than(self, other: Held) -> bool:
        return not all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


def held() -> Held:
    # Without the one by which they were listed, which is closed again.
    descriptors = [one for one in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{one}")]
    with open(_CHILDREN, encoding="ascii") as file:
        children = file.read().split()
    threads = [one for one in threading.enumerate() if one.name not in THREADS]
    return Held(frozenset(descriptors), frozenset(threads), frozenset(children))


class GivenBack:
    """Compares what the process has after a test with what it had before."""

    def __init__(self) -> None:
        self.before = held()
        self.wide = 0  #: fixtures of classes and modules that are not over

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """Know of what lives longer than a test."""
        if fixturedef.scope == "function":
            return (yield)
        if fixturedef.scope != "session":
            self.wide += 1
            fixturedef.addfinalizer(self._over)
            return (yield)
        earlier = held()
        try:
            return (yield)
        finally:
            now = held()
            self.before = Held(
                self.before.descriptors | now.descriptors - earlier.descriptors,
                self.before.threads | now.threads - earlier.threads,
                self.before.children | now.children - earlier.children,
            )

    def _over(self) -> None:
        self.wide -= 1

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        """Look, when the fixtures are over."""
        yield
        if self.wide:
            return
        now = held()
        if now.more_than(self.before):
            now = self._settled()
        before, self.before = self.before, now
        if now.more_than(before):
            pytest.fail(f"{item.nodeid} leaves behind: {described(now, before)}", pytrace=False)

    def _settled(self) -> Held:
        """Return what stays, also when garbage is collected and threads have had time to end."""
        mapped = {one for one in held().descriptors if any(file in _target(one) for file in FILES)}
        self.before = self.before._replace(descriptors=self.before.descriptors | mapped)
        deadline = time.monotonic() + _PATIENCE
        _collect()
        while (now := held()).more_than(self.before) and time.monotonic() < deadline:
            time.sleep(0.005)  # between two looks at a condition
            _collect()
        return now


def _collect() -> None:
    # What the collector gives back is given back. A warning of it would fail the next test, not its owner.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def described(now: Held, before: Held) -> str:
    """Return what there is more of, and where there is much of it, how much."""
    more = sorted(now.descriptors - before.descriptors)
    found = [f"{len(more)} descriptors:"] if len(more) > 8 else []
    found += [f"descriptor {link}" for link in map(_target, more[:8])]
    found += [f"thread {thread.name}" for thread in now.threads - before.threads]
    found += [f"process {_command(child)}" for child in now.children - before.children]
    return ", ".join(found)


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""  # it is closed by now


def _command(child: str) -> str:
    try:
        with open(f"/proc/{child}/cmdline", encoding="utf-8") as file:
            return file.read().replace("\0", " ") or f"{child}, which has ended and was not waited for"
    except OSError:
        return "that has ended by now"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin before the first test."""
    # What the first one that needs it begins, and nothing ends.
    if "uvloop" not in ABSENT:
        import uvloop

        uvloop.new_event_loop().close()  # a pipe for signals
    resource_tracker.ensure_running()
    if os.path.exists(_CHILDREN):
        session.config.pluginmanager.register(GivenBack())
