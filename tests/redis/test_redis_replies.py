"""Replies of the server, however they arrive, and commands as the server reads them."""

from __future__ import annotations

import itertools
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis._parsers import _RESP3Parser
from redis.exceptions import AuthenticationError, BusyLoadingError, InvalidResponse
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from cachekit.tiers.redis.connection import _bounded
from cachekit.tiers.redis.driver_parser import BoundedParser
from cachekit.tiers.redis.resp import BrokenReplyError, Replies, ServerError, form_of, packed, read_reply


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


@given(st.lists(st.tuples(st.binary(max_size=20), st.booleans()), min_size=1))
def test_a_form_is_a_packed_command(parts: list[tuple[bytes, bool]]) -> None:
    """Whichever of its parts are known before."""
    form = form_of(*(None if later else part for part, later in parts))
    filled = tuple(said for part, later in parts if later for said in (len(part), part))
    assert form % filled == packed(tuple(part for part, _ in parts))


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


# -- the parser of connections made with redis-py -------------------------------------------------------


def read_by(parser: Any, data: bytes, sizes: list[int] | None = None) -> list[Any]:
    """The answers that a parser of redis-py reads, up to the one that is not there."""
    line = DriverLine(data, sizes or [])
    # redis-py's own parsers read from `_sock`.
    connection: Any = SimpleNamespace(line=line, _sock=line, socket_timeout=1, encoder=Encoder())
    made = parser(socket_read_size=1 << 16)
    made.on_connect(connection)
    answers = []
    with suppress(OSError, DriverConnectionError):
        while True:
            answers.append(made.read_response(disable_decoding=True))
    return answers


class DriverLine(Line):
    """A `Line` as a parser uses it."""

    def settimeout(self, _: float | None) -> None: ...


class Encoder:
    """That of a client which decodes nothing."""

    encoding_errors, decode_responses = "strict", False


def sent_to_driver(reply: Any) -> bytes:
    """Return a reply as a server sends it in the newer protocol, with maps and sets."""
    if reply is None:
        return b"_\r\n"
    if isinstance(reply, dict):
        parts = itertools.chain.from_iterable(reply.items())
        return b"%%%d\r\n" % len(reply) + b"".join(map(sent_to_driver, parts))
    if isinstance(reply, (list, tuple)):
        kind = b"*" if type(reply) is list else b"~"
        return kind + b"%d\r\n" % len(reply) + b"".join(map(sent_to_driver, reply))
    return sent(reply)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        values,
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.binary(max_size=5), st.integers(0, 9)), inner, max_size=4),
    )


driver_replies = containers(containers(containers(values)))


@settings(max_examples=300)
@given(st.lists(driver_replies, max_size=4), st.lists(st.integers(1, 9), max_size=60))
def test_the_parser_of_the_driver(replies: list[Any], sizes: list[int]) -> None:
    """It reads what redis-py's own reads, however it arrives, several answers one after another too."""
    data = b"".join(map(sent_to_driver, replies))
    assert read_by(BoundedParser, data, sizes) == read_by(_RESP3Parser, data)


@pytest.mark.parametrize(
    "words",
    [
        b"MOVED 3999 127.0.0.1:6381", b"ASK 3999 ::1:6381", b"TRYAGAIN later", b"CLUSTERDOWN down",
        b"CROSSSLOT keys", b"NOSCRIPT none", b"READONLY replica",
        b"WRONGTYPE other", b"ERR what", b"\xff\xfe", b"",
    ],
)  # fmt: skip
def test_errors_of_the_driver(words: bytes) -> None:
    """A Cluster's client follows what the errors say, so they must be redis-py's own."""
    data = b"-%b\r\n*1\r\n-%b\r\n" % (words, words)
    mine, theirs = read_by(BoundedParser, data), read_by(_RESP3Parser, data)
    assert [type(mine[0]), vars(mine[0])] == [type(theirs[0]), vars(theirs[0])]
    assert [type(mine[1][0]), str(mine[1][0])] == [type(theirs[1][0]), str(theirs[1][0])]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (b"LOADING wait", BusyLoadingError),
        (b"ERR max number of clients reached", DriverConnectionError),
        (b"WRONGPASS no", AuthenticationError),
        (b"NOAUTH first", AuthenticationError),
    ],
)
def test_errors_that_end_the_connection(words: bytes, kind: type[Exception]) -> None:
    """They are raised, as redis-py expects it; a Cluster's client takes another node then."""
    with pytest.raises(kind):
        parser_of(b"-%b\r\n" % words).read_response()


