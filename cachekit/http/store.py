"""Responses in an IntelligentCache: their variants and tags, and the fence around a call of the origin.

A URL has one key. Its value is the response, or the names of the request fields that select one of several
(`Vary`); each of these has a key of its own. All are tagged with the URL, so that one invalidation reaches
them together, and with the tags that the response names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, final

from cachekit.aio.cache import IntelligentCache as AwaitedCache
from cachekit.cache.default import core_of
from cachekit.cache.intelligent import IntelligentCache
from cachekit.coherence.load_fence import LoadFence
from cachekit.coherence.tier_stack import TierStack
from cachekit.http.fields import Headers, size_of, text
from cachekit.http.keys import Keys, Target, tag_of_url, tags_of
from cachekit.http.rfc9111 import (
    Head,
    Policy,
    Request,
    Stored,
    bypass,
    content_length,
    invalidated_urls,
    keep_for,
    refusal,
    vary_names,
)
from cachekit.model.display import shown_error, shown_key
from cachekit.model.types import MISSING, NO_TAGS
from cachekit.runtime.background import RateLimitedLog
from cachekit.runtime.clock import Clock
from cachekit.runtime.fork import ForkSafeLock
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.fences import PrivateFence

P = ParamSpec("P")
R = TypeVar("R")

#: The first members of stored tuples. They change with their shape.
_RESPONSE: Final = "http response 1"
_VARIANTS: Final = "http variants 1"

#: Seconds that the names of selecting fields are kept, at least.
_NAMES_KEPT: Final = 24 * 3600.0

#: URLs whose tags a process remembers.
_MOST_EXPECTED: Final = 10_000

#: A request with more bytes of header fields than this, or with control characters, is answered from the
#: cache, but its response is not stored: servers refuse such requests with errors that are of this client.
USUAL_REQUEST: Final = 8192


class Found(NamedTuple):
    """What the cache has for a request.

    Attributes:
        key: of the response, or of the URL if no response is known.
        stored: the response, or None.
        missed: `uri-miss` or `vary-miss` if there is none (RFC 9211, section 2.2).
    """

    key: str
    stored: Stored | None
    missed: str


@final
class Fill:
    """A response of the origin that may become a stored one. It belongs to one call of the origin.

    Attributes:
        target: what was asked for.
        requested_at: when the origin was called, in seconds since 1970.
        reason: why the response is not stored; None while it may be.
        head: the response's, once it is there.
    """

    __slots__ = (
        "_chunks",
        "_fence",
        "_length",
        "_received",
        "_size",
        "_store",
        "head",
        "reason",
        "requested_at",
        "target",
    )

    def __init__(self, store: ResponseStore, target: Target, fence: OriginFence, reason: str | None) -> None:
        self._store = store
        self._fence = fence
        self._chunks: list[bytes] = []
        self._size = 0
        self._received = 0
        self._length: int | None = None
        self.target = target
        self.requested_at = store.clock.time()
        self.reason = reason
        self.head: Head | None = None

    def begin_response(self, status: int, headers: Headers) -> Head:
        """Return the head; `reason` says from now on whether the response can be stored."""
        store = self._store
        head = Head(status, headers, self.requested_at, store.clock.time())
        refused = refusal(self.target.request, head, store.policy) or self.reason
        if refused is None and tags_of(headers) is None:
            refused = "tags"
        if refused is None and text(headers, b"content-type").lower().startswith("text/event-stream"):
            refused = "streaming"
        self.reason, self.head = refused, head
        if refused is None:
            self._length = content_length(headers)
            if not store.reserve(size_of(headers)):
                self.reason = "busy"
            else:
                self._size = size_of(headers)
        return head

    def add(self, chunk: bytes) -> bool:
        """Keep a part of the content; return whether the response can still be stored."""
        if self.reason is None:
            length = len(chunk)
            if self._size + length > self._store.policy.max_size:
                self.abandon("too-large")
            elif not self._store.reserve(length):
                self.abandon("busy")
            else:
                self._chunks.append(chunk)
                self._size += length
                self._received += length
        return self.reason is None

    @property
    def has_all(self) -> bool:
        """Whether the content has the length that the response announced."""
        return self.reason is None and self._length is not None and self._received == self._length

    def abandon(self, reason: str) -> None:
        """Give up storing the response, and the memory that it takes."""
        if self.reason is None:
            self.reason = reason
        self._chunks.clear()
        self._store.reserve(-self._size)
        self._size = 0

    def finish(self) -> Stored | None:
        """Store the complete response unless something has invalidated it; it may touch a disk or a server.

        Returns:
            The response; None if it may not be stored or is not complete.
        """
        head = self.head
        if self.reason is not None or head is None:
            return None
        body = b"".join(self._chunks)
        length = self._length
        if length is not None and length != len(body) and not (not body and head.status in {204, 304}):
            self.abandon("incomplete")
            return None
        stored = Stored(head.to_store(self._store.policy), body)
        self.abandon("stored")
        self.put(stored)
        return stored

    def put(self, stored: Stored) -> None:
        """Store a response behind the fence of this call."""
        self._store.put(self.target, stored, self._fence)

    def replace(self, key: str, stored: Stored | None) -> None:
        """Store a response as `put` does, or remove that of a key if there is none to store."""
        if stored is None:
            self._store.drop(self.target, key, self.requested_at)
        else:
            self.put(stored)


@final
class ResponseStore:
    """The responses of one cache. Safe in any thread and on any event loop.

    Args:
        cache: where they are stored.
        policy: the kind of cache.
        keys: what makes their keys.
        max_buffered: the bytes of responses under way, at most; more of them are passed on and not stored.

    Attributes:
        awaited: the same cache, awaited.
        clock: the clock of the cache.
    """

    __slots__ = (
        "_buffered",
        "_core",
        "_expected",
        "_fork_guard",
        "_lock",
        "_log",
        "_max_buffered",
        "awaited",
        "cache",
        "clock",
        "keys",
        "policy",
    )

    def __init__(self, cache: IntelligentCache, policy: Policy, keys: Keys, max_buffered: int) -> None:
        self.cache = cache
        self.awaited = AwaitedCache.of(cache)
        self.policy = policy
        self.keys = keys
        self._core = core_of(cache)
        self._max_buffered = max_buffered
        self._buffered = 0
        self._lock = RLock()
        self._fork_guard = ForkSafeLock(self._lock)
        self._expected: dict[str, frozenset[str]] = {}
        self.clock: Clock = self._core.memory.clock
        self._log = RateLimitedLog(self.clock)

    def bypass(self, target: Target | None) -> str | None:
        """Return why a GET or HEAD is only passed on; None if the cache may answer it."""
        if self._core.closed:
            return "closed"
        return "host" if target is None else bypass(target.request)

    async def in_io_thread(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function that may touch a disk or a server; in a thread, unless memory is the only tier."""
        return await self._core.awaited.in_io_thread(step, *args, **kwargs)

    def reserve(self, size: int) -> bool:
        """Count bytes of responses under way; return whether there is room for them."""
        with self._lock:
            if size > 0 and self._buffered + size > self._max_buffered:
                return False
            self._buffered += size
            return True

    # -- reading ----------------------------------------------------------------------------------------

    def find(self, target: Target) -> Found:
        """Return what is stored for a request; it may touch a disk or a server."""
        found = self._found(target, target.key, self.cache.get(target.key, MISSING))
        if isinstance(found, str):
            found = self._found(target, found, self.cache.get(found, MISSING))
        return found if isinstance(found, Found) else Found(target.key, None, "uri-miss")

    async def find_async(self, target: Target) -> Found:
        """Return what `find` returns; hits in memory stay on the loop."""
        found = self._found(target, target.key, await self.awaited.get(target.key, MISSING))
        if isinstance(found, str):
            found = self._found(target, found, await self.awaited.get(found, MISSING))
        return found if isinstance(found, Found) else Found(target.key, None, "uri-miss")

    def peek(self, target: Target) -> Found | None:
        """Return what memory has for a request, or None; it counts no lookup, and touches no disk."""
        peek = self._core.memory.peek_value
        found = self._found(target, target.key, peek(target.key))
        if isinstance(found, str):
            found = self._found(target, found, peek(found))
        return found if isinstance(found, Found) and found.stored is not None else None

    def _found(self, target: Target, key: str, value: Any) -> Found | str:
        """Return what a value holds: a response, or the key of the response."""
        missed = "uri-miss" if key == target.key else "vary-miss"
        # A value of another shape is of another program, or of an older version.
        if type(value) is tuple and value:
            if value[0] == _RESPONSE and len(value) == 6:
                _, status, headers, body, requested_at, received_at = value
                return Found(key, Stored(Head(status, headers, requested_at, received_at), body), missed)
            if value[0] == _VARIANTS and key == target.key:
                return self.keys.of_variant(target, value[1])
        return Found(key, None, missed)

    # -- storing ----------------------------------------------------------------------------------------

    def begin(self, target: Target) -> Fill:
        """Take a fence before the origin is called; it may touch a disk or a server."""
        headers = target.request.headers
        reason = "large-request" if size_of(headers) > USUAL_REQUEST else None
        if target.request.is_of_an_unnamed_user and not self.keys.selecting(("authorization",)):
            reason = "authorization"
        return Fill(self, target, self._fence(target), reason)

    def _fence(self, target: Target) -> OriginFence:
        # On keys that are never stored: the fill of one variant is no change of another one.
        tiers, memory = self._core.tiers, self._core.memory
        expected = tiers.fence(f"{target.key}#fence", target.tags | self._expected.get(target.key, NO_TAGS))
        any_tag = memory.copy_fence(f"{target.key}#fence of any tag")
        tiers.complete_fence(expected)
        return OriginFence(expected, any_tag)

    def put(self, target: Target, stored: Stored, fence: OriginFence) -> None:
        """Store a response, unless its URL or one of its tags was invalidated since the fence was taken.

        Nor is it stored if memory has one that was asked for later, by a call that has overtaken this one.
        """
        life = keep_for(target.request, stored.head, self.policy)
        names = vary_names(stored.head.headers)
        tags = tags_of(stored.head.headers)
        if life <= 0 or names is None or tags is None:
            return
        self._expect(target.key, tags)
        names = self.keys.selecting(names)
        key, value = target.key, _packed(stored)
        try:
            if names:
                key = self.keys.of_variant(target, names)
            if self._is_overtaken(target, key, stored.head.requested_at):
                return
            self._store_behind(fence, key, value, life, target.tags | tags, tags)
            # The names come last. This call's flight has the key of the URL. A request that saw the names
            # before the response would not wait for the flight, and call the origin again.
            if names and self._core.memory.peek_value(target.key) != (head := (_VARIANTS, names)):
                self._store_behind(fence, target.key, head, max(life, _NAMES_KEPT), target.tags, tags)
        except Exception as error:  # noqa: BLE001  # the client gets its response all the same
            raise_interrupt(error)
            self._log.add(f"{shown_key(key)} was not stored: {shown_error(error)}")

    def _is_overtaken(self, target: Target, key: str, requested_at: float) -> bool:
        """Return whether memory has a response that was asked for after this time.

        It may be under another key, if the newer response varies by other fields.
        """
        now = self.clock.time()
        keyed = None if key == target.key else self._found(target, key, self._core.memory.peek_value(key))
        for found in (self.peek(target), keyed):
            stored = found.stored if isinstance(found, Found) else None
            # One from the future shows that a clock was set back, and would stay for all that time.
            if stored is not None and requested_at < stored.head.requested_at <= now:
                return True
        return False

    def drop(self, target: Target, key: str, requested_at: float) -> None:
        """Remove a response that was stored before a call of this time; it may touch a disk or a server."""
        try:
            if not self._is_overtaken(target, key, requested_at):
                self.cache.delete(key)
        except Exception as error:  # noqa: BLE001  # the client gets its response all the same
            raise_interrupt(error)
            self._log.add(f"{shown_key(key)} was not removed: {shown_error(error)}")

    def _store_behind(
        self,
        first: OriginFence,
        key: str,
        value: Any,
        life: float,
        tags: frozenset[str],
        named: frozenset[str],
    ) -> None:
        """Store a value under a key that was not known when the first fence was taken.

        A second fence is taken on the key, and then the first one is checked. What is invalidated before the
        check breaks the first fence, and what is invalidated after it breaks the second one.
        """
        fill = self.cache.begin(key, tags=tags)
        if first.is_current(self._core.tiers, named):
            fill.store(value, life)

    def _expect(self, key: str, tags: frozenset[str]) -> None:
        """Remember the tags of a URL's last response, for the fence of the next one."""
        expected = self._expected
        if tags != expected.get(key, NO_TAGS):
            while len(expected) >= _MOST_EXPECTED:
                try:
                    del expected[next(iter(expected))]
                except (KeyError, RuntimeError, StopIteration):  # another thread removes one
                    break
            expected[key] = tags

    def invalidate(self, request: Request, headers: Headers) -> None:
        """Remove what an unsafe request with this response invalidates; it may touch a disk or a server."""
        if self._core.closed:
            return
        urls = {request.url} | invalidated_urls(request, headers)
        self.cache.invalidate_by_tags({tag_of_url(url) for url in urls})


def _packed(stored: Stored) -> tuple[Any, ...]:
    """Return a response as plain values, which tiers without a secret read too."""
    head = stored.head
    headers = tuple((name, value) for name, value in head.headers)
    return (_RESPONSE, head.status, headers, stored.body, head.requested_at, head.received_at)


# -- fences ---------------------------------------------------------------------------------------------


class OriginFence(NamedTuple):
    """What must be unchanged when the origin has answered, for its response to be stored.

    Attributes:
        expected: a fence over the URL, and the tags that its last response named.
        any_tag: a fence of this process that the invalidation of any tag breaks. It counts if the response
            names a tag that was not expected.
    """

    expected: LoadFence
    any_tag: PrivateFence

    def is_current(self, tiers: TierStack, named: frozenset[str]) -> bool:
        """Return whether neither the URL nor one of the named tags was invalidated since.

        If another host invalidates a tag that was not expected, this process knows it from the message.
        """
        expected, file = self.expected, self.expected.file
        if not expected.is_current():
            return False
        unexpected = named - expected.tags
        if unexpected and not self.any_tag.is_current():
            return False
        if unexpected and file is not None and not file.naming(unexpected).is_current():
            return False
        return tiers.is_current(expected)
