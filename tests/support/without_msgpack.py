"""Skips what imports msgpack where that is not installed: free-threaded builds have no wheel of it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest


class _Absent:
    """Finds no msgpack, and says so to the test or module that wants it; subtests are skipped alone."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name == "msgpack":
            pytest.skip("msgpack is not installed", allow_module_level=True)
        return None


if importlib.util.find_spec("msgpack") is None:
    sys.meta_path.append(_Absent)