@pytest.mark.parametrize(
    ("data", "is_answer"),
    [
        (b"*1\r\n" * 7 + b"*0\r\n", True),
        (b"*1\r\n" * 8 + b"*0\r\n", False),
        (b"%1\r\n:1\r\n" * 7 + b"%0\r\n", True),
        (b"%1\r\n:1\r\n" * 8 + b"%0\r\n", False),
        (b"~1\r\n" * 8 + b"~0\r\n", False),
        (b"*100000\r\n" + b":1\r\n" * 100_000, True),
        (b"*2\r\n*1\r\n:1\r\n" + b"*99998\r\n" + b":1\r\n" * 99_998, False),
        (b"%50000\r\n" + b":1\r\n" * 100_000, True),
        (b"%50001\r\n", False),
        (b"~100001\r\n", False),
        (b"%-1\r\n", False),
        (b"%1\r\n*0\r\n:1\r\n", False),
        (b"$67108865\r\n", False),
        (b">1\r\n+x\r\n", False),
        (b"|1\r\n+a\r\n+b\r\n:1\r\n", False),
    ],
)
def test_bounds_of_the_driver(data: bytes, is_answer: bool) -> None:
    parser = parser_of(data)
    if is_answer:
        parser.read_response()
        assert parser.is_drained
    else:
        with pytest.raises(InvalidResponse):
            parser.read_response()


@pytest.mark.parametrize("kind", [b"*60000", b"%30000", b"~60000"])
def test_the_bound_of_parts_is_of_each_answer(kind: bytes) -> None:
    """Two of them have more parts than one may have."""
    answer = kind + b"\r\n" + b"".join(b":%d\r\n" % number for number in range(60_000))
    parser = parser_of(answer * 2)
    first, second = parser.read_response(), parser.read_response()
    assert first == second
    assert len(first) in (60_000, 30_000)
    assert parser.is_drained


def test_the_bound_of_parts_is_of_each_message() -> None:
    """The bus reads all that comes over a connection as the replies of one reader."""
    line: Any = Line((b"*60000\r\n" + b":1\r\n" * 60_000) * 2, [])
    replies = Replies(line)
    assert [len(replies.next()) for _ in range(2)] == [60_000, 60_000]


@pytest.mark.parametrize("large", [b"x" * 3_000_000, [b"x" * 1_000] * 3_000, [b"x"] * 60_000])
def test_an_idle_connection_keeps_no_answer(large: Any) -> None:
    """Not in one piece of the network, and not in many."""
    for sizes in [], [1, 70_000]:
        parser = parser_of(sent(large) + sent(b"next") * 2, sizes)
        assert parser.read_response() == large
        replies = parser._replies
        assert replies is not None
        assert len(replies._data) <= 1 << 16
        assert [parser.read_response() for _ in range(2)] == [b"next"] * 2
        assert parser.is_drained
        assert not replies._data


def parser_of(data: bytes, sizes: list[int] | None = None) -> BoundedParser:
    parser = BoundedParser(1 << 16)
    parser.on_connect(SimpleNamespace(line=DriverLine(data, sizes or [])))
    return parser


@pytest.mark.parametrize("command", [("COMMAND",), ("ACL", "CAT"), ("CONFIG", "GET", "*")])
def test_what_servers_answer(redis_url: str, command: tuple[str, ...]) -> None:
    """The longest and deepest answers of a real one are within the bounds."""
    answers, none = [], MaintNotificationsConfig(enabled=False)
    for kind in redis.Connection, _bounded(redis.Connection):
        with redis.ConnectionPool.from_url(
            redis_url, connection_class=kind, maint_notifications_config=none
        ) as pool:
            connection: Any = pool.get_connection()
            connection.send_command(*command)
            answers.append(connection.read_response())
            pool.release(connection)
    assert answers[0] == answers[1]
    assert answers[0]
