"""Bytes that an earlier version wrote are read as they were meant, or cleanly refused."""

from __future__ import annotations

from typing import Any

import golden
import pytest
from same import same

from cachekit.errors import UnreadableError
from cachekit.serialization.serializer import Serializer


@pytest.mark.parametrize("name", golden.FILES)
def test_golden_files_are_read(name: str) -> None:
    """Every file of version 1 gives its value, times and tags."""
    options, value = golden.FILES[name]
    buffer = (golden.DIRECTORY / name).read_bytes()
    stored = Serializer(golden.NAMESPACE, **options).decode(golden.KEY, buffer)
    assert same(value, stored.value())
    assert stored.created == golden.HEADER["created"]
    assert stored.expires == golden.HEADER["expires"]
    assert stored.stale_until == golden.HEADER["stale_until"]
    assert stored.tags == golden.TAGS


def test_every_golden_file_is_tested() -> None:
    """No file lies there unread."""
    assert {path.name for path in golden.DIRECTORY.iterdir()} == set(golden.FILES)


@pytest.mark.parametrize("name", golden.FILES)
@pytest.mark.parametrize("start", [b"CK\x02\x00", b"CK\x00\x00", b"CK\x01\x02", b"CK\xff\xff"])
def test_other_versions_are_cleanly_refused(name: str, start: bytes) -> None:
    """A version or flag that is not known is unreadable for that reason."""
    options: dict[str, Any] = golden.FILES[name][0]
    buffer = start + (golden.DIRECTORY / name).read_bytes()[4:]
    with pytest.raises(UnreadableError) as caught:
        Serializer(golden.NAMESPACE, **options).decode(golden.KEY, buffer)
    assert caught.value.reason == "version"
