"""How a test learns that a load waits for its turn."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cachekit.loading.permits import LoadPermit


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A pipe with a byte for each turn, in this process or one forked from it, that had to wait."""
    read, write = os.pipe()
    later = LoadPermit._later

    def announced(turn: LoadPermit) -> LoadPermit | None:
        if not turn._waited:
            os.write(write, b"x")
        return later(turn)

    monkeypatch.setattr(LoadPermit, "_later", announced)
    yield read
    os.close(read)
    os.close(write)
