"""FileCache, awaited. Methods that may touch the disk run in threads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, final

from cachekit.aio.facade import check_sync, in_batch, in_thread, plain
from cachekit.aio.threaded import LowerFacade
from cachekit.model.types import TTL
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.serialization.codec import Codec
from cachekit.serialization.compression import Compression
from cachekit.serialization.serializer import CodecName
from cachekit.serialization.signing import Secret
from cachekit.tiers.base import DirectoryTier
from cachekit.tiers.file.front import FileCache as Core


@final
class FileCache(LowerFacade[Core]):
    """`cachekit.FileCache`, awaited; see there for the arguments and the promises.

    The constructor opens the directory. On a slow disk, call it before the loop runs.
    """

    __slots__ = ()

    def __init__(
        self,
        cache_dir: str | os.PathLike[str] | None = None,
        max_size_mb: float = 1000,
        cleanup_interval: float | None = 3600,
        *,
        default_ttl: TTL = None,
        namespace: str = "",
        codec: CodecName | Codec = "pickle",
        compression: Compression = None,
        secret: Secret | None = None,
        allow: Iterable[Any] = (),
        allow_network_fs: bool = False,
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> None:
        core = Core(
            cache_dir, max_size_mb, cleanup_interval, default_ttl=default_ttl, namespace=namespace,
            codec=codec, compression=compression, secret=secret, allow=allow,
            allow_network_fs=allow_network_fs, clock=clock,
        )  # fmt: skip
        self._set_up(core)

    @classmethod
    def of(cls, sync: DirectoryTier) -> FileCache:
        """Return a view of an existing tier: a `cachekit.FileCache`, or another `DirectoryTier`.

        Raises:
            TypeError: `sync` is not a `cachekit.tiers.base.DirectoryTier`.
        """
        check_sync(sync, DirectoryTier, "a FileCache")
        return cls._view(sync)  # type: ignore[arg-type]

    @property
    def path(self) -> str:
        """Return the absolute path of the directory, or of the namespace in it."""
        return self._sync.path

    @property
    def max_size_mb(self) -> float:
        """Return the most MiB that the directory may take on disk."""
        return self._sync.max_size_mb

    @property
    def default_ttl(self) -> float | None:
        """Return the most seconds that the tier keeps any entry; None for no limit."""
        return self._sync.default_ttl

    get_value = in_batch(Core.get_value)
    get = in_batch(Core.get)
    look = in_batch(Core.look)
    peek = in_batch(Core.peek)
    contains = in_batch(Core.contains)
    get_many = in_batch(Core.get_many)

    async def keys(self, pattern: str | re.Pattern[str] | None = None) -> list[str]:
        """Return the keys as a list, because each may need a read of the disk."""
        return await self._run(lambda: list(self._sync.keys(pattern)))

    size = in_thread(Core.size)
    memory_usage = in_thread(Core.memory_usage)
    get_stats = plain(Core.get_stats)
    set_value = in_thread(Core.set_value)
    set = in_thread(Core.set)
    put = in_thread(Core.put)
    create = in_thread(Core.create)
    set_if = in_thread(Core.set_if)
    add = in_thread(Core.add)
    set_many = in_thread(Core.set_many)
    fence = in_thread(Core.fence)
    renew = in_thread(Core.renew)
    settle = in_thread(Core.settle)
    touch = in_thread(Core.touch)
    delete = in_thread(Core.delete)
    remove = in_thread(Core.remove)
    delete_many = in_thread(Core.delete_many)
    clear = in_thread(Core.clear)
    invalidate_by_tags = in_thread(Core.invalidate_by_tags)
    invalidate_by_pattern = in_thread(Core.invalidate_by_pattern)
    remove_expired = in_thread(Core.remove_expired)
