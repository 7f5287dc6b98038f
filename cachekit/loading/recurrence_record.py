"""The record of the keys that follow the clock, which `HotSet` stores with the keys that are used most.

It has a part for each prefetcher, by name. Other programs may write to the lower tier, so
each part is checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

from cachekit.loading.predictor import Predictor
from cachekit.loading.recurrence import checked_minutes

_MOST_ROWS: Final = 4096  # of one prefetcher
_MOST_TEXT: Final = 1 << 20  # characters of all keys and arguments
_MOST_PARTS: Final = 64  # that are kept for functions that were not called
_RECENT: Final = 3 * 1440  # minutes for which these are kept


class _Row(NamedTuple):
    key: str
    call: Any
    minutes: tuple[dict[int, int], ...]


class KeyRecord(Protocol):
    """What a record has of a prefetcher besides its keys."""

    @property
    def name(self) -> str:
        """Return the name of the prefetcher, the same in each process; empty if its keys are not recorded."""
        ...

    def call_of(self, key: str) -> Any:
        """Return what else it takes to load a key, as plain values; None if the key cannot be loaded."""
        ...

    def take_back(self, key: str, call: Any) -> bool:
        """Note what it takes to load a key; return False if it is a key of others, or of other code."""
        ...


class PrefixRecord(NamedTuple):
    """The record of keys that need nothing else to be loaded, and begin with a prefix."""

    name: str
    prefix: str = ""

    def call_of(self, _: str) -> Any:
        """Return that nothing else is needed."""
        return True

    def take_back(self, key: str, call: Any) -> bool:
        """Return whether the key has the prefix."""
        return call is True and key.startswith(self.prefix)


def recorded(parts: Iterable[tuple[KeyRecord, Predictor]]) -> dict[str, Any]:
    """Return what is to be stored of these prefetchers."""
    record: dict[str, Any] = {}
    text = 0
    for keys, predictor in parts:
        known = predictor.recorded() if keys.name else None
        if known is None:
            continue
        proof, rows = known
        found = []
        for key, minutes in rows:
            call = keys.call_of(key)
            size = len(key) + len(str(call))
            text += size
            if text > _MOST_TEXT:
                break
            if call is not None:
                found.append(
                    [key, call, *([part for pair in one.items() for part in pair] for one in minutes)]
                )
        if found:
            record[keys.name] = {"proof": proof, "rows": found}
    return record


def still_valid(record: object, now: int) -> dict[str, Any]:
    """Return the parts of a record that are recent."""
    if not isinstance(record, dict):
        return {}
    return {name: part for name, part in record.items() if _is_recent(part, now)}


def carried(parts: dict[str, Any]) -> dict[str, Any]:
    """Return what is stored again of functions that this process has not called."""
    return dict(islice(parts.copy().items(), _MOST_PARTS))


def _is_recent(part: object, now: int) -> bool:
    rows = part.get("rows") if isinstance(part, dict) else None
    if not isinstance(rows, list) or len(rows) > _MOST_ROWS:
        return False
    seen = [minute for row in map(_checked, rows) if row is not None for one in row.minutes for minute in one]
    return bool(seen) and now - max(seen) <= _RECENT


def _checked(row: object) -> _Row | None:
    if not isinstance(row, (list, tuple)) or len(row) != 4 or type(row[0]) is not str:
        return None
    key, call, *minutes = row
    checked = tuple(one for one in map(checked_minutes, minutes) if one is not None)
    return _Row(key, call, checked) if len(checked) == len(minutes) else None


def restore(part: object, keys: KeyRecord, predictor: Predictor, now: int) -> None:
    """Give a prefetcher what an earlier process has recorded under its name."""
    rows = part.get("rows") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(rows, list):
        return
    checked = [row for row in map(_checked, rows[:_MOST_ROWS]) if row is not None]
    found = [(row.key, row.minutes) for row in checked if keys.take_back(row.key, row.call)]
    predictor.restore(part.get("proof"), found, now)
