"""Nothing heavy is loaded before it is asked for."""

from __future__ import annotations

import pytest
from fresh_imports import SITE_PACKAGES, loaded_by


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import cachekit", "cachekit.serialization pickle hmac zlib json msgpack backports.zstd"),
        (
            "from cachekit.serialization.serializer import Serializer as S; S('n').encode('k', 1, created=1)",
            "msgpack backports.zstd json decimal fractions uuid zoneinfo pathlib socket",
        ),
        (
            "from cachekit.serialization.serializer import Serializer; Serializer('ns', codec='json')",
            "msgpack backports.zstd",
        ),
    ],
)
def test_what_an_import_does_not_load(statement: str, absent: str) -> None:
    """Extras and the modules of value types are loaded on first use only."""
    assert loaded_by(statement, SITE_PACKAGES) & set(absent.split()) == set()
