"""Replies of the server, however they arrive, and commands as the server reads them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachekit.tiers.redis.resp import BrokenReplyError, ServerError, packed, read_reply


def sent(reply: Any) -> bytes:
    """Return a reply as a server sends it."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    return b"*%d\r\n" % len(reply) + b"".join(map(sent, reply))


class Line:
    """A socket that delivers bytes in given pieces, then what `socket.recv` delivers at the end."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data = data
        self.sizes = sizes

    def recv(self, most: int) -> bytes:
        size = min(most, self.sizes.pop(0) if self.sizes else most)
        piece, self.data = self.data[:size], self.data[size:]
        return piece


def received(data: bytes, sizes: list[int] | None = None) -> Any:
    line: Any = Line(data, sizes or [])
    return read_reply(line, line.recv(1 << 16))


values = st.one_of(st.none(), st.binary(max_size=40), st.integers(-(1 << 63), (1 << 63) - 1))
replies = st.recursive(values, lambda inner: st.lists(inner, max_size=5), max_leaves=20)


@settings(max_examples=300)
@given(replies, st.lists(st.integers(1, 7), max_size=60))
def test_replies_in_pieces(reply: Any, sizes: list[int]) -> None:
    """Where a reply is cut on its way has no effect."""
    assert received(sent(reply), sizes) == reply


@settings(max_examples=300)
@given(replies, st.lists(st.integers(1, 30), max_size=20), st.data())
def test_a_reply_that_ends_early(reply: Any, sizes: list[int], data: st.DataObject) -> None:
    """A connection that ends within a reply is an error, and never a shorter value."""
    whole = sent(reply)
    with pytest.raises(BrokenReplyError):
        received(whole[: data.draw(st.integers(0, len(whole) - 1))], sizes)


@given(replies, replies)
def test_two_replies_at_once(one: Any, other: Any) -> None:
    """The second one would be taken for the reply to the next command."""
    with pytest.raises(BrokenReplyError, match="more than one"):
        received(sent(one) + sent(other))


@pytest.mark.parametrize(
    "data",
    [b"!4\r\nERR \r\n", b"$x\r\n", b"*1\r\n$\r\n", b">1\r\n+x\r\n", b"\r\n\r\n", b"*1\r\n" * 5000, b"(9\r\n"],
)
def test_what_is_no_reply(data: bytes) -> None:
    with pytest.raises(BrokenReplyError):
        received(data)


def test_other_kinds() -> None:
    assert received(b"+OK\r\n") == b"OK"
    assert received(b"_\r\n") is None
    assert received(b"*-1\r\n") is None
    assert received(b"*2\r\n_\r\n$1\r\nx\r\n") == [None, b"x"]
    with pytest.raises(ServerError, match=r"^WRONGTYPE, another"):
        received(b"-WRONGTYPE no\r\n")
    one, other = received(b"*2\r\n:1\r\n-ERR inside\r\n")
    assert one == 1
    assert isinstance(other, ServerError)


def test_a_long_value() -> None:
    """What is larger than one piece of the network comes whole, also within others."""
    long = bytes(range(256)) * 12_345
    for reply in long, [b"x", long, None, long]:
        assert received(sent(reply), [1, 1000, 70_000]) == reply


def test_commands() -> None:
    assert packed(("SET", b"k\r\n", -5, "")) == b"*4\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n-5\r\n$0\r\n\r\n"
