"""A subscription returns what other caches sent, in order, however the bytes arrive."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachekit.tiers.redis.bus_protocol import Outbox, beginning
from cachekit.tiers.redis.line import Line
from cachekit.tiers.redis.resp import WrongReplyError
from cachekit.tiers.redis.subscription import Subscription

CHANNEL = b"app%1:!"
OWN = "0123456789abcdef01"
OTHER = "0123456789abcdef02"


def frame(content: bytes, kind: bytes = b"message", mark: bytes = b"*") -> bytes:
    parts = (kind, CHANNEL, content)
    return mark + b"3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def said(writer: str, number: int, body: Any = ("k",)) -> bytes:
    return json.dumps([1, writer, number, "keys", body], separators=(",", ":")).encode()


def heard(pieces: list[bytes], own: str = OWN) -> tuple[list[bytes], list[bool]]:
    """Send the pieces one after the other; return the contents, and of each piece whether it had own ones."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subscription = Subscription(Line(ours, 5), CHANNEL, beginning(own))
        theirs.recv(100)  # SUBSCRIBE
        contents, flags = [], []
        for piece in pieces:
            theirs.sendall(piece)
            for kind, channel, content in subscription.receive(5):
                assert (kind, channel) == (b"message", CHANNEL)
                contents.append(content)
            flags.append(subscription.has_own)
        return contents, flags


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in (*pieces, data[at:]) if piece]


messages = st.lists(
    st.tuples(st.sampled_from([OWN, OTHER]), st.sampled_from([b"*", b">"]), st.text(max_size=5))
)


@given(messages, st.lists(st.integers(1, 40), max_size=30))
@example([(OWN, b"*", "a"), (OTHER, b"*", "b"), (OWN, b">", "c"), (OWN, b">", "\r\n")], [60, 1, 70, 100])
def test_messages_of_others_in_pieces(sent: list[tuple[str, bytes, str]], sizes: list[int]) -> None:
    """Where a message is cut on its way has no effect."""
    contents = [said(writer, number, [key]) for number, (writer, _, key) in enumerate(sent)]
    data = b"".join(frame(content, mark=mark) for content, (_, mark, _) in zip(contents, sent, strict=True))
    of_others = [content for content, (writer, _, _) in zip(contents, sent, strict=True) if writer == OTHER]
    received, has_own = heard(cut(data, sizes))
    assert received == of_others
    assert any(has_own) == any(writer == OWN for writer, _, _ in sent)


def test_own_messages_do_not_come_back() -> None:
    """What a cache has written it knows, as its outbox writes it: keys, tags, everything, heartbeats."""
    outbox = Outbox()
    texts = [outbox.message(kind, body)[1] for kind, body in (("keys", ["\ud800\r\n"]), ("all", None))]  # type: ignore[arg-type]
    texts.append(json.dumps([1, outbox.writer, 0, "beat", [0, 2]], separators=(",", ":")))
    assert heard([b"".join(frame(text.encode()) for text in texts)], outbox.writer) == ([], [True])


def test_only_the_last_look_counts() -> None:
    """Whether this process writes now decides how long messages of others are gathered."""
    assert heard([frame(said(OWN, 1)), frame(said(OTHER, 1))]) == ([said(OTHER, 1)], [True, False])


def test_what_only_resembles_an_own_message_is_heard() -> None:
    """Of another channel, kind or writer."""
    contents = [said(OWN[:-1], 1), said(OTHER, 1, [said(OWN, 1).decode()]), b" " + said(OWN, 1)]
    assert heard([b"".join(map(frame, contents))]) == (contents, [False])
    with pytest.raises(AssertionError):
        heard([frame(said(OWN, 1), b"pmessag")])


def test_a_message_without_an_end_is_bounded() -> None:
    """Of the own writer too: it is no message until its end has arrived."""
    endless = frame(said(OWN, 1, ["x" * (5 << 20)]))[:-2]
    with pytest.raises(WrongReplyError):
        heard([endless[at : at + (1 << 17)] for at in range(0, len(endless), 1 << 17)])
