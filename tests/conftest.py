"""For every test: no file of the person who runs them is touched, and none of another test found."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where default caches of this test are, also those of its subprocesses."""
    directory = tmp_path_factory.mktemp("cachekit")
    monkeypatch.setenv("CACHEKIT_DIR", str(directory))
    return directory
