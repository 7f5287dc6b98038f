"""PolledFacade: the methods of a tier on a server without messages, awaited."""

from __future__ import annotations

from typing import ClassVar, Self, TypeVar

from cachekit.aio.facade import check_sync, in_thread, plain
from cachekit.aio.threaded import LowerFacade
from cachekit.tiers.polled import PolledTier

C = TypeVar("C", bound=PolledTier)


class PolledFacade(LowerFacade[C]):
    """A facade over a `PolledTier`, which runs its methods in threads."""

    __slots__ = ()

    _kind: ClassVar[type[PolledTier]] = PolledTier

    @classmethod
    def of(cls, sync: C) -> Self:
        """Return a view of an existing tier.

        Raises:
            TypeError: `sync` is not a tier of the class that the view is for.
        """
        check_sync(sync, cls._kind, f"a {cls._kind.__name__}")
        return cls._view(sync)

    @property
    def key_prefix(self) -> str:
        """Return the beginning of all names on the server."""
        return self._sync.key_prefix

    @property
    def default_ttl(self) -> float | None:
        """Return the most seconds that the tier keeps any entry; None for no limit."""
        return self._sync.default_ttl

    @property
    def max_staleness(self) -> float:
        """Return the seconds after which a cache over this tier drops its copies in memory."""
        return self._sync.max_staleness

    @property
    def poll(self) -> float | None:
        """Return the seconds between two looks at what other hosts have changed; None for no looks."""
        return self._sync.poll

    get_value = in_thread(PolledTier.get_value)
    get = in_thread(PolledTier.get)
    get_many = in_thread(PolledTier.get_many)
    peek = in_thread(PolledTier.peek)
    keys = in_thread(PolledTier.keys)
    size = in_thread(PolledTier.size)
    memory_usage = in_thread(PolledTier.memory_usage)
    ping = in_thread(PolledTier.ping)
    get_stats = plain(PolledTier.get_stats)
    origin = in_thread(PolledTier.origin)
    origins = in_thread(PolledTier.origins)
    successor = in_thread(PolledTier.successor)
    fence = in_thread(PolledTier.fence)
    set_value = in_thread(PolledTier.set_value)
    set = in_thread(PolledTier.set)
    put = in_thread(PolledTier.put)
    create = in_thread(PolledTier.create)
    put_many = in_thread(PolledTier.put_many)
    add_many = in_thread(PolledTier.add_many)
    set_if = in_thread(PolledTier.set_if)
    add = in_thread(PolledTier.add)
    touch = in_thread(PolledTier.touch)
    delete = in_thread(PolledTier.delete)
    remove_many = in_thread(PolledTier.remove_many)
    clear = in_thread(PolledTier.clear)
    invalidate_by_tags = in_thread(PolledTier.invalidate_by_tags)
    invalidate_by_pattern = in_thread(PolledTier.invalidate_by_pattern)
    subscribe = in_thread(PolledTier.subscribe)
    lease = in_thread(PolledTier.lease)
