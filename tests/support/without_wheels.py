"""Skips what needs these where they are not installed: free-threaded builds have no wheels of them."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

ABSENT = frozenset(
    name for name in ("hiredis", "msgpack", "uvloop") if importlib.util.find_spec(name) is None
)


class _Absent:
    """Skips the test or module that imports one of them; a subtest is skipped alone."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in ABSENT - {"hiredis"}:  # which redis-py tries to import, and can do without
            pytest.skip(f"{name} is not installed", allow_module_level=True)
        return None


sys.meta_path.append(_Absent)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what has the name of one among its parameters, before it makes a coroutine that it cannot run."""
    for item in items if ABSENT else ():
        for name in ABSENT & {*re.findall(r"\w+", getattr(item, "callspec", _Plain).id)}:
            item.add_marker(pytest.mark.skip(reason=f"{name} is not installed"))


class _Plain:
    """Stands for the parameters of a test that has none."""

    id = ""
