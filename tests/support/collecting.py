"""What it costs to collect six thousand tests in each process of a run. A plugin.

The processes begin with different files. So each finds the bytecode of most files that it comes to, which the
others have written. What a process has made by then is frozen. Each full collection of garbage would visit
these million objects, a hundred times as many as a test makes. A forked child that collects garbage copies
none of their pages.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Of what is frozen, Python 3.14 does not tell Hypothesis who holds it."""
    config.addinivalue_line("filterwarnings", "ignore:It looks like `register_random` was passed an object")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Freeze what the collection of tests has made, and write no bytecode of what tests make."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
        # Two versions of a module that a test writes within a second look alike: each is compiled.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Begin with another file in each process."""
    report = yield
    if isinstance(collector, pytest.Directory) and report.result:
        worker, workers = _place(collector.config)
        first = len(report.result) * worker // workers
        report.result = report.result[first:] + report.result[:first]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests into one order, which all processes must have."""
    if _place(config) != (0, 1):
        items.sort(key=lambda item: item.path)


def _place(config: pytest.Config) -> tuple[int, int]:
    """Return the number of this process, and how many there are."""
    worker = getattr(config, "workerinput", None)
    return (int(worker["workerid"][2:]), worker["workercount"]) if worker else (0, 1)
