"""What the tier keeps on the server, in bytes: values, tokens, and the messages that go with writes.

A bucket's token, and a tag's, is a random number that every write or invalidation makes another one, by
setting a fresh one or by removing it: one that is missing counts as changed, whoever took it away. So it
does no harm if the server evicts or forgets tokens, and they have a time to live, so that nothing stays
behind. Whatever an envelope is, and whether a value is still good, `tier` knows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha1
from itertools import chain
from typing import Final, NamedTuple, final

from cachekit.tiers.base import BusListener
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.redis.bus import Bus
from cachekit.tiers.redis.bus_protocol import MOST_TOGETHER, Kind, PublishedWrite, portions
from cachekit.tiers.redis.client import Call, Client, ForeignValue
from cachekit.tiers.redis.key_layout import Layout, literal_beginning
from cachekit.tiers.redis.scripts import script

#: Milliseconds that a token lives without being asked for; one of a tag at least as long as its values.
TOKEN_LIFE: Final = 30 * 24 * 3600 * 1000

_MOST_DIGITS: Final = 19  # of a token, whose bits are 63
_HEAD: Final = 1024  # bytes that hold the header of most envelopes


def fresh() -> int:
    """A token that nobody has had before: 63 bits of the system's randomness, so forks need no care."""
    return int.from_bytes(os.urandom(8), "little") >> 1 or fresh()


class Write(NamedTuple):
    """A value on its way to the server."""

    envelope: bytes
    life: int | None  #: milliseconds; None has no end
    tags: Iterable[str] = ()  #: whose tokens must live as long


def digest(envelope: bytes) -> str:
    """What stands for a value that a script may replace."""
    return sha1(envelope, usedforsecurity=False).hexdigest()


