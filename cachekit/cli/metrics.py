"""`cachekit metrics`: the figures of all processes that share a directory or a server, for Prometheus.

Without a port it prints them once. `--grafana` and `--alerts` print a dashboard and rules for them, which are
made from the same table.
"""

from __future__ import annotations

import json
import os
import threading
from typing import NamedTuple, final

from cachekit.cli.directory import DirectoryError, refuse
from cachekit.cli.watched import reader_of
from cachekit.errors import CacheError
from cachekit.monitoring.reading import FiguresReader, HostReader, SharedFigures


class Plan(NamedTuple):
    """The options of the command."""

    place: str | None  #: a directory, or the URL of a server
    prefix: str | None
    name: str | None  #: the label `cache`
    host: str
    port: int | None


@final
class _Read:
    """Figures that were read before. A collector that cannot read would only log it."""

    def __init__(self, reader: FiguresReader) -> None:
        self.place = reader.place
        self._figures = reader.read()

    def begin(self) -> None:
        pass

    def read(self) -> SharedFigures:
        return self._figures


def run(plan: Plan) -> int:
    """Print the figures, or serve them until Ctrl-C; return 1 if they cannot be read."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest, start_http_server

        from cachekit.integrations.prometheus import collector_of
    except ImportError:
        return refuse(
            DirectoryError("`metrics` needs prometheus-client: pip install 'cachekit-tiered[prometheus]'")
        )
    registry = CollectorRegistry()
    try:
        reader = reader_of(plan.place, plan.prefix)
        # The name of a directory may hold bytes that are no UTF-8.
        name = (plan.name or _name(plan, reader)).encode(errors="backslashreplace").decode()
        registry.register(collector_of(name, _Read(reader) if plan.port is None else reader))
    except (CacheError, DirectoryError) as error:
        return refuse(error)
    if plan.port is None:
        print(generate_latest(registry).decode(), end="")
        return 0
    try:
        server, _ = start_http_server(plan.port, plan.host, registry)
    except OSError as error:
        return refuse(DirectoryError(f"port {plan.port} of {plan.host} cannot be used: {error.strerror}"))
    except UnicodeError:  # how Python refuses some names before it looks them up
        return refuse(DirectoryError(f"{plan.host} is no name of a host"))
    host = f"[{plan.host}]" if ":" in plan.host else plan.host
    print(f"http://{host}:{server.server_port}/metrics", flush=True)
    try:
        threading.Event().wait()
    finally:
        server.shutdown()
    return 0


def _name(plan: Plan, reader: FiguresReader) -> str:
    if plan.place is None:
        return "user"
    if isinstance(reader, HostReader):
        return os.path.basename(reader.place) or reader.place
    return plan.prefix or "fleet"


def print_grafana() -> int:
    """Print a dashboard for Grafana."""
    from cachekit.cli.grafana import dashboard

    print(json.dumps(dashboard(), indent=2))
    return 0


def print_alerts() -> int:
    """Print rules for Prometheus."""
    from cachekit.cli.alerts import rules

    print(rules(), end="")
    return 0
