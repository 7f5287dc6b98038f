"""`CacheKitCache`: LangChain's cache of model answers over an `IntelligentCache`, sync and async."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any, Final, final

from langchain_core._api import LangChainBetaWarning
from langchain_core.caches import BaseCache
from langchain_core.load import dumps, loads
from langchain_core.outputs import Generation

from cachekit.aio.cache import IntelligentCache as AsyncCache
from cachekit.cache.default import core_of
from cachekit.cache.fill import Fill
from cachekit.cache.intelligent import IntelligentCache
from cachekit.model.display import safe_repr
from cachekit.model.types import TTL, Tags
from cachekit.model.validation import checked_key, checked_tags, seconds
from cachekit.runtime.interrupts import raise_interrupt

#: Calls of models that a cache remembers. Those that fail are never ended.
_MOST_FILLS: Final = 4096

_numbers = itertools.count()

#: The numbers of the lookups that missed in this task, or thread, by key. It is replaced and never changed:
#: tasks that another one starts inherit it, and must not store what they have not loaded.
_begun: ContextVar[Mapping[str, int]] = ContextVar("begun")
_NONE: Final[Mapping[str, int]] = {}

with warnings.catch_warnings():
    # It warns at the first call that it is a beta, and then no more.
    warnings.simplefilter("ignore", LangChainBetaWarning)
    loads(dumps([]), allowed_objects="core")


@final
class CacheKitCache(BaseCache):
    """A cache for `langchain_core.globals.set_llm_cache`, or for the `cache` of a model.

    Args:
        cache: The cache that holds the answers.
        ttl: Their life (default: that of the cache).
        tags: Tags of all answers (default: none).
        key_prefix: The beginning of their keys in the cache. `clear` removes only these.

    Raises:
        TypeError, ValueError: a wrong argument.

    An answer is stored unless it was invalidated since its lookup: by its tags, by a pattern, or by `clear`.
    An answer that cannot be read back, such as one of a class of your own, counts as missing.
    """

    def __init__(
        self,
        cache: IntelligentCache,
        *,
        ttl: TTL = None,
        tags: Tags | None = None,
        key_prefix: str = "langchain:",
    ) -> None:
        if not isinstance(cache, IntelligentCache):
            raise TypeError(f"cache must be an IntelligentCache, not {safe_repr(cache)}")
        self.cache = cache  #: the cache, for what LangChain's interface does not have
        self._async = AsyncCache.of(cache)
        self._ttl = None if ttl is None else seconds(ttl)
        self._tags = checked_tags(tags)
        self._fills: dict[int, Fill[Any]] = {}
        self._prefix = checked_key(key_prefix, "key_prefix")

    def _key(self, prompt: str, llm_string: str) -> str:
        digest = blake2b(digest_size=20)
        for part in (prompt, llm_string):
            octets = part.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(octets))  # so that the two parts cannot be told apart in another way
            digest.update(octets)
        return self._prefix + digest.hexdigest()

    def _begin(self, fill: Fill[Any]) -> None:
        number = next(_numbers)
        self._fills[number] = fill
        while len(self._fills) > _MOST_FILLS:
            self._fills.pop(next(iter(list(self._fills))), None)
        begun = {**_begun.get(_NONE), fill.key: number}
        while len(begun) > _MOST_FILLS:
            del begun[next(iter(begun))]
        _begun.set(begun)

    def _ended(self, key: str) -> Fill[Any] | None:
        begun = dict(_begun.get(_NONE))
        number = begun.pop(key, None)
        _begun.set(begun)
        return None if number is None else self._fills.pop(number, None)

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the answer to a prompt, or None."""
        key = self._key(prompt, llm_string)
        found = _read(self.cache.get(key))
        if found is None:
            self._begin(self.cache.begin(key, tags=self._tags))
        return found

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Do what `lookup` does. A hit in memory stays on the event loop."""
        key = self._key(prompt, llm_string)
        found = _read(await self._async.get(key))
        if found is None:
            self._begin((await self._async.begin(key, tags=self._tags)).sync)
        return found

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store the answer to a prompt."""
        key, text = self._key(prompt, llm_string), dumps(list(return_val))
        fill = self._ended(key)
        if fill is None:
            self.cache.set(key, text, self._ttl, tags=self._tags)
        else:
            fill.store(text, self._ttl)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Do what `update` does."""
        key, text = self._key(prompt, llm_string), dumps(list(return_val))
        fill = self._ended(key)
        if fill is None:
            await self._async.set(key, text, self._ttl, tags=self._tags)
        else:
            await core_of(self.cache).awaited.in_io_thread(fill.store, text, self._ttl)

    def clear(self, **_: Any) -> None:
        """Remove all answers."""
        self.cache.invalidate_by_pattern(re.escape(self._prefix))

    async def aclear(self, **_: Any) -> None:
        """Do what `clear` does."""
        await self._async.invalidate_by_pattern(re.escape(self._prefix))


def _read(text: Any) -> list[Generation] | None:
    if not isinstance(text, str):
        return None
    try:
        found = loads(text, allowed_objects="core")
    except Exception as error:  # noqa: BLE001  # whatever a class that is gone, or not allowed, raises
        raise_interrupt(error)
        return None
    if isinstance(found, list) and all(isinstance(one, Generation) for one in found):
        return found
    return None