@final
class Store:
    """The keys under one prefix. Safe in any thread, before and after a fork.

    Every method may raise `TierUnavailableError`; one that writes may have been carried out then.
    """

    def __init__(self, server: Client, layout: Layout) -> None:
        self._server = server
        self._layout = layout
        self._bus = Bus(server, layout.channel)

    # -- reading ------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes | ForeignValue | None:
        """The envelope of a key, None without one, `FOREIGN` for somebody else's data. One round trip."""
        return self._server.read(self._layout.value(key))

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The envelopes of several keys, in one round trip."""
        return self._server.read_many([self._layout.value(key) for key in keys])

    def heads(self, keys: Sequence[str]) -> list[bytes | None]:
        """How the envelopes begin; their ends are not read."""
        names = [self._layout.value(key) for key in keys]
        return self._server.try_many([("GETRANGE", name, 0, _HEAD - 1) for name in names])

    def tag_tokens(self, tags: Sequence[str]) -> dict[str, int | None]:
        """The tags' tokens; None for one that is missing. One round trip."""
        found = self._server.read_many([self._layout.tag(tag) for tag in tags])
        return {tag: _number(token) for tag, token in zip(tags, found, strict=True)}

    # -- tokens -------------------------------------------------------------------------------------

    def tokens(self, keys: Sequence[str], tags: Iterable[str]) -> tuple[list[int], dict[str, int]]:
        """The tokens of the keys' buckets and of the tags; missing ones are made. One round trip.

        Of many, a few hundred are read in one step of the server.
        """
        tags = list(tags)
        names = [self._layout.names(key)[1] for key in keys] + [self._layout.tag(tag) for tag in tags]
        if not names:
            return [], {}
        distinct = list(dict.fromkeys(names))  # many keys share a bucket
        most = 1 if self._server.is_cluster else MOST_TOGETHER
        calls = []
        for start in range(0, len(distinct), most):
            some = distinct[start : start + most]
            calls.append(Call(script("tokens"), some, [TOKEN_LIFE, *(fresh() for _ in some)]))
        answers = [self._server.run(calls[0])] if len(calls) == 1 else self._server.run_many(calls)
        found = dict(zip(distinct, chain.from_iterable(answers), strict=True))
        tokens = [int(found[name]) for name in names]
        return tokens[: len(keys)], dict(zip(tags, tokens[len(keys) :], strict=True))

    def is_current(self, key: str, origin: ServerTokens) -> bool:
        """Whether the tokens are still those of the origin."""
        names = [self._layout.names(key)[1], *(self._layout.tag(tag) for tag in origin.tags)]
        found = self._server.read_many(names)
        return [_number(token) for token in found] == [origin.token, *origin.tags.values()]

    def forget_tags(self, tags: Sequence[str]) -> None:
        """Remove the tags' tokens, and tell the fleet: whatever names one of them is over."""
        self._remove({tag: [self._layout.tag(tag)] for tag in tags}, "tags")

    def renew(self) -> None:
        """Remove the tokens of all buckets, and tell the fleet to trust nothing."""
        with self._sending("all") as message:
            self._forget_buckets()
            self._server.call(*self._publish(message))

    def _forget_buckets(self) -> None:
        self._server.unlink(self._layout.tokens())

    # -- writing ------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        write: Write,
        token: int,
        instead_of: bytes | None = None,
        expect: int | None = None,
    ) -> bool:
        """Store a value, make the token its bucket's, tell the fleet. One round trip.

        Args:
            key: where.
            write: what.
            token: a fresh one.
            instead_of: the only envelope that may be replaced; None is any, or none.
            expect: the only token that may be replaced; None is any, or none.

        Returns:
            False if another envelope, or token, was there.
        """
        if write.tags:
            self._prolong([write])
        only = "" if instead_of is None else digest(instead_of)
        said = write.envelope, _life(write), token, only, "" if expect is None else expect
        with self._sending("keys", [key]) as message:
            (stored,) = self._server.run(self._put_call([key], said, message))
        return bool(stored)

    def put_many(self, writes: Mapping[str, tuple[Write, int]]) -> None:
        """`put` of several keys, each with its token, a few hundred in one step of the server."""
        self._prolong([write for write, _ in writes.values()])
        with ExitStack() as sent:
            calls = []
            for keys in self._together({key: len(write.envelope) for key, (write, _) in writes.items()}):
                said: list[bytes | str | int] = []
                for key in keys:
                    write, token = writes[key]
                    said += write.envelope, _life(write), token, "", ""
                calls.append(self._put_call(keys, said, sent.enter_context(self._sending("keys", keys))))
            self._server.run_many(calls)

    def _put_call(self, keys: Sequence[str], said: Iterable[bytes | str | int], message: str) -> Call:
        names = [name for key in keys for name in self._layout.names(key)]
        return Call(script("put"), names, (self._bus.channel, message, TOKEN_LIFE, *said))

    def _together(self, sizes: Mapping[str, int]) -> list[list[str]]:
        """The keys that one script may have: they are told of, or not, with what it does, whoever is killed.

        In a Cluster each goes alone, because they live on different nodes.
        """
        return [[key] for key in sizes] if self._server.is_cluster else portions(sizes)

    def add(self, key: str, write: Write, origin: ServerTokens, instead_of: bytes | None) -> bytes | bool:
        """Store a value if the tokens are those of the origin, and nothing is there. One round trip, or two.

        Args:
            key: where.
            write: what.
            origin: the tokens; of tags, those that the envelope names.
            instead_of: an envelope that counts as nothing.

        Returns:
            The envelope that is there; or whether it was stored.
        """
        if write.tags:
            self._prolong([write])
        now = self.tag_tokens(list(origin.tags)) if self._server.is_cluster else {}
        answer = self._server.run(self._add_call(key, write, origin, now, instead_of))
        return answer if isinstance(answer, bytes) else bool(answer)

    def add_many(self, writes: Mapping[str, tuple[Write, ServerTokens]]) -> dict[str, bytes | bool]:
        """`add` of several keys at once."""
        self._prolong([write for write, _ in writes.values()])
        now: Mapping[str, int | None] = {}
        if self._server.is_cluster:
            now = self.tag_tokens(list({tag for _, origin in writes.values() for tag in origin.tags}))
        calls = [self._add_call(key, write, origin, now) for key, (write, origin) in writes.items()]
        answers = self._server.run_many(calls)
        return {
            key: answer if isinstance(answer, bytes) else bool(answer)
            for key, answer in zip(writes, answers, strict=True)
        }

    def _add_call(
        self,
        key: str,
        write: Write,
        origin: ServerTokens,
        now: Mapping[str, int | None],
        instead_of: bytes | None = None,
    ) -> Call:
        value, token = self._layout.names(key)
        names, tokens = [value, token], [origin.token]
        if self._server.is_cluster:
            # Tags live on other nodes, where a script cannot look. That one of them changes between this
            # look and the script does no harm: the envelope has the tokens, and every reader compares.
            if any(now[tag] != known for tag, known in origin.tags.items()):
                tokens = [-1]  # none is like it, so that a value that is there is found, and none is stored
        else:
            names += [self._layout.tag(tag) for tag in origin.tags]
            tokens += origin.tags.values()
        only = "" if instead_of is None else digest(instead_of)
        return Call(script("add"), names, (write.envelope, _life(write), only, *tokens))

    def remove(self, key: str) -> bool:
        """Remove a value, break its fences, tell the fleet; whether it was there. One round trip."""
        return bool(self.remove_many([key]))

    def remove_many(self, keys: Sequence[str]) -> list[str]:
        """`remove` of several keys; those that were there."""
        return self._remove({key: self._layout.names(key) for key in keys}, "keys")

    def _remove(self, names: Mapping[str, Sequence[bytes]], kind: Kind) -> list[str]:
        """Remove what each of the keys, or tags, is called on the server; those whose first was there."""
        parts = self._together(dict.fromkeys(names, 0))
        with ExitStack() as sent:
            calls = []
            for some in parts:
                message = sent.enter_context(self._sending(kind, some))
                of_all = [name for one in some for name in names[one]]
                calls.append(Call(script("remove"), of_all, (self._bus.channel, message)))
            answers = [self._server.run(calls[0])] if len(calls) == 1 else self._server.run_many(calls)
        return [
            one
            for some, answer in zip(parts, answers, strict=True)
            for one, was_there in zip(some, answer[:: len(answer) // len(some)], strict=True)
            if was_there
        ]

    def _prolong(self, writes: Iterable[Write]) -> None:
        """See to it that the tokens of tags live as long as the values; most do without being asked."""
        lives: dict[str, int | None] = {}
        for life, tags in ((write.life, write.tags) for write in writes):
            if tags and (life is None or life > TOKEN_LIFE // 2):
                for tag in tags:
                    known = lives.get(tag, 0)
                    lives[tag] = None if life is None or known is None else max(life, known)
        commands: list[tuple[object, ...]] = []
        for tag, life in lives.items():
            name = self._layout.tag(tag)
            # GT: never less, and never an end where there is none.
            commands.append(("PERSIST", name) if life is None else ("PEXPIRE", name, life, "GT"))
        if commands:
            self._server.do_many(commands)

    # -- all of it ----------------------------------------------------------------------------------

    def scan(self, matches: re.Pattern[str] | None) -> Iterator[list[str]]:
        """The keys of values, in batches; those that match from the start. A key may come twice."""
        # Only what stands literally at its beginning can be left to the server.
        plain = matches is not None and not matches.flags & ~re.UNICODE
        beginning = literal_beginning(matches.pattern) if matches is not None and plain else ""
        for names in self._server.scan(self._layout.values_glob(beginning)):
            keys = [key for key in map(self._layout.key, names) if key is not None]
            if matches is not None:
                keys = [key for key in keys if matches.match(key)]
            if keys:
                yield keys

    def remove_matching(self, pattern: re.Pattern[str]) -> int:
        """Remove the values whose keys match, and tell the fleet; how many there were."""
        removed = 0
        with self._going_through(*_told(pattern)):
            for keys in self.scan(pattern):
                removed += self._server.unlink([self._layout.value(key) for key in keys])
        return removed

    def clear(self) -> int:
        """Remove everything under the prefix, and tell the fleet; how many values there were."""
        removed = 0
        with self._going_through("all"):
            for names in self._server.scan(self._layout.everything_glob()):
                values = [name for name in names if self._layout.key(name) is not None]
                removed += self._server.unlink(values)
                self._server.unlink([name for name in names if self._layout.is_tag(name)])
        return removed

    @contextmanager
    def _going_through(self, kind: Kind, body: object = None) -> Iterator[None]:
        """Around a scan that removes: break the fences of all keys, and tell the fleet when it is done.

        The message gets its number only then: heartbeats confirm nothing that comes after a number in hand,
        so those who listen would take a scan that is long for a loss. One that fails is a number lost.
        """
        try:
            # First, so that what is being loaded now is not added behind the scan's back; and once more,
            # for what was read from a value that the scan had not come to yet.
            self._forget_buckets()
            yield
        except BaseException:
            with self._sending(kind, body):
                raise
        with self._sending(kind, body) as message:
            self._server.call(*self._publish(message))
            self._forget_buckets()

    def size(self) -> int:
        """How many values there are, by a scan."""
        return len({key for keys in self.scan(None) for key in keys})

    def memory_usage(self, sample: int) -> int:
        """Bytes that the values take by the server's own account: of a sample, times their number."""
        keys = list({key for keys in self.scan(None) for key in keys})
        if not keys:
            return 0
        some = keys[:: -(-len(keys) // sample)]
        names = [self._layout.value(key) for key in some]
        sizes = self._server.do_many([("MEMORY", "USAGE", name) for name in names])
        known = [size for size in sizes if size is not None]
        return round(sum(known) / len(known) * len(keys)) if known else 0

    # -- the bus, and life --------------------------------------------------------------------------

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """See `ports.ServerTier.subscribe`."""
        return self._bus.subscribe(listener)

    def _sending(self, kind: Kind, body: object = None) -> PublishedWrite:
        """A message that is published, or lost, by the end of the block."""
        self._bus.keep_confirming()
        return PublishedWrite(self._bus.outbox, self._bus.tell, kind, body)

    def _publish(self, message: str) -> tuple[str, bytes, str]:
        return "PUBLISH", self._bus.channel, message

    def close(self) -> None:
        """End the bus and the connections."""
        self._bus.close()
        self._server.close()


def _told(pattern: re.Pattern[str]) -> tuple[Kind, str | None]:
    """A message of which keys are concerned: of all of them, if the flags are not in the pattern itself."""
    if re.compile(pattern.pattern).flags == pattern.flags:
        return "pattern", pattern.pattern
    return "all", None


def _life(write: Write) -> int | str:
    return "" if write.life is None else write.life


def _number(token: bytes | None) -> int | None:
    """A token; None also for what no cache has put there."""
    if token is None or len(token) > _MOST_DIGITS or not token.isdigit():
        return None
    return int(token)
