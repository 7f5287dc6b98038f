"""What caches tell each other over the bus, and how a reader notices that it has missed something.

A message is JSON: [version, writer, number, kind, body]. Each writer numbers its messages from 1. Threads
of one writer overtake each other, so a number that is missing means nothing by itself; but every so often
a writer that has sent something sends a heartbeat, which says "I have sent a to b since my last one, and
have nothing of it in hand any more". Who does not have all of them has lost some. A heartbeat speaks of
what was settled when the one before was due, because in a Cluster messages of one writer may come over
different nodes. A heartbeat that does not come is a loss too.

Only the order of these lines is relied on; nothing here does I/O.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypeGuard, final

from cachekit.errors import CacheClosedError
from cachekit.tiers.base import BusListener
from cachekit.tiers.redis.key_layout import literal_beginning

_VERSION: Final = 1
_MOST_IN_ONE: Final = 48 << 10  # characters of keys in a message, about
_HEAVIEST: Final = 1 << 20  # bytes of the values that are written in one step
_MOST_WRITERS: Final = 10_000
_MOST_NUMBERS: Final = 100_000
_FORGET: Final = 600.0  # seconds after which a writer that is silent is nobody any more

#: Keys that one script goes about: while it runs, the server does nothing else.
MOST_TOGETHER: Final = 250
#: Seconds between two heartbeats of a writer that has something to confirm.
HEARTBEAT: Final = 1.0
#: Seconds that a message may wait for the heartbeat that confirms it.
PATIENCE: Final = 5.0

Kind: TypeAlias = Literal["keys", "tags", "pattern", "all", "beat"]


def portions(sizes: Mapping[str, int]) -> list[list[str]]:
    """Keys with the sizes of their values: so many together as go into one message, and into one step.

    What is larger goes alone.
    """
    result: list[list[str]] = []
    room = weight = 0
    for key, size in sizes.items():
        room -= len(key) + 8
        weight -= size
        if room < 0 or weight < 0 or len(result[-1]) >= MOST_TOGETHER:
            result.append([])
            room, weight = _MOST_IN_ONE - len(key) - 8, _HEAVIEST - size
        result[-1].append(key)
    return result


@final
class Outbox:
    """The numbers of one writer, which is one cache in one process. Safe in any thread."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Become another writer: in a forked child, or two would number alike."""
        self.writer = os.urandom(9).hex()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._last = 0
        self._in_hand: set[int] = set()
        self._settled = 0  # all up to this one were, at the last heartbeat
        self._confirmed = 0

    def message(self, kind: Kind, body: Any = None) -> tuple[int, str]:
        """A message and its number, which is in hand until `settle`."""
        with self._lock:
            number = self._last = next(self._numbers)
            self._in_hand.add(number)
        return number, self._text(number, kind, body)

    def settle(self, number: int) -> None:
        """The message was published; or it was not, and readers shall notice."""
        with self._lock:
            self._in_hand.discard(number)

    def heartbeat(self, *, final: bool = False) -> tuple[int, str] | None:
        """What is to be confirmed now, and the number to `confirm`; None if there is nothing.

        Args:
            final: there will be no other: confirm everything.
        """
        with self._lock:
            settled = min(self._in_hand) - 1 if self._in_hand else self._last
            due = settled if final else self._settled
            self._settled = settled
            if due <= self._confirmed:
                return None
            return due, self._text(0, "beat", [self._confirmed, due])

    def confirm(self, number: int) -> None:
        """The heartbeat was published."""
        self._confirmed = number

    def before_fork(self) -> None:
        """Take the lock (see `forks`)."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Give the lock back; the child is another writer."""
        if in_child:
            self.renew()
        else:
            self._lock.release()

    def _text(self, number: int, kind: Kind, body: Any) -> str:
        return json.dumps([_VERSION, self.writer, number, kind, body], separators=(",", ":"))


@final
class PublishedWrite:
    """A message of an outbox, which a `with` block publishes, or fails to.

    Whichever it is, whoever listens in this process is told by the end of the block: a write that failed may
    have been carried out. A class by hand, because one by `contextlib` takes three times as long, and each
    write has one.

    Args:
        outbox: whose message it is.
        tell: called with kind and body.
        kind: what the message says.
        body: of what.
    """

    __slots__ = ("_body", "_kind", "_number", "_outbox", "_tell", "_text")

    def __init__(self, outbox: Outbox, tell: Callable[[Kind, Any], None], kind: Kind, body: object) -> None:
        self._outbox = outbox
        self._tell = tell
        self._kind = kind
        self._body = body
        self._number, self._text = outbox.message(kind, body)

    def __enter__(self) -> str:
        return self._text

    def __exit__(self, *_: object) -> None:
        try:
            self._outbox.settle(self._number)
        finally:
            self._tell(self._kind, self._body)


