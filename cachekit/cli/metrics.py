"""`cachekit metrics`: the figures of all processes that share a cache directory, for Prometheus.

Without a port it prints them once. `--grafana` and `--alerts` print a dashboard and rules for them, which are
made from the same table.
"""

from __future__ import annotations

import json
import os
import threading
from typing import NamedTuple

from cachekit.cli.directory import DirectoryError, cache_directory, refuse
from cachekit.errors import CacheError


class Plan(NamedTuple):
    """The options of the command."""

    directory: str | None
    name: str | None  #: the label `cache`
    host: str
    port: int | None


def run(plan: Plan) -> int:
    """Print the figures, or serve them until Ctrl-C; return 1 if they cannot be read."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest, start_http_server

        from cachekit.integrations.prometheus import CacheCollector
    except ImportError:
        return refuse(
            DirectoryError("`metrics` needs prometheus-client: pip install 'cachekit-tiered[prometheus]'")
        )
    registry = CollectorRegistry()
    try:
        path = None if plan.directory is None else cache_directory(plan.directory)
        registry.register(CacheCollector.of_host(plan.name or _name(path), path))
        if plan.port is None:
            print(generate_latest(registry).decode(), end="")
            return 0
        server, _ = start_http_server(plan.port, plan.host, registry)
    except (CacheError, DirectoryError) as error:
        return refuse(error)
    except OSError as error:
        return refuse(DirectoryError(f"port {plan.port} of {plan.host} cannot be used: {error.strerror}"))
    host = f"[{plan.host}]" if ":" in plan.host else plan.host
    print(f"http://{host}:{server.server_port}/metrics", flush=True)
    try:
        threading.Event().wait()
    finally:
        server.shutdown()
    return 0


def _name(path: str | None) -> str:
    return "user" if path is None else os.path.basename(path) or path


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
