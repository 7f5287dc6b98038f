"""The wire format: its bytes are a promise, and parsing takes them or says what is wrong."""

from __future__ import annotations

import math
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.errors import UnreadableError
from cachekit.model.validation import LONGEST, MOST_TAGS
from cachekit.serialization import envelope
from cachekit.serialization.serializer import Serializer


def test_the_layout_is_the_one_described() -> None:
    """Written by hand from the essay, byte for byte, an envelope is what encode writes."""
    tags = struct.pack("<QI", 7, 1) + b"t"
    header = struct.pack("<BBIdddI", 2, 0, len(tags), 1.0, 2.0, 3.0, zlib.crc32(b'"v"')) + tags
    hidden = b"CK\x01\x00" + struct.pack("<Q", 2) + b"ns" + struct.pack("<Q", 3) + b"key"
    expected = b"CK\x01\x00" + struct.pack("<I", zlib.crc32(hidden + header)) + header + b'"v"'
    actual = Serializer("ns", codec="json").encode(
        "key", "v", created=1, expires=2, stale_until=3, tags={"t": 7}
    )
    assert expected == actual


@given(tags=st.dictionaries(st.text(st.characters(codec=None)), st.integers(0, 2**64 - 1)))
def test_tags_return(tags: dict[str, int]) -> None:
    """Tags and tokens are parsed as they were packed, whatever their names."""
    packed = envelope.pack_tags(tags)
    header = envelope.pack_fixed(1, 0, len(packed), 1.0, math.inf, 2.0, 3)
    parsed = envelope.parse_header(b"????" + header + packed + b"payload", 4)
    assert parsed.tags == tags
    assert parsed.size == len(header) + len(packed)


@given(st.binary(max_size=120))
def test_parsing_raises_only_its_own_error(buffer: bytes) -> None:
    """Whatever is between the seal and the payload, parsing ends in a header or UnreadableError."""
    try:
        envelope.parse_header(buffer, 4)
    except UnreadableError as error:
        reason = error.reason
        assert reason == "damage"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (b"short", "within a tag"),
        (struct.pack("<QI", 1, 5) + b"four", "longer than the room"),
        (struct.pack("<QI", 1, 1) + b"\xff", "not UTF-8"),
        (b"".join([struct.pack("<QI4s", 1, 4, b"%04x" % tag) for tag in range(1 << 16)]), "more tags than"),
        (struct.pack("<QI", 1, LONGEST + 1) + b"a" * (LONGEST + 1), "longer than tags may be"),
        (struct.pack("<QI1s", 1, 1, b"a") * 2, "there twice"),
    ],
    ids=["cut", "too long", "no text", "too many", "longer than any", "twice"],
)
def test_malformed_tags(tags: bytes, message: str) -> None:
    """Tags that contradict themselves are damage."""
    header = envelope.pack_fixed(1, 0, len(tags), 1.0, 1.0, 1.0, 0)
    with pytest.raises(UnreadableError, match=message):
        envelope.parse_header(header + tags, 0)
    with pytest.raises(UnreadableError, match="end within their tags"):
        envelope.parse_header(header + tags[:-1], 0)


def test_the_most_tags() -> None:
    packed = envelope.pack_tags(tags := {str(number): number for number in range(MOST_TAGS)})
    header = envelope.pack_fixed(1, 0, len(packed), 1.0, 1.0, 1.0, 0)
    assert envelope.parse_header(header + packed, 0).tags == tags


def test_a_time_that_is_not_a_number() -> None:
    """NaN in a header would never expire; it is damage."""
    for times in (math.nan, 1, 1), (1, math.nan, 1), (1, 1, math.nan):
        with pytest.raises(UnreadableError, match="not a number"):
            envelope.parse_header(envelope.pack_fixed(1, 0, 0, *times, 0), 0)


def test_names_in_a_row_are_not_ambiguous() -> None:
    """Two names behind their lengths are never two others."""
    assert envelope.sized(b"a") + envelope.sized(b"bc") != envelope.sized(b"ab") + envelope.sized(b"c")
