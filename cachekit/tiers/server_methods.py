"""What the tiers on servers do in the same way: they check arguments, take fences and count.

A subclass asks its server. What it gets from here is checked.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from types import MethodType
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeAlias, TypeVar

from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.model.entry import CacheEntry
from cachekit.model.stats import CacheStats
from cachekit.model.types import FOREVER, TTL, Tags
from cachekit.model.validation import checked_key, checked_keys, checked_tags, seconds
from cachekit.runtime.clock import Clock, checked_clock
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.pickle_allowlist import classes
from cachekit.serialization.serializer import CodecName, Serializer
from cachekit.serialization.signing import Secret
from cachekit.tiers.arguments import check_entry, checked_cap
from cachekit.tiers.base import Fence
from cachekit.tiers.fences import ServerTokens
from cachekit.tiers.server_fence import ServerFence, check_fence
from cachekit.tiers.server_figures import Figures

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="ServerMethods")

#: How values are stored: codec, compression, secret, and the classes that pickles may contain.
StoredAs: TypeAlias = tuple[CodecName | Codec, Compression, Secret | None, Iterable[Any]]


def asks_server(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a method refuse a closed tier, and count its failures."""

    @functools.wraps(method)
    def asking(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._closed:
            raise CacheClosedError(f"this {type(self).__name__} was closed; make a new one")
        try:
            return method(self, *args, **kwargs)
        except TierUnavailableError:
            self._counter.errors += 1
            raise

    return asking


class ServerMethods(ABC):
    """The part of a `ServerTier` that does not depend on the server."""

    def _prepare(self, key_prefix: str, default_ttl: TTL, stored_as: StoredAs, clock: Clock) -> None:
        self._longest = checked_cap(default_ttl)
        codec, compression, secret, allow = stored_as
        allow = classes(allow)
        self._serializer = Serializer(
            key_prefix, codec=codec, compression=compression, secret=secret, allow=allow
        )
        self._key_prefix = key_prefix
        # Without the secret, which only the serializer holds.
        self._stored_as: StoredAs = codec, compression, None, allow
        self._clock = checked_clock(clock)
        self._figures = Figures(clock)
        self._counter = self._figures.counter
        self._closed = False

    @property
    def key_prefix(self) -> str:
        """The beginning of all its keys."""
        return self._key_prefix

    @property
    def default_ttl(self) -> float | None:
        """Seconds that a copy is kept at most; None for no such limit."""
        return None if self._longest == FOREVER else self._longest

    # -- looking ------------------------------------------------------------------------------------

    @abstractmethod
    def get(self, key: str) -> CacheEntry | None:
        """Return the live entry under the key, or None; counts a lookup."""

    def get_value(self, key: str, default: Any = None) -> Any:
        """Return the value under the key, or `default`; counts a lookup."""
        entry = self.get(key)
        return default if entry is None else entry.value

    @asks_server
    def get_many(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the live entries among the keys, in one or two round trips; each key counts as a lookup."""
        return self._look_up(self._live, checked_keys(keys))

    @asks_server
    def _get_values(self, keys: Sequence[str]) -> dict[str, Any]:
        return self._look_up(self._values, keys)

    def _look_up(self, look: Callable[[Sequence[str]], dict[str, R]], keys: Sequence[str]) -> dict[str, R]:
        try:
            found = look(keys)
        except TierUnavailableError:
            asked = len(keys)
            self._figures.unavailable += asked
            raise
        self._figures.end_many(len(keys), len(found))
        return found

    @abstractmethod
    def _live(self, keys: Sequence[str]) -> dict[str, CacheEntry]: ...

    def _values(self, keys: Sequence[str]) -> dict[str, Any]:
        return {key: entry.value for key, entry in self._live(keys).items()}

    def get_stats(self) -> CacheStats:
        """Return what this process has counted; see `CacheStats`. It stays readable after `close`.

        It does no I/O: `size` and `memory_usage_bytes` are what the methods last measured, 0 before that.
        """
        return self._figures.snapshot()

    # -- fences -------------------------------------------------------------------------------------

    def origin(self, key: str, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """Return the current tokens of key and tags, which are a fence for `add`; asks as `origins` does."""
        return self.origins([key], tags)[key]

    @abstractmethod
    def origins(self, keys: Sequence[str], tags: frozenset[str] = frozenset()) -> dict[str, ServerTokens]:
        """Return what `origin` returns for each of several keys."""

    @abstractmethod
    def successor(self, tags: frozenset[str] = frozenset()) -> ServerTokens:
        """Return a fresh token, which the next `put` makes the key's, and the tags' tokens."""

    def fence(self, key: str, tags: Tags = ()) -> ServerFence:
        """Return a fence for `set_if`; take it before the value is loaded. It asks as `origins` does."""
        key = checked_key(key)
        return ServerFence(key, self.origin(key, checked_tags(tags)), self._is_current)

    @abstractmethod
    def _is_current(self, key: str, origin: ServerTokens) -> bool: ...

    # -- writing ------------------------------------------------------------------------------------

    def set_value(self, key: str, value: Any, ttl: TTL = None, tags: Tags | None = None) -> bool:
        """Store a value in place of the key's older one.

        Args:
            key: the key.
            value: anything that the codec can encode.
            ttl: seconds, or a timedelta, that it lives from now, at most the tier's `default_ttl`. 0 or
                less stores nothing, and removes the key.
            tags: labels by which entries can be invalidated together; they cost another round trip, unless
                the tier foresees their tokens.

        Returns:
            True.
        """
        return self.set(checked_key(key), CacheEntry(key, value, self._clock.time(), ttl=ttl, tags=tags))

    def set(self, key: str, entry: CacheEntry) -> bool:
        """Store an entry in place of the key's older one; it keeps the age that it has.

        An expired entry removes the key instead. One created in the future, by another machine's clock,
        counts as created now. Tags cost another round trip, unless the tier foresees their tokens.

        Returns:
            True.

        Raises:
            ValueError: the entry has another key.
        """
        check_entry(key, entry)
        put_now = put_now_of(self)
        if put_now is None:
            self.put(key, entry, self.successor(entry.tags))
        else:
            put_now([entry])
        return True

    @abstractmethod
    def put(
        self, key: str, entry: CacheEntry, origin: ServerTokens, *, expect: ServerTokens | None = None
    ) -> bool:
        """Do what `set` does, and make the token of `origin` the key's; see `ServerTier.put`."""

    def set_if(self, key: str, entry: CacheEntry, fence: Fence) -> bool:
        """Store an entry if the fence, taken for this key before the value was loaded, is still current.

        A live entry that is there already stays.

        Returns:
            True if it was stored; False if it was refused, or has expired.

        Raises:
            ValueError: the entry has another key, or the fence was taken for another key, or not for all
                the tags of the entry.
        """
        check_entry(key, entry)
        return self.add(key, entry, check_fence(fence, entry)) is True

    @abstractmethod
    def add(self, key: str, entry: CacheEntry, origin: ServerTokens) -> CacheEntry | bool:
        """Store the entry if the tokens are still those of `origin`; see `ServerTier.add`."""

    @asks_server
    def touch(self, key: str, ttl: TTL = None) -> bool:
        """Give a live entry a new life from now, without changing its value; return whether there is one.

        It is read, and stored again if no other client has changed it.
        """
        key = checked_key(key)
        life = min(math.inf if ttl is None else seconds(ttl), self._longest)
        return bool(self._remove([key])) if life <= 0 else self._prolong(key, life)

    @abstractmethod
    def _prolong(self, key: str, life: float) -> bool: ...

    @asks_server
    def delete(self, key: str) -> bool:
        """Remove the key, and break its fences; return whether there was a value."""
        return bool(self._remove([checked_key(key)]))

    @asks_server
    def remove_many(self, keys: Sequence[str]) -> list[str]:
        """Do what `delete` does for several keys at once; return those that had a value."""
        return self._remove(checked_keys(keys))

    def _remove(self, keys: Sequence[str]) -> list[str]:
        removed = self._end(keys)
        count = len(removed)  # first: a call between reading and storing a counter loses others' counts
        self._counter.deletes += count
        return removed

    @abstractmethod
    def _end(self, keys: Sequence[str]) -> list[str]: ...

    @asks_server
    def invalidate_by_tags(self, tags: Tags) -> int | None:
        """Drop entries with any of the tags, and break fences that name one.

        The cost is that of writing the tags, however many entries there are. The tags get new tokens, so
        entries with the older ones have ended. The server frees their memory when their time to live ends.

        Returns:
            None: the entries are not counted. 0 without tags.
        """
        tags = checked_tags(tags)
        if not tags:
            return 0
        self._forget_tags(tags)
        return None

    @abstractmethod
    def _forget_tags(self, tags: frozenset[str]) -> None: ...

    # -- life ---------------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """Close the connections. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def values_of(tier: object) -> Callable[[Sequence[str]], dict[str, Any]] | None:
    """Return what gets the values of the entries that the tier's `get_many` returns, in less time.

    None where `get_many` is not that of this module: a subclass, a wrapper or a test may do more in it. The
    keys must be distinct and exact `str`.
    """
    own = getattr(getattr(tier, "get_many", None), "__func__", None) is ServerMethods.get_many
    return tier._get_values if own and isinstance(tier, ServerMethods) else None


class InOneStep(NamedTuple):
    """A tier's way of storing entries in fewer round trips."""

    put_now: Callable[..., None]  #: its method, which takes entries that have the same tags
    instead_of: tuple[object, ...]  #: its own `successor`, `put` and `put_many`, which do the same


def put_now_of(tier: object) -> Callable[[Sequence[CacheEntry]], None] | None:
    """Return what stores entries with the same tags as `successor` and `put` do, in fewer round trips.

    None where the tier has no such way, or where these are not its own: a subclass, a wrapper or a test may
    do more in them.
    """
    way: InOneStep | None = getattr(tier, "_in_one_step", None)
    if way is None:
        return None
    own: Any = tier
    try:
        used = own.successor.__func__, own.put.__func__, own.put_many.__func__
    except AttributeError:  # one of them is no method
        return None
    return MethodType(way.put_now, tier) if used == way.instead_of else None
