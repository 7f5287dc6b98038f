"""`cachekit dashboard [DIR|URL]`: serves the dashboard to the user who started it, until Ctrl-C.

The address that it prints has a token. The first request exchanges it for a cookie and leaves the token out
of the address. Requests without either, with another name for this host, or by another method are refused.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from typing import TYPE_CHECKING, Final, NamedTuple, final
from urllib.parse import parse_qs

from cachekit.cli.directory import ArgumentError, DirectoryError, refuse
from cachekit.cli.watched import reader_of
from cachekit.errors import CacheError

if TYPE_CHECKING:
    from types import FrameType

    from cachekit.dashboard.asgi import Dashboard, Receive, Scope, Send


#: The addresses that stand for all addresses of this host.
_EVERY: Final = ("", "0.0.0.0", "::")  # noqa: S104  # it binds to one only with --insecure-bind
#: The port that browsers leave out of the name of a host.
_PORT_OF_HTTP: Final = 80


class Plan(NamedTuple):
    """The options of the command."""

    place: str | None  #: a directory, or the URL of a server
    prefix: str | None
    host: str
    port: int
    insecure_bind: bool


def run(plan: Plan) -> int:
    """Serve the dashboard until Ctrl-C; return 1 if that cannot be done."""
    try:
        import uvicorn
    except ImportError:
        return refuse(DirectoryError("`dashboard` needs uvicorn: pip install 'cachekit-tiered[dashboard]'"))
    from cachekit.dashboard.asgi import Dashboard
    from cachekit.dashboard.board import WATCHED, board_of_reader

    if not plan.insecure_bind and not _is_loopback(plan.host):
        return refuse(
            ArgumentError(
                f"{plan.host} can be reached from other hosts, and the address would be sent unencrypted; "
                f"use an SSH tunnel, or add --insecure-bind"
            )
        )
    try:
        reader = reader_of(plan.place, plan.prefix, WATCHED)
        board = Dashboard(board_of_reader(reader), lambda _: True)
    except (CacheError, DirectoryError) as error:
        return refuse(error)
    try:
        family = socket.AF_INET6 if ":" in plan.host else socket.AF_INET
        listening = socket.create_server((plan.host, plan.port), family=family)
    except OSError as error:
        return refuse(DirectoryError(f"port {plan.port} of {plan.host} cannot be used: {error.strerror}"))
    port = listening.getsockname()[1]
    gate = Gate(board, plan.host, port)
    print(f"http://{gate.name}/?token={gate.token}", flush=True)
    config = uvicorn.Config(
        gate, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3,
        lifespan="off",
    )  # fmt: skip
    server = uvicorn.Server(config)
    handle = server.handle_exit

    def end(sig: int, frame: FrameType | None) -> None:
        board.stop()  # the server waits for its streams
        handle(sig, frame)

    server.handle_exit = end  # type: ignore[method-assign]  # what its signal handlers call
    with listening:
        server.run([listening])
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


@final
class Gate:
    """Lets the user who knows the token see a dashboard, and nothing of another name than this host's.

    Args:
        dashboard: what is behind it.
        host: the address that is served at.
        port: the port.
    """

    def __init__(self, dashboard: Dashboard, host: str, port: int) -> None:
        self._dashboard = dashboard
        self.token = secrets.token_urlsafe(16)
        name = f"[{host}]" if ":" in host else host
        self.name = f"{name}:{port}"
        # A page of another site that has its own name lead to this address is refused (DNS rebinding).
        self._ports = (f":{port}", "") if port == _PORT_OF_HTTP else (f":{port}",)
        names = (name, "localhost", "127.0.0.1", "[::1]")
        self._names = {name + shown for name in names for shown in self._ports}
        self._is_everywhere = host in _EVERY
        # Browsers send the cookies of one port to all ports.
        self._cookie = f"cachekit-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        from cachekit.dashboard.asgi import respond
        from cachekit.dashboard.pages import HEADERS, Answer, plain

        if scope["type"] != "http":
            await self._dashboard(scope, receive, send)
            return
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) != 1 or not self._is_here(hosts[0]):
            await respond(send, plain(403, "This name is not that of the dashboard."))
        elif scope["method"] != "GET":
            await respond(send, plain(405, "The dashboard is read-only.", ("allow", "GET")))
        elif self._knows(*parse_qs(scope["query_string"].decode("latin-1")).get("token", ())):
            cookie = f"{self._cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            await respond(send, Answer(303, (("location", "./"), ("set-cookie", cookie), *HEADERS), b""))
        elif self._knows(*self._cookies(headers)):
            await self._dashboard(scope, receive, send)
        else:
            await respond(send, plain(401, "Open the address that `cachekit dashboard` has printed."))

    def _is_here(self, host: str) -> bool:
        if host in self._names:
            return True
        # Any address of this host is one of its names then. No site can make an address lead elsewhere.
        return self._is_everywhere and any(
            host.endswith(shown) and _is_address(host.removesuffix(shown)) for shown in self._ports
        )

    def _knows(self, *tokens: str) -> bool:
        return any(secrets.compare_digest(token.encode(), self.token.encode()) for token in tokens)

    def _cookies(self, headers: list[tuple[str, str]]) -> list[str]:
        # Not by `http.cookies`. It reads nothing of a header in which another program of this host has put
        # characters that it does not expect, such as those of JSON.
        cookies = [cookie for name, value in headers if name == "cookie" for cookie in value.split(";")]
        pairs = [cookie.strip().partition("=") for cookie in cookies]
        return [value for name, _, value in pairs if name == self._cookie]
