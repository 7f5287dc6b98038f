"""Figures for StatsD and DogStatsD, sent by UDP. It needs no other package.

sender = StatsdSender({"main": cache}, "127.0.0.1:8125")
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Final, Literal, final
from weakref import WeakSet

from cachekit.integrations.sources import AnyCache, Figures, of_process
from cachekit.model.counters import LatencyHistogram
from cachekit.model.display import safe_repr
from cachekit.monitoring.families import FAMILIES, PARTS, Family
from cachekit.monitoring.snapshot import Numbers
from cachekit.runtime import fork
from cachekit.runtime.reentrant_lock import RLock
from cachekit.runtime.scheduler import Scheduler

_LARGEST: Final = 1432  # bytes of a datagram, so that none is split on the way
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")
_senders: WeakSet[StatsdSender] = WeakSet()


@final
class StatsdSender:
    """Sends the figures of caches from time to time, in a thread of its own. It never raises afterwards.

    Counters are sent as the difference since the last time, gauges as they are, and loads as timers: each
    with the upper edge of its bucket.

    Args:
        caches: The caches of this process by name, synchronous or awaited.
        address: "host:port" of the server (default "127.0.0.1:8125").
        prefix: The first part of every name (default "cachekit").
        tags: "datadog" for names as in Prometheus with tags. None (the default) puts the labels into the
            name, as `cachekit.main.lookups.memory.hit`.
        interval: Seconds between two times (default 10).

    Raises:
        TypeError: `caches` does not map names to caches.
        ValueError: an address, prefix, `tags` or interval that cannot be used.
    """

    def __init__(
        self,
        caches: Mapping[str, AnyCache],
        address: str = "127.0.0.1:8125",
        *,
        prefix: str = "cachekit",
        tags: Literal["datadog"] | None = None,
        interval: float = 10.0,
    ) -> None:
        host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(
                f'address must be "host:port", such as "127.0.0.1:8125", not {safe_repr(address)}'
            )
        if not isinstance(prefix, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", prefix):
            raise ValueError(f"prefix must be of letters, digits, '.', '_' and '-', not {safe_repr(prefix)}")
        if tags not in (None, "datadog"):
            raise ValueError(f'tags must be None or "datadog", not {safe_repr(tags)}')
        if not 0 < interval < threading.TIMEOUT_MAX:
            raise ValueError(f"interval must be a number of seconds above 0, not {safe_repr(interval)}")
        self._address = host.strip("[]"), int(port)
        self._prefix = prefix
        self._datadog = tags == "datadog"
        self._sources = of_process(caches)
        self._sending = RLock()
        self._sent: dict[str, Numbers] = {}
        self._socket: socket.socket | None = None
        # A thread of its own: to look up the host may take long, and must not keep other work waiting.
        self._task = Scheduler("cachekit-statsd").every(interval, self.flush)
        _senders.add(self)

    def flush(self) -> None:
        """Send what was counted since the last time, now."""
        with self._sending:
            lines: list[str] = []
            for name, source in self._sources.items():
                figures = source()
                lines += self._lines(name, figures)
                self._sent[name] = figures.counters
            self._send(lines)

    def close(self) -> None:
        """Send the last figures, and end."""
        self._task.cancel()
        with self._sending:
            self.flush()
            self._disconnect()

    def __enter__(self) -> StatsdSender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lines(self, name: str, figures: Figures) -> Iterator[str]:
        before = self._sent.get(name, {})
        for family in FAMILIES:
            for values, key in zip(family.series, family.figures(), strict=True):
                called = self._called(name, family, values)
                if family.kind == "gauge":
                    if key in figures.gauges:
                        yield self._line(called, figures.gauges[key], "g")
                elif family.kind == "counter":
                    more = figures.counters.get(key, 0) - before.get(key, 0)
                    if more > 0:
                        yield self._line(called, more, "c")
                elif family.name == "load.duration":  # the other one is a sample
                    for edge, part in zip((*_EDGES, 2 * _EDGES[-1]), PARTS, strict=False):
                        more = figures.counters.get(f"{key}/{part}", 0) - before.get(f"{key}/{part}", 0)
                        if more > 0:
                            yield self._line(called, 1000 * edge, f"ms|@{1 / more:.9g}")

    def _called(self, name: str, family: Family, values: tuple[str, ...]) -> tuple[str, str]:
        """Return the name of a figure, and its tags."""
        if not self._datadog:
            parts = (self._prefix, _UNSAFE.sub("_", name), family.name, *values)
            return ".".join(parts), ""
        tags = [f"{label}:{value}" for label, value in zip(family.labels, values, strict=True)]
        return f"{self._prefix}.{family.name}", "|#" + ",".join([f"cache:{_UNSAFE.sub('_', name)}", *tags])

    def _line(self, called: tuple[str, str], number: float, kind: str) -> str:
        name, tags = called
        return f"{name}:{number:.12g}|{kind}{tags}"

    def _send(self, lines: list[str]) -> None:
        datagram = ""
        try:
            if self._socket is None:
                self._socket = self._connected()
            for line in lines:
                if datagram and len(datagram) + 1 + len(line) > _LARGEST:
                    self._socket.send(datagram.encode())
                    datagram = ""
                datagram += f"\n{line}" if datagram else line
            if datagram:
                self._socket.send(datagram.encode())
        except OSError:
            # No server listens, or its host is unknown: these figures are lost, as UDP has it.
            self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _connected(self) -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
        made = socket.socket(family, kind, protocol)
        made.connect(address)
        return made


_EDGES: Final = LatencyHistogram.EDGES


def _after_fork_in_child() -> None:
    for sender in list(_senders):
        # A thread of the parent may hold the lock. What was counted up to here is the parent's.
        sender._sending = RLock()
        sender._disconnect()
        sender._sent = {name: source().counters for name, source in sender._sources.items()}


fork.call_in_child(_after_fork_in_child)
