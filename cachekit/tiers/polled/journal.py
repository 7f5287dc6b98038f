"""What the clients of a polled store have changed lately: notices that other hosts look for.

A notice is written after the change that it is about. A host that finds it and drops its copy reads the new
value then. Notices are kept in a few items, and a client adds one to any of these by compare-and-set.
An item has a number that grows with each notice, and holds the last ones. A host that finds a number too far
ahead, another beginning, or no item has missed some, and trusts none of its copies.

A client that ends between a change and its notice leaves none. So copies still live `max_staleness` at most.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, final

from cachekit.runtime import fork
from cachekit.tiers.base import BusListener
from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.polled.store import PolledStore

#: How many items share the notices, so that clients seldom wait for each other.
PAGES: Final = 8
#: Kinds of change. Any other kind is a change of everything.
KEYS: Final = "keys"
TAGS: Final = "tags"
EVERYTHING: Final = "all"
#: Bytes of an item. All hosts read all items at each look.
LARGEST: Final = 3_000
_TRIES: Final = 10

#: The client, the kind of change, and the keys or tags.
Notice: TypeAlias = tuple[str, str, list[str]]


class Page(NamedTuple):
    """An item of notices."""

    beginning: int  #: another one after the item was lost
    last: int  #: the number of the last notice
    notices: list[Notice]  #: the last ones


def opened(data: bytes) -> Page | None:
    """Return the page; None if no client wrote it."""
    try:
        match json.loads(data):
            case [int(beginning), int(last), list(notices)] if all(map(_is_notice, notices)):
                return Page(beginning, last, [(one[0], one[1], one[2]) for one in notices])
    except (ValueError, RecursionError):
        pass
    return None


def _is_notice(given: Any) -> bool:
    match given:
        case [str(), str(), list(names)]:
            return all(isinstance(name, str) for name in names)
    return False


def packed(page: Page | Notice) -> bytes:
    """Return the bytes of a page or of one notice: JSON, which has an escape for every character of a key."""
    return json.dumps(page, separators=(",", ":")).encode()


@final
class Journal:
    """The notices of a store. `note` is safe in any thread, and after a fork; `look` in one at a time.

    Args:
        store: the items on the server.
        names: those of the pages.
    """

    def __init__(self, store: PolledStore, names: list[str]) -> None:
        self._store = store
        self._names = names
        self._client = _client()
        self._seen: dict[str, tuple[int, int]] = {}
        fork.register(self)

    def note(self, kind: str, names: Sequence[str]) -> None:
        """Write a notice of a change that was carried out."""
        notice = (str(self._client), kind, list(names))
        name = self._names[fresh() % len(self._names)]  # any of them: so one busy client fills all
        for _ in range(_TRIES):
            item = self._store.read([name]).get(name)
            page = None if item is None else opened(item.data)
            data = _first(notice) if page is None else _with(page, notice)
            if item is None:
                stored = self._store.add(name, data, None)
            else:
                stored = self._store.replace(name, data, None, item.version)
            if stored:
                return
        # Another beginning says that any notice may be missing.
        self._store.write(name, _first(notice), None)

    def look(self, tell: Callable[[Callable[[BusListener], None]], None]) -> None:
        """Notify listeners of what other clients have changed and noted since the last look.

        Args:
            tell: makes a call of each listener.
        """
        items = self._store.read(self._names)
        mine = str(self._client)
        for name in self._names:
            item = items.get(name)
            page = None if item is None else opened(item.data)
            missed = _missed(page, self._seen.get(name))
            if item is None:
                # One that is there from now on shows the next loss.
                self._store.add(name, packed(Page(fresh(), 0, [])), None)
            if missed is None:
                tell(_everything)
            else:
                for client, kind, names in missed:
                    if client != mine:
                        tell(_call(kind, names))
            if page is not None:
                self._seen[name] = page.beginning, page.last

    def before_fork(self) -> None:
        """Do nothing: no lock is held here."""

    def after_fork(self, in_child: bool) -> None:
        """Make the child another client, which gets the notices of its parent."""
        if in_child:
            self._client = _client()


def _client() -> int:
    # Not a fresh token: those that were drawn before a fork are dropped later than this is called.
    return int.from_bytes(os.urandom(8), "big")


def _first(notice: Notice) -> bytes:
    return _with(Page(fresh(), 0, []), notice)


def _with(page: Page, notice: Notice) -> bytes:
    """Return the bytes of the page with one more notice, without the oldest ones if it is too long."""
    notices = [*page.notices, notice]
    data = packed(Page(page.beginning, page.last + 1, notices))
    excess = len(data) - LARGEST
    if excess <= 0:
        return data
    dropped = 0
    while excess > 0 and dropped < len(notices):
        excess -= len(packed(notices[dropped])) + 1  # the comma behind it
        dropped += 1
    return packed(Page(page.beginning, page.last + 1, notices[dropped:]))


def _missed(page: Page | None, seen: tuple[int, int] | None) -> list[Notice] | None:
    """Return the notices after the last one that was seen; None if some are not there."""
    if page is None or seen is None or seen[0] != page.beginning:
        return None
    missed = page.last - seen[1]
    kept = len(page.notices)
    return page.notices[kept - missed :] if 0 <= missed <= kept else None


def _everything(listener: BusListener) -> None:
    listener.everything_changed()


def _call(kind: str, names: list[str]) -> Callable[[BusListener], None]:
    match kind:
        case "keys":
            return lambda listener: listener.keys_changed(names)
        case "tags":
            return lambda listener: listener.tags_changed(frozenset(names))
    return _everything
