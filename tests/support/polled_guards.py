"""Takes one guard of the protocol out of the entries of a polled tier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cachekit.tiers.polled.items import GENERATION


def _tokens_are_not_compared(entries: Any) -> None:
    entries._current = lambda key, content, origin: entries._tokens({key: origin.tags})[key]


def _writes_are_unconditional(entries: Any) -> None:
    def replace(name: str, data: bytes, life: float | None, version: object) -> bool:
        entries._store.write(name, data, life)
        return True

    entries._store.replace = replace


def _values_watch_nothing(entries: Any) -> None:
    real = entries._tokens

    def tokens(watched: Mapping[str, Any], create: bool = False) -> Any:
        if create or not all(GENERATION in tags for tags in watched.values()):
            return real(watched, create)
        return {key: dict(tags) for key, tags in watched.items()}  # as the value has them

    entries._tokens = tokens


def _watched_tokens_are_those_of_the_store(entries: Any) -> None:
    """A loaded value carries the tokens of the time at which it is stored."""
    made = entries._made

    def with_tokens_of_now(entry: Any, origin: Any, watched: Any) -> Any:
        now = entries._tokens({entry.key: entry.tags}, create=True)[entry.key]
        tags = {tag: now[tag] for tag in entry.tags}
        return made(entry, origin._replace(tags=tags), now)

    entries._made = with_tokens_of_now


#: By what is missing.
GUARDS: dict[str, Callable[[Any], None]] = {
    "tokens are compared": _tokens_are_not_compared,
    "compare-and-set": _writes_are_unconditional,
    "a value watches": _values_watch_nothing,
    "a value carries the tokens of its load": _watched_tokens_are_those_of_the_store,
}


def notice_first(entries: Any) -> None:
    """Write the notice of a change before the change."""
    note, entries._listeners.note = entries._listeners.note, lambda kind, names: None
    end_watchers, remove = entries._end_watchers, entries.remove

    def noted_end(name: str) -> None:
        note("all", [])
        end_watchers(name)

    def noted_remove(keys: Any) -> Any:
        note("keys", keys)
        return remove(keys)

    entries._end_watchers, entries.remove = noted_end, noted_remove


def notices_are_unconditional(entries: Any) -> None:
    journal = entries._listeners._journal

    class Unconditional(type(journal._store)):  # type: ignore[misc]
        def replace(self, name: str, data: bytes, life: float | None, version: object) -> bool:
            self.write(name, data, life)
            return True

    journal._store = Unconditional(journal._store._world)
