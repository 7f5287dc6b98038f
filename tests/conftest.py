"""For every test: no file of the person who runs them is touched, and none of another test found."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachekit import set_default_cache

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell has it for what runs in its background: then so would the processes that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "without_wheels",  # first, because another one imports it
    "aio_caches", "clocked", "collecting", "counting", "disks", "drivers", "exploring", "given_back",
    "lease_servers", "loops", "lying_caches", "other_users", "patience", "redis_fixtures", "slow_loads",
    "three_tiers", "turns_taken",
]  # fmt: skip


def pytest_xdist_auto_num_workers() -> int:
    """Two more processes than there are CPUs: the tests wait for a third of their time."""
    return (os.cpu_count() or 1) + 2


@pytest.fixture(autouse=True)
def own_directory(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Where default caches of this test are, also those of its subprocesses; they are closed after it."""
    directory = tmp_path_factory.mktemp("cachekit")
    # A process that a test starts finds the package as it is installed, with its bytecode.
    monkeypatch.chdir(directory)
    monkeypatch.setenv("CACHEKIT_DIR", str(directory))
    # No reader of other programs makes the caches of a test publish figures.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    # Processes that a test starts are programs of their own, unless the test is about that.
    monkeypatch.delenv("CACHEKIT_PROGRAM", raising=False)
    yield directory
    cache = set_default_cache(None)
    if cache is not None:
        cache.close()
