"""The bus: what one cache writes or invalidates, the others under the same prefix hear of.

Messages are published by the scripts that write (see `put.lua`), so there is no write without its message.
Those who listen to the very tier that was written are told in the thread that wrote, before the call
returns, and take no notice of the message. A listener has a thread and a connection of its own. Whenever
it cannot know that it has heard everything, it is told to trust nothing: at the beginning, after the
connection was lost and when it is back, when a message cannot be read, and when numbers or heartbeats are
missing (see `messages`). No value comes from here: a stranger who publishes on the channel can
make caches forget or, in the name of a writer, keep them from noticing a loss.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, final

from cachekit.errors import TierUnavailableError
from cachekit.runtime import fork
from cachekit.tiers.base import BusListener
from cachekit.tiers.redis.bus_protocol import HEARTBEAT, PATIENCE, Inbox, Kind, Outbox, tell
from cachekit.tiers.redis.client import Client
from cachekit.tiers.redis.heartbeat import Heartbeat

_STEP: Final = 0.1  # seconds that a thread listens before it looks up: so long `close` may wait for it
_SHORTEST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0


@final
class Bus:
    """Both ends of the bus of one cache. Safe in any thread, before and after a fork.

    Args:
        server: the way to the server.
        channel: where the caches of one prefix meet.
    """

    def __init__(self, server: Client, channel: bytes) -> None:
        self._server = server
        self.channel = channel
        self.outbox = Outbox()
        self._lock = threading.Lock()
        self._ears: tuple[_BusReader, ...] = ()  # replaced as a whole: it is read without the lock
        self._heart = Heartbeat(server, channel, self.outbox)
        # When nobody holds this any more what it has sent must still be confirmed.
        weakref.finalize(self, self._heart.drop).atexit = False
        fork.register(self)

    def keep_confirming(self) -> None:
        """See to it that heartbeats follow, from the first message on."""
        self._heart.keep_beating()

    def subscribe(self, listener: BusListener) -> Callable[[], None]:
        """Begin to listen; the function returned ends it, and may be called twice.

        That function holds the listener, and nothing else here does: when both are gone, listening ends too.
        """
        ear = _BusReader(self._server, self.channel, self.outbox, listener)
        kept = [listener]
        with self._lock:
            self._ears = (*(one for one in self._ears if not one.is_over), ear)
        ear.start()

        def end() -> None:
            kept.clear()
            with self._lock:
                self._ears = tuple(one for one in self._ears if one is not ear)
            ear.stop()

        return end

    def tell(self, kind: Kind, body: Any) -> None:
        """Tell all who listen here, now and in this thread, what a message says."""
        ears = self._ears
        try:
            for ear in ears:
                ear.tell(kind, body)
        except BaseException:
            # A signal handler's, at any point. To be told twice does no harm.
            for ear in ears:
                ear.tell(kind, body)
            raise

    def readers(self) -> list[threading.Thread]:
        """Return the threads that listen."""
        return [ear.thread for ear in self._ears if ear.thread is not None]

    def close(self) -> None:
        """Confirm what was sent, and end all listening."""
        with self._lock:
            ears, self._ears = self._ears, ()
        self._heart.end()
        for ear in ears:
            ear.stop()

    def before_fork(self) -> None:
        """Take the locks (see `forks`)."""
        self._lock.acquire()
        self._heart.before_fork()

    def after_fork(self, in_child: bool) -> None:
        """Give the locks back; the child is another writer, and listens with threads of its own."""
        self._heart.after_fork(in_child)
        self._lock.release()
        if in_child:
            for ear in self._ears:
                ear.restart()  # one that is over ends at once


@final
class _BusReader:
    """A thread that listens for one listener until it is stopped, or nobody holds the listener any more."""

    def __init__(self, server: Client, channel: bytes, outbox: Outbox, listener: BusListener) -> None:
        self._server = server
        self._channel = channel
        self._outbox = outbox
        self._listener = weakref.ref(listener)
        self._stopped = threading.Event()
        self.thread: threading.Thread | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nobody to listen for any more."""
        return self._stopped.is_set() or self._listener() is None

    def tell(self, kind: Kind, body: Any) -> None:
        """Tell the listener what a message says; whoever is stopped may be told still."""
        listener = self._listener()
        if listener is not None:
            tell(listener, kind, body)

    def start(self) -> None:
        thread = threading.Thread(target=self._run, name="cachekit-bus", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter ends
            raise TierUnavailableError("there is no thread to listen with") from error
        self.thread = thread

    def restart(self) -> None:
        """In a forked child: the thread is gone, and what it would have heard with it."""
        self._stopped = threading.Event()
        try:
            self.start()
        except TierUnavailableError:
            logging.getLogger("cachekit").exception("a forked process does not hear what others write")

    def stop(self) -> None:
        """End it, and wait until it has."""
        self._stopped.set()
        thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        inbox = Inbox(self._outbox.writer, self._listener)
        # In a forked child this is the first that the listener hears.
        inbox.gap()
        pause = _SHORTEST_PAUSE
        while not self.is_over:
            begun = time.monotonic()
            try:
                self._listen(inbox)
            except Exception as error:  # noqa: BLE001  # whatever it was: a thread that ends would be silence
                logging.getLogger("cachekit").info("the bus of %s was interrupted: %s", self._server, error)
                inbox.gap()
            if time.monotonic() - begun > _LONGEST_PAUSE:
                pause = _SHORTEST_PAUSE
            if self.is_over:
                break
            # Not all of a fleet at the same moment.
            self._stopped.wait(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST_PAUSE)
        if not self._stopped.is_set():
            logging.getLogger("cachekit").info(
                "a listener on %s was dropped, and hears no more", self._server
            )

    def _listen(self, inbox: Inbox) -> None:
        """Hear what is published until the connection is lost, or `stop`."""
        pubsub = self._server.pubsub()
        try:
            pubsub.subscribe(self._channel)
            asked = heard = time.monotonic()
            while not self.is_over:
                message = pubsub.get_message(timeout=_STEP)
                now = time.monotonic()
                if message is not None:
                    heard = now
                    self._hear(message, inbox, now)
                elif now - heard > PATIENCE:
                    raise TierUnavailableError("the server does not answer on the bus")
                elif now - max(heard, asked) > HEARTBEAT:
                    asked = now
                    pubsub.ping()
                inbox.tick(now)
        finally:
            pubsub.close()

    @staticmethod
    def _hear(message: dict[str, Any], inbox: Inbox, now: float) -> None:
        if message["type"] == "message":
            inbox.receive(message["data"], now)
        elif message["type"] == "subscribe":
            # The first time there may have been messages before; after that, the driver connected anew.
            inbox.gap()
