"""The messages of the bus, and how a reader notices that it has missed one.

A message is JSON: [version, writer, number, kind, body]. Each writer numbers its messages from 1. Threads of
one writer overtake each other, so a missing number proves nothing by itself. But a writer that has sent
something sends a heartbeat every second: "I have sent a to b since my last heartbeat, and none of them is in
hand any more". A reader that does not have all of them has lost some. A heartbeat covers what was sent before
the previous heartbeat was due, because in a Cluster the messages of one writer come over different nodes. A
heartbeat that does not come is a loss too.

Only the order of these lines matters. Nothing here does I/O.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypeGuard, final

from cachekit.errors import CacheClosedError
from cachekit.model.patterns import literal_beginning
from cachekit.runtime.interrupts import is_interrupt, raise_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.base import BusListener

_VERSION: Final = 1
_MOST_IN_ONE: Final = 48 << 10  # characters of keys in a message, approximately
_HEAVIEST: Final = 1 << 20  # bytes of the values that are written in one step
_LONGEST: Final = 1 << 20  # characters of a message; a longer one says "all"
_MOST_WRITERS: Final = 10_000
_MOST_NUMBERS: Final = 100_000  # of one writer that no heartbeat has confirmed
_MOST_OF_ALL: Final = 500_000  # of all writers
_LARGEST_NUMBER: Final = 1 << 63
_FORGET: Final = 600.0  # seconds after which a silent writer is forgotten

#: Keys that one script handles: while it runs, the server does nothing else.
MOST_TOGETHER: Final = 250
#: Seconds between two heartbeats of a writer that has something to confirm.
HEARTBEAT: Final = 1.0
#: Seconds that a message may wait for the heartbeat that confirms it.
PATIENCE: Final = 5.0

Kind: TypeAlias = Literal["keys", "tags", "pattern", "all", "beat"]

_is_writer: Final = re.compile("[0-9a-f]{18}").fullmatch
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_quoted: Final = json.encoder.encode_basestring_ascii


def beginning(writer: str) -> bytes:
    """Return how the messages of a writer begin."""
    return b'[%d,"%b",' % (_VERSION, writer.encode())


def portions(sizes: Mapping[str, int]) -> list[list[str]]:
    """Divide keys, with the sizes of their values, into what fits into one message and one step.

    A larger value goes alone.
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
    """The numbered messages of one writer, which is one cache in one process. Safe in any thread."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Become another writer: in a forked child, or two would use the same numbers."""
        self.writer = os.urandom(9).hex()
        self._lock = RLock()  # a signal handler may write in the middle of a write
        self._numbers = itertools.count(1)
        self._last = 0
        self._in_hand: set[int] = set()
        self._taking = 0  # messages whose number is not in hand yet
        self._settled = 0  # all numbers up to this one were, at the last heartbeat
        self._confirmed = 0

    def message(self, kind: Kind, body: Any = None) -> tuple[int, str]:
        """Return a message and its number, which is in hand until `settle`."""
        with self._lock:
            self._taking += 1
            try:
                number = next(self._numbers)
                self._in_hand.add(number)
            finally:
                self._taking -= 1
            if number > self._last:  # a handler may have taken a later one
                self._last = number
        # As `_encode` would write it. Each write has a message, and the encoder takes longer to begin.
        text = f"[{','.join(map(_quoted, body))}]" if type(body) is list else _encode(body)
        if len(text) > _LONGEST - 100:  # what is around it
            kind, text = "all", "null"
        return number, f'[{_VERSION},"{self.writer}",{number},"{kind}",{text}]'

    def settle(self, *numbers: int) -> None:
        """Note that messages were published; or that they were not, which readers must notice."""
        with self._lock:
            self._in_hand.difference_update(numbers)

    def heartbeat(self, *, final: bool = False) -> tuple[int, str] | None:
        """Return the number to `confirm`, and the heartbeat that does so; None if there is nothing.

        Args:
            final: no other heartbeat follows, so this one confirms everything.
        """
        with self._lock:
            if self._taking:  # by a handler in the middle of `message`, whose number must not be confirmed
                return None
            settled = min(self._in_hand) - 1 if self._in_hand else self._last
            due = settled if final else self._settled
            self._settled = settled
            if due <= self._confirmed:
                return None
            return due, _encode([_VERSION, self.writer, 0, "beat", [self._confirmed, due]])

    def confirm(self, number: int) -> None:
        """Note that the heartbeat was published."""
        self._confirmed = number

    def before_fork(self) -> None:
        """Take the lock, so that no thread holds it in the child."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Release the lock; the child is another writer."""
        if in_child:
            self.renew()
        else:
            self._lock.release()


