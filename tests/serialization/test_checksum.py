"""The checksum is the same with and without the extra, so each reads what the other has stored."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.serialization import checksum

#: Stores or reads a small and a large value, and prints which library computes.
PROGRAM = """
import sys
how, where, action = sys.argv[1:]
if how == "plain":
    sys.modules["zlib_ng"] = None
from pathlib import Path
from cachekit import FileCache, IntelligentCache
from cachekit.serialization.checksum import crc32
with IntelligentCache(None, None, FileCache(cache_dir=Path(where))) as cache:
    for key, value in (("small", 1), ("large", "x" * 40_000)):
        if action == "write":
            cache.set(key, value)
        else:
            assert cache.get(key) == value, key
print(crc32.__module__)
"""


def run(how: str, where: Path, action: str) -> str:
    command = [sys.executable, "-c", PROGRAM, how, str(where), action]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@given(st.binary(max_size=3000), st.integers(0, 2**32 - 1))
def test_the_value_is_that_of_zlib(data: bytes, start: int) -> None:
    """Of bytes and of views, from any start."""
    assert checksum.crc32(data) == zlib.crc32(data)
    assert checksum.crc32(memoryview(data)[1:], start) == zlib.crc32(data[1:], start)


def test_each_reads_what_the_other_has_stored(tmp_path: Path) -> None:
    """A directory outlives the installation of the extra, in either direction."""
    pytest.importorskip("zlib_ng")
    for writer, reader in (("plain", "extra"), ("extra", "plain")):
        where = tmp_path / writer
        assert run(writer, where, "write") != run(reader, where, "read")
