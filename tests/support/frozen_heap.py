"""Each full collection of garbage would visit the modules and items of all tests: they are frozen. A plugin.

There are a million of these objects, and a hundredth as many of a test. A forked child that collects copies
none of their pages.
"""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Freeze what the collection of tests has made."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
