"""CassettePlayer: answers in place of all caches, from a cassette or from calls that it records.

Each cache has a twin while a cassette is in use: a cache of memory alone without expiry, which holds the
current answer of each key. So concurrent calls share one load, and invalidations act as in the cache. A load
of the twin asks the cassette: the nth load of a question in a block has its nth recorded answer.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any, Final, final

from cachekit.cassettes import recording
from cachekit.cassettes.answers import ABSENT, AnswerCodec, Raised
from cachekit.cassettes.asked import Asked, asked, differences, nearest, shown
from cachekit.cassettes.recording import Recorded
from cachekit.cassettes.redaction import Redaction
from cachekit.cassettes.source_version import UNKNOWN
from cachekit.decorator.key_encoding import name_of
from cachekit.decorator.source import Question
from cachekit.errors import CassetteMissError, UnreadableError
from cachekit.loading.core import CacheCore
from cachekit.loading.options import OFF
from cachekit.loading.request import LoadRequest
from cachekit.loading.verification import innermost, loader_name
from cachekit.model.types import FOREVER, MISSING, CacheLevel
from cachekit.runtime import fork
from cachekit.runtime.interrupts import is_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.memory.tier import MemoryCache

_ALL: Final = CacheLevel.ALL
_MOST_ENTRIES: Final = 1 << 40  # of a twin: an answer that were evicted would be asked for again


def _twin() -> CacheCore:
    memory = MemoryCache(_MOST_ENTRIES, cleanup_interval=None)
    return CacheCore(
        memory,
        None,
        None,
        default_ttl=FOREVER,
        load=OFF,
        keeps_warm=False,
        strict=False,
        reload_hot=False,
        prefetch=None,
    )


@final
class CassettePlayer:
    """The answers of one cassette in one block. Safe in any thread and on any event loop.

    Args:
        path: The file.
        mode: "auto", "record" or "replay".
        check_version: Whether an answer of other code is a miss.
        exceptions: The classes of exceptions that are recorded.
        codec: Encodes answers.
        redaction: Replaces what must not be recorded.
        remedy: What to run to record the file, for errors.

    Raises:
        FileFormatError: the file is no cassette.
        OSError: the file cannot be read.
    """

    def __init__(
        self,
        path: Path,
        mode: str,
        check_version: bool,
        exceptions: tuple[type[Exception], ...],
        codec: AnswerCodec,
        redaction: Redaction,
        remedy: str,
    ) -> None:
        self._path = path
        self._mode = mode
        self._check_version = check_version
        self._exceptions = exceptions
        self._codec = codec
        self._redaction = redaction
        self._remedy = remedy
        if mode != "replay":
            recording.check_place(path)
        self._file = recording.read(path)
        #: How many answers each question of the file has.
        self._takes: dict[str, int] = {}
        for question, take in self._file.answers:
            self._takes[question] = max(take, self._takes.get(question, 0))
        self._lock = RLock()
        self._fork_guard = fork.ForkSafeLock(self._lock)
        self._twins: weakref.WeakKeyDictionary[CacheCore, CacheCore] = weakref.WeakKeyDictionary()
        self._default_twin = _twin()
        #: How often each question was loaded in this block.
        self._asked: dict[str, int] = {}
        self._fresh: dict[tuple[str, int], Recorded] = {}
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._named: dict[str, int] = {}
        self.replayed = 0  #: answers that came from the file
        self.recorded = 0  #: answers that were recorded
        for number, why in self._file.unreadable:
            logging.getLogger("cachekit").warning(
                "cassette %s: line %d is not read, its question is a miss: %s", path, number, why
            )

    @property
    def is_replaying(self) -> bool:
        """Return whether no function is called."""
        return self._mode == "replay"

    def save(self) -> None:
        """Add what was recorded to the file.

        Raises:
            FileFormatError: the file has become something else since.
            OSError: the file cannot be written.
        """
        with self._lock:
            fresh = dict(self._fresh)
        if fresh:
            recording.merge(self._path, fresh)

    # -- what caches and cached functions call --------------------------------------------------------

    def ask(
        self,
        cache: CacheCore | None,
        key: str,
        question: Question | None,
        loader: Callable[[], Any],
        request: LoadRequest,
        *,
        again: bool = False,
    ) -> Any:
        """Return the answer to a question; see `source.Player.ask`."""
        twin = self._twin(cache)
        value = MISSING if again else twin.look_in_memory(key, _ALL, twin.lookups)
        if value is MISSING:
            load = twin.loads.reload if again else twin.loads.load
            answer = partial(self._answer, question or _question_of(loader, key), loader)
            value = load(key, answer, _lasting(request))
        return value

    async def ask_async(
        self,
        cache: CacheCore | None,
        key: str,
        question: Question | None,
        loader: Callable[[], Awaitable[Any]],
        request: LoadRequest,
        *,
        again: bool = False,
    ) -> Any:
        """Return what `ask` does, for a loader that is awaited."""
        twin = self._twin(cache)
        value = MISSING if again else twin.look_in_memory(key, _ALL, twin.lookups)
        if value is MISSING:
            load = twin.awaited.reload if again else twin.awaited.load
            answer = partial(self._answer_async, question or _question_of(loader, key), loader)
            value = await load(key, answer, _lasting(request))
        return value

    def ask_many(
        self,
        cache: CacheCore,
        keys: Sequence[str],
        loader: Callable[[list[str]], Mapping[str, Any]],
        request: LoadRequest,
    ) -> dict[str, Any]:
        """Return the answers to a loader of many keys, as `get_or_set_many`."""
        twin = self._twin(cache)
        found = twin.look_up_many_in_memory(keys, _ALL)
        missing = [key for key in keys if key not in found]
        if missing:
            found |= twin.loads.load_many(missing, partial(self._answer_many, loader), _lasting(request))
        return {key: found[key] for key in keys if key in found}

    async def ask_many_async(
        self,
        cache: CacheCore,
        keys: Sequence[str],
        loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]],
        request: LoadRequest,
    ) -> dict[str, Any]:
        """Return what `ask_many` does, for a loader that is awaited."""
        twin = self._twin(cache)
        found = twin.look_up_many_in_memory(keys, _ALL)
        missing = [key for key in keys if key not in found]
        if missing:
            answer = partial(self._answer_many_async, loader)
            found |= await twin.awaited.load_many(missing, answer, _lasting(request))
        return {key: found[key] for key in keys if key in found}

    def warming(
        self, cache: CacheCore, loader: Callable[[str], Any], request: LoadRequest
    ) -> tuple[CacheCore, Callable[[str], Any], LoadRequest]:
        """Return the cache, the loader and the request that `warm_cache` uses instead."""

        def load(key: str) -> Any:
            return self._answer(_question_of(loader, key), partial(loader, key))

        return self._twin(cache), load, _lasting(request)

    def warming_async(
        self, cache: CacheCore, loader: Callable[[str], Awaitable[Any]], request: LoadRequest
    ) -> tuple[CacheCore, Callable[[str], Awaitable[Any]], LoadRequest]:
        """Return what `warming` does, for a loader that is awaited."""

        async def load(key: str) -> Any:
            return await self._answer_async(_question_of(loader, key), partial(loader, key))

        return self._twin(cache), load, _lasting(request)

    def write(self, cache: CacheCore, values: Mapping[str, Any], life: float, tags: frozenset[str]) -> None:
        """Answer with these values from now on, because they were stored in the cache."""
        for twin in self._both(cache):
            twin.tiers.writes.write_many(values, FOREVER if life > 0 else 0.0, tags, _ALL)

    def invalidate(self, cache: CacheCore | None, keys: Sequence[str]) -> int:
        """Forget the current answers of these keys; return how many there were."""
        return sum(twin.tiers.writes.delete(key, _ALL) for twin in self._both(cache) for key in keys)

    def invalidate_tags(self, cache: CacheCore | None, tags: frozenset[str]) -> int:
        """Forget the current answers that have one of the tags; return how many there were."""
        return sum(twin.tiers.writes.invalidate_tags(tags) or 0 for twin in self._both(cache))

    def invalidate_matching(self, cache: CacheCore, pattern: re.Pattern[str]) -> None:
        """Forget the current answers of the keys that a pattern matches."""
        for twin in self._both(cache):
            twin.tiers.writes.invalidate_matching(pattern)

    def clear(self, cache: CacheCore) -> None:
        """Forget all current answers."""
        for twin in self._both(cache):
            twin.tiers.writes.clear(_ALL)

    # -- the twins ------------------------------------------------------------------------------------

    def _twin(self, cache: CacheCore | None) -> CacheCore:
        if cache is None:
            return self._default_twin
        with self._lock:
            twin = self._twins.get(cache)
            if twin is None:
                twin = self._twins[cache] = _twin()
            return twin

    def _both(self, cache: CacheCore | None) -> list[CacheCore]:
        # A cache may be the default one, whose cached functions have the other twin.
        return [self._default_twin] if cache is None else [self._default_twin, self._twin(cache)]

    # -- answers --------------------------------------------------------------------------------------

    def _answer(self, question: Question, loader: Callable[[], Any]) -> Any:
        one = self._prepare(question)
        take = self._begin(one)
        found = self._found(one, take)
        if found is MISSING:
            try:
                found = loader()
                self._record(one, take, found)
            except Exception as error:
                self._failed([(one, take)], error)
                raise
        return found

    async def _answer_async(self, question: Question, loader: Callable[[], Awaitable[Any]]) -> Any:
        one = self._prepare(question)
        take = self._begin(one)
        found = self._found(one, take)
        if found is MISSING:
            try:
                found = await loader()
                self._record(one, take, found)
            except Exception as error:
                self._failed([(one, take)], error)
                raise
        return found

    def _answer_many(
        self, loader: Callable[[list[str]], Mapping[str, Any]], keys: list[str]
    ) -> Mapping[str, Any]:
        found, missing = self._found_many(loader, keys)
        if missing:
            try:
                loaded = loader(list(missing))
                self._record_many(missing, loaded)
            except Exception as error:
                self._failed(missing.values(), error)
                raise
            return loaded if len(missing) == len(keys) else found | dict(loaded)
        return found

    async def _answer_many_async(
        self, loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]], keys: list[str]
    ) -> Mapping[str, Any]:
        found, missing = self._found_many(loader, keys)
        if missing:
            try:
                loaded = await loader(list(missing))
                self._record_many(missing, loaded)
            except Exception as error:
                self._failed(missing.values(), error)
                raise
            return loaded if len(missing) == len(keys) else found | dict(loaded)
        return found

    def _found_many(
        self, loader: Callable[[list[str]], Any], keys: list[str]
    ) -> tuple[dict[str, Any], dict[str, tuple[Asked, int]]]:
        # The recorded answers, and for each other key its question and take.
        found: dict[str, Any] = {}
        missing: dict[str, tuple[Asked, int]] = {}
        for key in keys:
            one = self._prepare(_question_of(loader, key))
            take = self._begin(one)
            value = self._found(one, take)
            if value is MISSING:
                missing[key] = one, take
            elif value is not ABSENT:
                found[key] = value
        return found, missing

    def _record_many(self, missing: Mapping[str, tuple[Asked, int]], loaded: object) -> None:
        if isinstance(loaded, Mapping):  # otherwise the load path refuses it
            for key, (one, take) in missing.items():
                self._record(one, take, loaded.get(key, ABSENT))

    def _prepare(self, question: Question) -> Asked:
        name, owner = question.function, question.owner
        if owner is not None:
            with self._lock:
                number = self._numbers.get(owner)
                if number is None:
                    number = self._numbers[owner] = self._named[name] = self._named.get(name, 0) + 1
            if number > 1:
                name = f"{name}#{number}"
        return asked(question, name, self._codec, self._redaction)

    def _begin(self, one: Asked) -> int:
        with self._lock:
            take = self._asked[one.identity] = self._asked.get(one.identity, 0) + 1
        return take

    def _found(self, one: Asked, take: int) -> Any:
        # The recorded answer; MISSING if the call goes through.
        last = self._takes.get(one.identity, 0)
        if self._mode == "record" or (self._mode == "auto" and take > last):
            return MISSING
        recorded = self._file.answers.get((one.identity, min(take, last)))
        try:
            if recorded is None:
                raise self._miss(one)
            versions = {one.version, recorded.version}
            if self._check_version and len(versions) > 1 and UNKNOWN not in versions:
                raise self._changed(one, recorded)
            found = self._decoded(one, recorded)
        except CassetteMissError:
            if self._mode == "auto":
                return MISSING
            raise
        with self._lock:
            self.replayed += 1
        if isinstance(found, Raised):
            raise found.error
        return found

    def _decoded(self, one: Asked, recorded: Recorded) -> Any:
        try:
            return self._codec.decode(recorded)
        except UnreadableError as error:
            what = f"the answer to {shown(one)} in {self._path} cannot be read: {error}"
            if self._mode == "auto":
                logging.getLogger("cachekit").warning("%s; the function is called again", what)
            raise CassetteMissError(f"{what}\n  {self._remedy}") from error

    def _failed(self, places: Iterable[tuple[Asked, int]], error: Exception) -> None:
        # What interrupts the caller, such as the time limit of a test, is no answer.
        is_answer = isinstance(error, self._exceptions) and not is_interrupt(error)
        encoded = self._codec.encode_error(error) if is_answer else None
        with self._lock:
            for one, take in places:
                if encoded is not None:
                    self._add(one, take, *encoded)
                elif self._asked.get(one.identity) == take:  # the next call has this take
                    self._asked[one.identity] = take - 1

    def _record(self, one: Asked, take: int, value: Any) -> None:
        kind, content = self._codec.encode(value, one.identity)
        with self._lock:
            self._add(one, take, kind, content)

    def _add(self, one: Asked, take: int, kind: str, content: Any) -> None:
        self._fresh[one.identity, take] = Recorded(
            one.function, one.arguments, one.version, take, kind, content
        )
        self.recorded += 1

    # -- errors ---------------------------------------------------------------------------------------

    def _miss(self, one: Asked) -> CassetteMissError:
        lines = [f"{shown(one)} is not recorded in {self._path}, and was not called"]
        near = nearest(one, self._file.answers.values())
        if near is not None:
            lines.append(f"the nearest recorded question of {one.function} differs in:")
            lines += [f"  {line}" for line in differences(one, near)]
        elif not self._path.exists():
            lines.append("the file does not exist")
        else:
            lines.append(f"no question of {one.function} is recorded")
        if self._file.unreadable:
            numbers = ", ".join(str(line.number) for line in self._file.unreadable[:5])
            lines.append(f"{len(self._file.unreadable)} lines of the file cannot be read (line {numbers})")
        return CassetteMissError("\n  ".join([*lines, self._remedy]))

    def _changed(self, one: Asked, recorded: Recorded) -> CassetteMissError:
        return CassetteMissError(
            f"{shown(one)} is recorded in {self._path}, but the code of {one.function} has changed since: "
            f"version {recorded.version} was recorded, and {one.version} runs\n  {self._remedy}; or accept "
            f"the old answers with version='ignore'"
        )


def _question_of(loader: Callable[..., Any], key: str) -> Question:
    # The key alone does not say which cache it is of; nearly always the loader does.
    called = innermost(loader)
    code = called if isinstance(called, FunctionType) else None
    return Question(loader_name(called) if code is None else name_of(code), [("key", key)], code)


def _lasting(request: LoadRequest) -> LoadRequest:
    # What a cache would store lasts for the block; what it would not store is asked for again.
    life = request.ttl
    if not callable(life):
        return LoadRequest(FOREVER if life > 0 else 0.0, request.tags)

    def lasting(value: Any) -> float | None:
        seconds = life(value)
        return None if seconds is None or seconds <= 0 else FOREVER

    return LoadRequest(lasting, request.tags)
