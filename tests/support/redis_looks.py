"""What a server holds, and what it is asked, seen from beside a tier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachekit.tiers.redis.tier import RedisCache

MakeCache = Callable[..., RedisCache]

SECRET = "a secret of the whole fleet"


def names_under(client: Any, prefix: str) -> set[bytes]:
    return set(client.scan_iter(match=prefix.encode() + b"*", count=1000))


def value_name(client: Any, prefix: str, key: str) -> bytes:
    """Where the value of a key is, found by looking."""
    (name,) = [name for name in names_under(client, prefix) if name.endswith(b"}:" + key.encode())]
    return name


def arguments_of(client: Any, work: Callable[[], object]) -> list[list[str]]:
    """What a server is asked by the work, without what scripts do inside it: one round trip each.

    And without what buses ask it meanwhile: heartbeats, and whether it is still there.
    """
    with client.monitor() as monitor:
        work()
        client.echo("that was it")
        commands: list[list[str]] = []
        while True:
            seen = monitor.next_command()
            if seen["command"] == "ECHO that was it":
                return commands
            command = seen["command"].split()
            if seen["client_type"] == "lua" or command[0] in (
                "HELLO",
                "CLIENT",
                "PING",
            ):  # a new connection's
                continue
            if command[0] != "PUBLISH" or "beat" not in seen["command"]:
                commands.append(command)


def commands_of(client: Any, work: Callable[[], object]) -> list[str]:
    """The names of the commands of `arguments_of`."""
    return [command[0] for command in arguments_of(client, work)]


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]