def tell(listener: BusListener, kind: Kind, body: Any = None) -> None:
    """Notify a listener of what a message says. If it raises, that is logged, and it must trust nothing."""
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
        pass  # it was closed, and has no copies any more
    except Exception as error:
        if is_interrupt(error):
            raise  # `Bus.tell` notifies once more
        logging.getLogger("cachekit").exception("bus listener failed, clearing its memory")
        if kind != "all":
            tell(listener, "all")


class _Writer:
    """What a reader has received from one writer."""

    __slots__ = ("confirmed", "due", "numbers", "received")

    def __init__(self, now: float) -> None:
        self.numbers: set[int] = set()  # those that no heartbeat has confirmed
        self.confirmed = 0
        self.due: float | None = None  # when the next heartbeat must have come
        self.received = now


@final
class Inbox:
    """Reads messages, and notifies the listener; where some are missing, to trust nothing.

    Not locked: only the thread of the reader uses it.

    Args:
        listener: returns the listener, or None if it is no longer held.
    """

    def __init__(self, listener: Callable[[], BusListener | None]) -> None:
        self._listener = listener
        self._writers: dict[str, _Writer] = {}
        self._pending = 0  # numbers of all writers that no heartbeat has confirmed

    def gap(self) -> None:
        """Note that the connection was lost: all writers are unknown from here on."""
        self._writers.clear()
        self._pending = 0
        self._tell("all")

    def receive(self, text: bytes, now: float) -> None:
        """Read one message that arrived at this time."""
        # Any client that may publish decides what is in it. Only what a cache could have sent is kept.
        known = False
        if len(text) <= _LONGEST:
            try:
                version, name, number, kind, body = json.loads(text)
                known = version == _VERSION and _is_writer(name) is not None and _is_number(number)
            except (ValueError, TypeError, RecursionError) as error:
                raise_interrupt(error)
        if known:
            self._receive(name, number, kind, body, now)
        else:
            self._tell("all")

    def _receive(self, name: str, number: int, kind: object, body: Any, now: float) -> None:
        writer = self._writers.get(name)
        if writer is None:
            if len(self._writers) >= _MOST_WRITERS:
                self.gap()
            writer = self._writers[name] = _Writer(now)
        writer.received = now
        if kind == "beat":
            # Trusting nothing makes up for what is missing. Later numbers stay: otherwise each heartbeat of
            # a writer that never pauses would find it incomplete.
            if not self._is_complete(writer, body, now):
                self._tell("all")
            return
        if number > writer.confirmed:  # else it was sent twice, or its heartbeat overtook it
            before = len(writer.numbers)
            writer.numbers.add(number)
            added = len(writer.numbers) - before
            self._pending += added
            if writer.due is None:
                writer.due = now + PATIENCE
        if _is_told(kind, body):
            if kind == "pattern":
                # It is not run, because any client that may publish could send one that takes for ever.
                body = re.escape(literal_beginning(body))
            self._tell(kind, body)
        else:
            self._tell("all")
        if len(writer.numbers) > _MOST_NUMBERS or self._pending > _MOST_OF_ALL:
            self.gap()

    def _is_complete(self, writer: _Writer, body: Any, now: float) -> bool:
        """Return whether all has arrived that a heartbeat confirms."""
        if type(body) is not list or len(body) != 2 or not all(map(_is_number, body)):
            return False
        begin, end = body
        in_order = not writer.confirmed or begin <= writer.confirmed  # else a heartbeat is missing
        begin = writer.confirmed or begin  # or one came twice, the second time with more
        confirmed = {number for number in writer.numbers if number <= end}
        complete = len(confirmed) == max(end - begin, 0) and (not confirmed or min(confirmed) > begin)
        writer.numbers -= confirmed
        arrived = len(confirmed)
        self._pending -= arrived
        writer.confirmed = max(end, begin)
        writer.due = now + PATIENCE if writer.numbers else None
        return in_order and complete

    def tick(self, now: float) -> None:
        """Check whether a heartbeat is overdue."""
        overdue = [one for one in self._writers.values() if one.due is not None and one.due < now]
        for writer in overdue:
            writer.due = None  # once; it may still arrive
        if overdue:
            self._tell("all")
        silent = [name for name, writer in self._writers.items() if writer.received < now - _FORGET]
        for name in silent:
            forgotten = len(self._writers.pop(name).numbers)
            self._pending -= forgotten

    def _tell(self, kind: Kind, body: Any = None) -> None:
        listener = self._listener()
        if listener is not None:
            tell(listener, kind, body)


def _is_number(part: object) -> bool:
    return type(part) is int and 0 <= part < _LARGEST_NUMBER


def _is_told(kind: object, body: object) -> TypeGuard[Kind]:
    """Return whether `tell` can handle this kind and body."""
    if kind in ("keys", "tags"):
        return type(body) is list and all(type(one) is str for one in body)
    return kind == "all" or (kind == "pattern" and type(body) is str)
