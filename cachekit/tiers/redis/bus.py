"""The bus: each cache learns what the other caches under its prefix write or invalidate.

The scripts that write also publish the message (see `put.lua`), so there is no write without its message. A
listener on the very tier that was written is notified in the thread that wrote, before the call returns, and
ignores the message. A listener has a thread and a connection of its own. Whenever it may have missed a
message, it is told to trust nothing. That is when the thread begins, when the connection is lost and made
again, when a message cannot be read, and when numbers or heartbeats are missing (see `bus_protocol`).

No value comes over the bus. Another client that publishes on the channel can make caches drop entries or, in
the name of a writer, hide a loss from them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, final

from cachekit.errors import TierUnavailableError
from cachekit.runtime import fork
from cachekit.runtime.interrupts import raise_interrupt
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.base import BusListener
from cachekit.tiers.redis.bus_protocol import HEARTBEAT, PATIENCE, Inbox, Kind, Outbox, beginning, tell
from cachekit.tiers.redis.client import Client
from cachekit.tiers.redis.end_budget import end_budget
from cachekit.tiers.redis.heartbeat import Heartbeat
from cachekit.tiers.redis.resp import WrongReplyError
from cachekit.tiers.redis.subscription import Subscription

_STEP: Final = 0.1  # seconds that a thread waits for a message at a time
_GATHERING: Final = 0.001  # seconds that messages wait for others while this process writes
_SHORTEST_PAUSE: Final = 0.05
_FIRST_CALL: Final = 0.2  # seconds that the first call waits for the bus at most
_LOOK: Final = 0.0005  # seconds between two looks whether the bus is there
_LONGEST_PAUSE: Final = 5.0


@final
class Bus:
    """Both ends of the bus of one cache. Safe in any thread, before and after a fork.

    Args:
        server: the client of the server.
        channel: the channel that the caches of one prefix share.
    """

    def __init__(self, server: Client, channel: bytes) -> None:
        self._server = server
        self.channel = channel
        self.outbox = Outbox()
        self._lock = RLock()  # a signal handler may make a cache in the middle of it
        self._readers: tuple[_BusReader, ...] = ()  # replaced as a whole: it is read without the lock
        #: The readers that are to be notified, and that the server has neither confirmed nor failed since.
        self.beginning: tuple[_BusReader, ...] = ()
        self.heartbeat = Heartbeat(server, channel, self.outbox)
        # What this has sent must be confirmed even if the bus is no longer held.
        weakref.finalize(self, self.heartbeat.drop).atexit = False
        fork.register(self)

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Begin to listen; the function returned ends that, and may be called twice.

        Only that function holds the listener. When both are no longer held, listening ends too.
        """
        mine = _BusReader(self, self._server, listener)
        kept = [listener]
        self._replace_readers(lambda reader: not reader.is_over, mine)
        self.expect(mine)
        mine.start()

        def end() -> None:
            kept.clear()
            self._replace_readers(lambda reader: reader is not mine)
            mine.stop()

        return end

    def _replace_readers(self, keeps: Callable[[_BusReader], bool], *more: _BusReader) -> None:
        with self._lock:
            while True:
                before = self._readers
                after = (*filter(keeps, before), *more)
                # Nothing runs between the next two lines (see `model.counters`).
                if self._readers is before:
                    self._readers = after
                    return

    def expect(self, reader: _BusReader) -> None:
        """Let calls wait for the server's confirmation of a reader (see `await_beginning`)."""
        reader.has_begun = False
        with self._lock:
            self.beginning = (*self.beginning, reader)

    def reconnect(self) -> None:
        """Let readers that lost the server connect at once: it answers again. Calls wait for them."""
        for reader in self._readers:
            if not (reader.is_connected or reader.is_over):
                self.expect(reader)
                reader.hurry()

    def await_beginning(self) -> None:
        """Wait until the server has confirmed each subscription, new or renewed, or failed; 0.2 s at most.

        A confirmation clears memory, because messages may have been lost before. What calls stored since the
        loss would be lost with it. Without a lock: a signal handler may call this in the middle of itself.
        """
        end = time.monotonic() + _FIRST_CALL
        awaited = self.beginning
        for reader in awaited:
            if not reader.has_begun:
                reader.hurry()
            while not reader.has_begun and not reader.is_over and time.monotonic() < end:
                time.sleep(_LOOK)
        while True:
            before = self.beginning
            after = tuple(reader for reader in before if reader not in awaited)  # one may have come since
            # Nothing runs between the next two lines (see `model.counters`).
            if self.beginning is before:
                self.beginning = after
                return

    def tell(self, kind: Kind, bodies: Sequence[Any]) -> None:
        """Notify the listeners of this process, in this thread, of what messages say."""
        readers = self._readers
        try:
            for reader in readers:
                reader.tell(kind, bodies)
        except BaseException:
            # A signal handler may raise at any point. A second notification does no harm.
            for reader in readers:
                reader.tell(kind, bodies)
            raise

    def readers(self) -> list[threading.Thread]:
        """Return the threads that listen."""
        return [reader.thread for reader in self._readers if reader.thread is not None]

    def close(self) -> None:
        """Confirm what was sent, and end all listening."""
        with self._lock:
            readers, self._readers = self._readers, ()
        self.heartbeat.end()
        for reader in readers:
            reader.stop()

    def before_fork(self) -> None:
        """Take the locks, so that no thread holds them in the child."""
        self._lock.acquire()
        self.heartbeat.before_fork()

    def after_fork(self, in_child: bool) -> Callable[[], None] | None:
        """Release the locks; the child is another writer, and listens with threads of its own."""
        self.heartbeat.after_fork(in_child)
        self._lock.release()
        if not in_child:
            return None
        for reader in self._readers:
            self.expect(reader)
        return self._restart

    def _restart(self) -> None:
        for reader in self._readers:
            reader.restart()  # one that is over ends at once


