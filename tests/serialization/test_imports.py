"""Nothing heavy is loaded before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import cachekit", "cachekit.serialization pickle hmac zlib json msgpack backports.zstd"),
        (
            "from cachekit.serialization import Serializer as S; S('n').encode('k', 1, created=1)",
            "msgpack backports.zstd json decimal fractions uuid zoneinfo pathlib socket",
        ),
        (
            "from cachekit.serialization import Serializer; Serializer('ns', codec='json')",
            "msgpack backports.zstd",
        ),
    ],
)
def test_what_an_import_does_not_load(statement: str, absent: str) -> None:
    """Extras and the modules of value types are loaded on first use only."""
    program = f"{statement}; import sys; print(*(set(sys.modules) & set({absent.split()!r})))"
    before = "import sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=200
    )
    # A site customisation may load anything in every process; that is not ours.
    always = subprocess.run(
        [sys.executable, "-c", before], capture_output=True, text=True, check=True, timeout=200
    )
    assert set(loaded.stdout.split()) - set(always.stdout.split()) == set()