def tell(listener: BusListener, kind: Kind, body: Any = None) -> None:
    """Tell a listener what a message says. What it raises is logged; then it is told to trust nothing."""
    try:
        if kind == "keys":
            listener.keys_changed(body)
        elif kind == "tags":
            listener.tags_changed(frozenset(body))
        elif kind == "pattern":
            listener.pattern_changed(body)
        else:
            listener.everything_changed()
    except CacheClosedError:
        pass  # closed meanwhile: it has nothing any more that could be old
    except Exception:
        logging.getLogger("cachekit").exception("a listener of the bus failed")
        if kind != "all":
            tell(listener, "all")


class _Writer:
    """What has come from one writer."""

    __slots__ = ("confirmed", "due", "heard", "numbers")

    def __init__(self, now: float) -> None:
        self.numbers: set[int] = set()  # those that no heartbeat has confirmed
        self.confirmed = 0
        self.due: float | None = None  # when the next heartbeat must have come
        self.heard = now


@final
class Inbox:
    """Reads messages, tells the listener, and tells it to trust nothing where some are missing.

    Not locked: the bus thread alone uses it.

    Args:
        own: the writer whose messages are ours: who listens here was told before the write returned.
        listener: who is told, or None if nobody is there any more.
    """

    def __init__(self, own: str, listener: Callable[[], BusListener | None]) -> None:
        self._own = own
        self._listener = listener
        self._writers: dict[str, _Writer] = {}

    def gap(self) -> None:
        """The connection was lost: whoever spoke before is unknown from here on."""
        self._writers.clear()
        self._tell("all")

    def receive(self, text: bytes, now: float) -> None:
        """Read one message that came at this moment."""
        try:
            version, name, number, kind, body = json.loads(text)
            known = version == _VERSION and type(name) is str and type(number) is int
        except (ValueError, TypeError, RecursionError):
            known = False
        if not known:
            self._tell("all")
        elif name != self._own:
            self._receive(name, number, kind, body, now)

    def _receive(self, name: str, number: int, kind: object, body: Any, now: float) -> None:
        writer = self._writers.get(name)
        if writer is None:
            if len(self._writers) >= _MOST_WRITERS:
                self.gap()
            writer = self._writers[name] = _Writer(now)
        writer.heard = now
        if kind == "beat":
            # What is missing is made good with that. The later numbers that are here stay: a writer that
            # never pauses would be found incomplete by each of its heartbeats else.
            if not self._is_complete(writer, body, now):
                self._tell("all")
            return
        if number > writer.confirmed:  # else it was sent twice, or its heartbeat overtook it
            writer.numbers.add(number)
            if writer.due is None:
                writer.due = now + PATIENCE
        if _is_told(kind, body):
            if kind == "pattern":
                # It is not run: whoever may publish could send one that takes for ever.
                body = re.escape(literal_beginning(body))
            self._tell(kind, body)
        else:
            self._tell("all")
        if len(writer.numbers) > _MOST_NUMBERS:
            self.gap()

    @staticmethod
    def _is_complete(writer: _Writer, body: Any, now: float) -> bool:
        """Whether all has come that a heartbeat speaks of; the next one is compared with what came since."""
        if type(body) is not list or [type(part) for part in body] != [int, int]:
            return False
        begin, end = body
        in_order = not writer.confirmed or begin <= writer.confirmed  # else a heartbeat is missing
        begin = writer.confirmed or begin  # or one came twice, the second time with more
        confirmed = {number for number in writer.numbers if number <= end}
        complete = len(confirmed) == max(end - begin, 0) and (not confirmed or min(confirmed) > begin)
        writer.numbers -= confirmed
        writer.confirmed = max(end, begin)
        writer.due = now + PATIENCE if writer.numbers else None
        return in_order and complete

    def tick(self, now: float) -> None:
        """Time has passed: see whether a heartbeat should have come."""
        overdue = [one for one in self._writers.values() if one.due is not None and one.due < now]
        for writer in overdue:
            writer.due = None  # once; it may still come
        if overdue:
            self._tell("all")
        silent = [name for name, writer in self._writers.items() if writer.heard < now - _FORGET]
        for name in silent:
            del self._writers[name]

    def _tell(self, kind: Kind, body: Any = None) -> None:
        listener = self._listener()
        if listener is not None:
            tell(listener, kind, body)


def _is_told(kind: object, body: object) -> TypeGuard[Kind]:
    """Whether it is something that `tell` can say of this body."""
    if kind in ("keys", "tags"):
        return type(body) is list and all(type(one) is str for one in body)
    return kind == "all" or (kind == "pattern" and type(body) is str)