@final
class PublishedWrite:
    """Messages that a `with` block publishes, or fails to publish. Heartbeats follow.

    In both cases the listeners of this process are notified by the end of the block, because a write that
    failed may have been carried out. The class is written by hand: one by `contextlib` takes three times as
    long, and each write has one.

    Args:
        bus: the bus.
        kind: the kind of the messages.
        bodies: the body of each message.
    """

    __slots__ = ("_bodies", "_bus", "_kind", "_numbers")

    def __init__(self, bus: Bus, kind: Kind, bodies: Sequence[Any]) -> None:
        self._bus = bus
        self._kind: Kind = kind
        self._bodies = bodies
        self._numbers: list[int] = []

    def __enter__(self) -> list[str]:
        bus = self._bus
        if not bus.heartbeat.is_beating:
            bus.heartbeat.keep_beating()
        texts = []
        try:
            for body in self._bodies:
                number, text = bus.outbox.message(self._kind, body)
                self._numbers.append(number)
                texts.append(text)
        except BaseException:
            # A number that stays in hand would keep all later ones from being confirmed.
            bus.outbox.settle(*self._numbers)
            raise
        return texts

    def __exit__(self, *_: object) -> None:
        try:
            self._bus.outbox.settle(*self._numbers)
        finally:
            self._bus.tell(self._kind, self._bodies)


