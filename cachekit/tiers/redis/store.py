"""What the tier stores on the server, in bytes: values, tokens, and the messages that go with writes.

The token of a bucket or a tag is a random number. Every write or invalidation changes it, by setting a fresh
one or by removing it: a missing token counts as changed. So the server may evict tokens, and they have a time
to live, so that none stays for ever. `entries` knows what an envelope is, and whether a value is still good.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha1
from itertools import chain
from typing import Final, NamedTuple, final

from cachekit.model.patterns import literal_beginning
from cachekit.serialization.parts import Payload
from cachekit.tiers.base import BusListener
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.redis.answers import is_bytes, is_count, is_count_or_nothing, is_flag, is_nothing
from cachekit.tiers.redis.bus import Bus, PublishedWrite
from cachekit.tiers.redis.bus_protocol import MOST_TOGETHER, Kind, portions
from cachekit.tiers.redis.client import Call, Client, ForeignValue
from cachekit.tiers.redis.foreseen_tokens import ForeseenTokens
from cachekit.tiers.redis.key_layout import Layout
from cachekit.tiers.redis.resp import Argument, form_of
from cachekit.tiers.redis.scripts import ADD, CREATE, MOST_DIGITS, PUT, REMOVE, REPLACE, TOKENS

#: Milliseconds that the token of a bucket lives without being read.
BUCKET_LIFE: Final = 30 * 24 * 3600 * 1000
#: Milliseconds that a load may take between reading a tag's token and storing a value with it.
LONGEST_LOAD: Final = 3 * 3600 * 1000
#: Milliseconds that the token of a tag lives when it was read, unless a value with the tag lives longer. A
#: token that is read gets them again when half of them are over, so that most readers change nothing.
TAG_LIFE: Final = 2 * LONGEST_LOAD

_HEAD: Final = 1024  # bytes that hold the header of most envelopes
_NONE_IS_LIKE_IT: Final = -1  # as an expected token: none that a cache makes is negative


class Write(NamedTuple):
    """A value on its way to the server."""

    envelope: Payload
    life: int | None  #: milliseconds; None for no end
    origin: ServerTokens  #: for `put` with the fresh token of the key, for `add` with the expected tokens
    tags: Iterable[str] = ()  #: those whose tokens must live as long


def digest(envelope: bytes) -> str:
    """Return what identifies a value that a script may replace."""
    return sha1(envelope, usedforsecurity=False).hexdigest()


@final
class Store:
    """The keys under one prefix. Safe in any thread, before and after a fork.

    Every method may raise `TierUnavailableError`. One that writes may have been carried out then.
    """

    def __init__(self, server: Client, layout: Layout) -> None:
        self._server = server
        #: Whether the keys are on several nodes.
        self.is_cluster = server.is_cluster
        self._layout = layout
        self.bus = Bus(server, layout.channel)
        self._foreseen = ForeseenTokens()
        # Of value, token, message, envelope, life and new token.
        self._put_form = form_of(
            b"EVALSHA", PUT.digest.encode(), b"2", None, None, layout.channel, None,
            b"%d" % BUCKET_LIFE, None, None, None,
        )  # fmt: skip

    # -- reading ------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes | ForeignValue | None:
        """Return the envelope of a key, None without one, or `FOREIGN` for another program's data.

        One round trip.
        """
        return self._server.read(self._layout.value(key))

    def read_with(
        self, key: str, tags: Collection[str]
    ) -> tuple[bytes | ForeignValue | None, dict[str, int | None]]:
        """Return what `read` returns, and then what `tag_tokens` returns; one round trip to a server."""
        envelope, found = self._server.read_with(self._layout.value(key), list(map(self._layout.tag, tags)))
        return envelope, {tag: _number(token) for tag, token in zip(tags, found, strict=True)}

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the envelopes of several keys, in one round trip."""
        return self._server.read_many(self._layout.values(keys))

    def read_many_with(
        self, keys: Sequence[str], tags: Collection[str]
    ) -> tuple[list[bytes | None], dict[str, int | None]]:
        """Return what `read_many` returns, and then what `tag_tokens` returns; one round trip to a server."""
        names = self._layout.values(keys)
        found = self._server.read_many([*names, *map(self._layout.tag, tags)])
        tokens = map(_number, found[len(names) :])
        return found[: len(names)], dict(zip(tags, tokens, strict=True))

    def heads(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the beginnings of the envelopes; the rest is not transferred."""
        names = self._layout.values(keys)
        return self._server.read_strings([("GETRANGE", name, 0, _HEAD - 1) for name in names], is_bytes)

    def tag_tokens(self, tags: Sequence[str]) -> dict[str, int | None]:
        """Return the tags' tokens, None for a missing one; one round trip."""
        found = self._server.read_many([self._layout.tag(tag) for tag in tags])
        return {tag: _number(token) for tag, token in zip(tags, found, strict=True)}

    # -- tokens -------------------------------------------------------------------------------------

    def tokens(self, keys: Sequence[str], tags: Iterable[str]) -> tuple[list[int], dict[str, int]]:
        """Return the tokens of the keys' buckets and of the tags, and make missing ones; one round trip.

        Of many tokens, a few hundred are read in one step of the server.
        """
        tags = list(tags)
        names = [self._layout.names(key)[1] for key in keys] + [self._layout.tag(tag) for tag in tags]
        buckets = set(names[: len(keys)])
        distinct = list(dict.fromkeys(names))  # many keys share a bucket
        most = 1 if self._server.is_cluster else MOST_TOGETHER
        calls = []
        for start in range(0, len(distinct), most):
            some = distinct[start : start + most]
            lives = [BUCKET_LIFE if name in buckets else TAG_LIFE for name in some]
            calls.append(Call(TOKENS, some, [*(fresh() for _ in some), *lives]))
        found = dict(zip(distinct, chain.from_iterable(self._server.run(calls)), strict=True))
        tokens = [int(found[name]) for name in names]
        of_tags = dict(zip(tags, tokens[len(keys) :], strict=True))
        self._foreseen.learn(of_tags)
        return tokens[: len(keys)], of_tags

    def foreseen_tokens(self, tags: Iterable[str]) -> dict[str, int] | None:
        """Return the tokens that tags probably have; None if one is not known, and in a Cluster."""
        return None if self.is_cluster else self._foreseen.of(tags)

    def is_current(self, key: str, origin: ServerTokens) -> bool:
        """Return whether the tokens are still those of the origin."""
        names = [self._layout.names(key)[1], *(self._layout.tag(tag) for tag in origin.tags)]
        found = self._server.read_many(names)
        return [_number(token) for token in found] == [origin.token, *origin.tags.values()]

    def forget_tags(self, tags: Sequence[str]) -> None:
        """Remove the tags' tokens, and notify the fleet. An entry that names one of them has ended."""
        self._foreseen.forget(tags)
        self._remove({tag: [self._layout.tag(tag)] for tag in tags}, "tags")

    def renew(self) -> None:
        """Remove the tokens of all buckets, and notify the fleet to trust nothing."""
        with PublishedWrite(self.bus, "all", [None]) as messages:
            self._forget_buckets()
            self._publish(messages)

    def _forget_buckets(self) -> None:
        self._server.unlink(self._layout.tokens())

    # -- writing ------------------------------------------------------------------------------------

    def put(self, writes: Mapping[str, Write]) -> None:
        """Store values, make the tokens of their origins those of their buckets, and notify the fleet.

        One round trip. Of many values, a few hundred are stored in one step of the server.
        """
        if self._server.is_cluster:
            self._prolong(writes)
        parts = [[*writes]] if len(writes) == 1 else self._together(writes)
        with PublishedWrite(self.bus, "keys", parts) as messages:
            calls = []
            for keys, message in zip(parts, messages, strict=True):
                names: list[bytes] = []
                said: list[Argument] = [self.bus.channel, message, BUCKET_LIFE]
                for key in keys:
                    envelope, life, origin, _ = writes[key]
                    names += self._layout.names(key)
                    said += envelope, "" if life is None else life, origin.token
                tags, lives = self._tags_of(map(writes.__getitem__, keys))
                calls.append(Call(PUT, [*names, *tags], [*said, *lives]))
            self._server.run(calls)

    def put_one(self, key: str, write: Write) -> None:
        """Do what `put` does for one value without tags. Most writes are such, so they take fewer steps."""
        envelope, life, origin, _ = write
        if type(envelope) is not bytes or not self._server.is_pooled:
            self.put({key: write})
            return
        value, bucket = self._layout.names(key)
        lasts, token = b"" if life is None else b"%d" % life, b"%d" % origin.token
        with PublishedWrite(self.bus, "keys", [[key]]) as (text,):
            message = text.encode()
            command = self._put_form % (
                len(value), value, len(bucket), bucket, len(message), message, len(envelope), envelope,
                len(lasts), lasts, len(token), token,
            )  # fmt: skip
            if not self._server.run_packed(is_nothing, command):
                # The server was started, or flushed, since it ran the script.
                said = (self.bus.channel, message, BUCKET_LIFE, envelope, lasts, token)
                self._server.run([Call(PUT, (value, bucket), said)])

    def replace(
        self,
        key: str,
        write: Write,
        *,
        instead_of: bytes | None = None,
        expect: int | None = None,
        same_tags: bool = False,
    ) -> bool:
        """Do what `put` does, unless another value, or token, is stored than the one given; return whether.

        Args:
            key: the key.
            write: what to store.
            instead_of: the only envelope that may be replaced; None for any, or none.
            expect: the only token that may be replaced; None for any, or none.
            same_tags: whether the tags must still have the tokens of the origin; not in a Cluster.
        """
        if self._server.is_cluster:
            self._prolong({key: write})
        envelope, life, origin, _ = write
        tags, _ = self._tags_of([write])
        with PublishedWrite(self.bus, "keys", [[key]]) as (message,):
            said = (
                self.bus.channel, message, BUCKET_LIFE, envelope, "" if life is None else life, origin.token,
                "" if instead_of is None else digest(instead_of), "" if expect is None else expect,
                *(map(origin.tags.__getitem__, write.tags) if same_tags else ()),
            )  # fmt: skip
            (stored,) = self._server.run([Call(REPLACE, [*self._layout.names(key), *tags], said)])
        return bool(stored)

    def create(self, key: str, write: Write, dead: bytes | None = None) -> bytes | bool:
        """Do what `put` does, unless another envelope than `dead` is stored; then return that envelope."""
        if self._server.is_cluster:
            self._prolong({key: write})
        envelope, life, origin, _ = write
        tags, _ = self._tags_of([write])
        with PublishedWrite(self.bus, "keys", [[key]]) as (message,):
            said = (
                self.bus.channel, message, BUCKET_LIFE, envelope, "" if life is None else life, origin.token,
                "" if dead is None else digest(dead),
            )  # fmt: skip
            (answer,) = self._server.run([Call(CREATE, [*self._layout.names(key), *tags], said)])
        return answer if isinstance(answer, bytes) else bool(answer)

    def _together(self, writes: Mapping[str, Write | None]) -> list[list[str]]:
        """Return the keys, or tags, that one script may have.

        A script writes and publishes, or does neither, even if the client is killed. In a Cluster each key
        goes alone, because keys live on different nodes.
        """
        if self._server.is_cluster:
            return [[one] for one in writes]
        return portions({one: 0 if write is None else len(write.envelope) for one, write in writes.items()})

    def add(self, writes: Mapping[str, Write], dead: bytes | None = None) -> dict[str, bytes | bool]:
        """Store values whose tokens are still those of the origins, where nothing is stored.

        One round trip, or two.

        Args:
            writes: what to store, by key.
            dead: an envelope that counts as nothing.

        Returns:
            For each key the envelope that was there; or whether the value was stored.
        """
        if self._server.is_cluster:
            self._prolong(writes)
        now: Mapping[str, int | None] = {}
        if self._server.is_cluster:
            now = self.tag_tokens(list({tag for write in writes.values() for tag in write.origin.tags}))
        calls = [self._add_call(key, write, now, dead) for key, write in writes.items()]
        return {
            key: answer if isinstance(answer, bytes) else bool(answer)
            for key, answer in zip(writes, self._server.run(calls), strict=True)
        }

    def _add_call(self, key: str, write: Write, now: Mapping[str, int | None], dead: bytes | None) -> Call:
        origin = write.origin
        value, token = self._layout.names(key)
        names, tokens = [value, token], [origin.token]
        if self._server.is_cluster:
            # Tags live on other nodes, where a script cannot look. If a tag's token changes between this
            # look and the script, that does no harm: every reader compares the tokens in the envelope.
            if any(now[tag] != known for tag, known in origin.tags.items()):
                tokens = [_NONE_IS_LIKE_IT]  # finds a value that is there, and stores none
        else:
            names += [self._layout.tag(tag) for tag in origin.tags]
            tokens += origin.tags.values()
        life = "" if write.life is None else write.life
        return Call(ADD, names, (write.envelope, life, "" if dead is None else digest(dead), *tokens))

    def remove(self, keys: Sequence[str]) -> list[str]:
        """Remove values, break their fences, and notify the fleet; return the keys that were there.

        One round trip.
        """
        return self._remove({key: self._layout.names(key) for key in keys}, "keys")

    def _remove(self, names: Mapping[str, Sequence[bytes]], kind: Kind) -> list[str]:
        """Remove the names of each key, or tag; return those whose first name was there."""
        parts = self._together(dict.fromkeys(names))
        with PublishedWrite(self.bus, kind, parts) as messages:
            calls = []
            for some, message in zip(parts, messages, strict=True):
                of_all = [name for one in some for name in names[one]]
                calls.append(Call(REMOVE, of_all, (self.bus.channel, message)))
            answers = self._server.run(calls)
        return [
            one
            for some, answer in zip(parts, answers, strict=True)
            for one, was_there in zip(some, answer[:: len(answer) // len(some)], strict=True)
            if was_there
        ]

    def _tags_of(self, writes: Iterable[Write]) -> tuple[list[bytes], list[str | int]]:
        """Return the names of the tokens that a script must keep as long as the values, and their lives.

        In a Cluster the tokens are on other nodes, where a script cannot reach them: see `_prolong`.
        """
        lives = {} if self._server.is_cluster else _lives_of_tags(writes)
        if not lives:
            return [], []
        names = [self._layout.tag(tag) for tag in lives]
        return names, ["" if life is None else life for life in lives.values()]

    def _prolong(self, writes: Mapping[str, Write]) -> None:
        """Make the tokens of tags live as long as the values, in a Cluster. Most do without a command."""
        commands: list[tuple[object, ...]] = []
        for tag, life in _lives_of_tags(writes.values()).items():
            name = self._layout.tag(tag)
            # GT: never less, and never an end where there is none.
            if life is None:
                commands.append(("PERSIST", name))
            elif life > LONGEST_LOAD // 2:  # what is left of it after a load of as long
                commands.append(("PEXPIRE", name, life, "GT"))
        if commands:
            self._server.do_many(commands, is_flag)

    # -- all of it ----------------------------------------------------------------------------------

    def scan(self, matches: re.Pattern[str] | None) -> Iterator[list[str]]:
        """Return the keys of values that match from the start, in batches. A key may come twice."""
        # The server can match only the literal beginning.
        plain = matches is not None and not matches.flags & ~re.UNICODE
        beginning = literal_beginning(matches.pattern) if matches is not None and plain else ""
        for names in self._server.scan(self._layout.values_glob(beginning)):
            keys = [key for key in map(self._layout.key, names) if key is not None]
            if matches is not None:
                keys = [key for key in keys if matches.match(key)]
            if keys:
                yield keys

    def remove_matching(self, pattern: re.Pattern[str]) -> int:
        """Remove the values whose keys match, and notify the fleet; return how many there were."""
        removed = 0
        with self._scanning(*_message_of(pattern)):
            for keys in self.scan(pattern):
                removed += self._server.unlink(self._layout.values(keys))
        return removed

    def clear(self) -> int:
        """Remove everything under the prefix, and notify the fleet; return how many values there were."""
        removed = 0
        with self._scanning("all"):
            for names in self._server.scan(self._layout.everything_glob()):
                values = [name for name in names if self._layout.key(name) is not None]
                removed += self._server.unlink(values)
                self._server.unlink([name for name in names if self._layout.is_tag(name)])
        return removed

    @contextmanager
    def _scanning(self, kind: Kind, body: object = None) -> Iterator[None]:
        """Surround a scan that removes: break the fences of all keys, and notify the fleet afterwards.

        The message gets its number only then. Heartbeats confirm nothing that comes after a number in hand,
        so listeners would take a long scan for a loss. A scan that fails leaves a number that is never sent.
        """
        try:
            # First, so that a load in progress adds nothing behind the scan; and once more, for what was
            # read from a value that the scan had not reached.
            self._forget_buckets()
            yield
        except BaseException:
            with PublishedWrite(self.bus, kind, [body]):
                raise
        with PublishedWrite(self.bus, kind, [body]) as messages:
            self._publish(messages)
            self._forget_buckets()

    def size(self) -> int:
        """Return how many values there are, by a scan."""
        return len({key for keys in self.scan(None) for key in keys})

    def memory_usage(self, sample: int) -> int:
        """Return the bytes that the values take on the server, estimated from a sample."""
        keys = list({key for keys in self.scan(None) for key in keys})
        if not keys:
            return 0
        some = keys[:: -(-len(keys) // sample)]
        names = [self._layout.value(key) for key in some]
        sizes = self._server.do_many([("MEMORY", "USAGE", name) for name in names], is_count_or_nothing)
        known = [size for size in sizes if size is not None]
        return round(sum(known) / len(known) * len(keys)) if known else 0

    # -- the bus, and life --------------------------------------------------------------------------

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Notify `listener` of changes; the function returned ends that."""
        return self.bus.subscribe(listener)

    def _publish(self, messages: Iterable[str]) -> None:
        for message in messages:
            self._server.call(is_count, "PUBLISH", self.bus.channel, message)

    def close(self) -> None:
        """End the bus and the connections."""
        self.bus.close()
        self._server.close()


def _message_of(pattern: re.Pattern[str]) -> tuple[Kind, str | None]:
    """Return kind and body of the message: all keys, if the flags are not in the pattern itself."""
    if re.compile(pattern.pattern).flags == pattern.flags:
        return "pattern", pattern.pattern
    return "all", None


def _lives_of_tags(writes: Iterable[Write]) -> dict[str, int | None]:
    """Return for each tag how long the values with it live, None for no end."""
    lives: dict[str, int | None] = {}
    for _, life, _, tags in writes:
        for tag in tags:
            known = lives.get(tag, 0)
            lives[tag] = None if life is None or known is None else max(life, known)
    return lives


def _number(token: bytes | None) -> int | None:
    """Return the token; None also for what no cache has stored there."""
    if token is None or len(token) > MOST_DIGITS or not token.isdigit():
        return None
    return int(token)