@final
class _BusReader:
    """A thread that reads the bus for one listener, until it is stopped or the listener is no longer held."""

    def __init__(self, bus: Bus, server: Client, listener: BusListener) -> None:
        self._bus = weakref.ref(bus)
        self._server = server
        self._channel = bus.channel
        self._outbox = bus.outbox
        self._listener = weakref.ref(listener)
        self._stopped = threading.Event()
        self._awake = threading.Event()
        self._subscription: Subscription | None = None
        self.thread: threading.Thread | None = None
        #: Whether the server has confirmed the subscription, or failed to, since `Bus.expect`.
        self.has_begun = False
        #: Whether it has confirmed the subscription, and the connection was not lost since.
        self.is_connected = False

    @property
    def is_over(self) -> bool:
        """Whether it was stopped, or the listener is no longer held."""
        return self._stopped.is_set() or self._listener() is None

    def tell(self, kind: Kind, bodies: Sequence[Any]) -> None:
        """Notify the listener of what messages say. This may happen even after `stop`."""
        listener = self._listener()
        if listener is not None:
            for body in bodies:
                tell(listener, kind, body)

    def start(self) -> None:
        thread = threading.Thread(target=self._run, name="cachekit-bus", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter ends
            raise_interrupt(error)
            raise TierUnavailableError("no thread can be started to read the bus") from error
        self.thread = thread

    def restart(self) -> None:
        """Start again in a forked child, where the thread is gone."""
        self._stopped, self._awake = threading.Event(), threading.Event()
        self.is_connected = False
        try:
            self.start()
        except TierUnavailableError:
            self.has_begun = True
            logging.getLogger("cachekit").exception(
                "bus reader not started in a forked process, its memory may be stale until entries expire"
            )

    def hurry(self) -> None:
        """End the pause before the next connection, because a call waits for it."""
        self._awake.set()

    def stop(self) -> None:
        """End it, and wait until it has ended; not for long if it waits for a server that does not answer."""
        self._stopped.set()
        self._awake.set()
        subscription = self._subscription
        if subscription is not None:
            subscription.interrupt()
        thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            begun = time.monotonic()
            thread.join(end_budget.share(str(self._server)))
            if thread.is_alive():
                end_budget.spend(str(self._server), time.monotonic() - begun)

    def _run(self) -> None:
        inbox = Inbox(self._listener)
        # A listener of a forked child has missed messages, and learns of it here.
        inbox.gap()
        pause = _SHORTEST_PAUSE
        while not self.is_over:
            begun = time.monotonic()
            try:
                self._listen(inbox)
            except Exception as error:  # noqa: BLE001  # whatever it was: without the thread nothing would arrive
                if self._stopped.is_set():  # `stop` has interrupted it
                    break
                logging.getLogger("cachekit").info(
                    "bus of %s interrupted, clearing memory: %s", self._server, error
                )
                self._lost(inbox)
            if time.monotonic() - begun > _LONGEST_PAUSE:
                pause = _SHORTEST_PAUSE
            if self.is_over:
                break
            # Jitter, so that the fleet does not reconnect all at once.
            self._awake.wait(pause * random.uniform(0.5, 1.5))
            self._awake.clear()
            pause = min(2 * pause, _LONGEST_PAUSE)
        if not self._stopped.is_set():
            logging.getLogger("cachekit").info(
                "bus of %s: a listener was dropped without close(), listening ends", self._server
            )

    def _lost(self, inbox: Inbox) -> None:
        """Let the listener trust nothing; and calls wait for the next connection, if this one worked."""
        was_connected, self.is_connected = self.is_connected, False
        bus = self._bus()
        if was_connected and bus is not None:
            bus.expect(self)  # first: what a call stores from here on would be lost at the confirmation
        else:
            self.has_begun = True
        inbox.gap()

    def _listen(self, inbox: Inbox) -> None:
        """Read what is published until the connection is lost, or `stop`."""
        # Without those of this cache itself: its listeners were notified before the write returned.
        with self._server.subscription(self._channel, beginning(self._outbox.writer)) as subscription:
            self._subscription = subscription
            asked = received = looked = time.monotonic()
            while not self.is_over:
                messages = subscription.receive(_STEP)
                now = time.monotonic()
                for message in messages:
                    self._receive(message, inbox, now)
                if subscription.has_own:
                    # This process is writing. Each of its messages would wake this thread, which then takes
                    # the interpreter from the threads that write.
                    time.sleep(_GATHERING)
                if messages or subscription.has_own:
                    received = now
                elif now - received > PATIENCE:
                    raise TimeoutError("the server does not answer on the bus")
                elif now - max(received, asked) > HEARTBEAT:
                    asked = now
                    subscription.ping()
                if now - looked > HEARTBEAT:
                    # A primary that was replaced may still answer for seconds. What is written to the new one
                    # is not heard of on the old one.
                    looked = now
                    self._server.look_for_primary()
                inbox.tick(now)

    def _receive(self, message: list[Any], inbox: Inbox, now: float) -> None:
        match message:
            case [b"message", _, bytes(text)]:
                inbox.receive(text, now)
            case [b"subscribe", *_]:
                inbox.gap()  # messages may have been lost before
                self.is_connected = self.has_begun = True
                self._awake.clear()  # what waited for this does not shorten the pause after the next loss
            case [b"message", *_]:
                raise WrongReplyError("the server sent what is no message")
