"""A plugin of pytest (`-p limited_user`): tiers log in as the user whose rights docs/redis.md gives.

They may touch all keys, because each test has another prefix. What a server refused makes the run fail.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
import redis_server

from cachekit.tiers.redis import connection
from cachekit.tiers.redis.address import Address

_PAGE = Path(__file__).parents[2] / "docs" / "redis.md"
_USER, _PASSWORD = "app", "secret"

refused: list[str] = []


def rights(prefix: str = "") -> list[str]:
    """The command of the page, for keys with this prefix instead of its own."""
    found = re.search(r"ACL SETUSER app on (?:.|\n)*?\n\n", _PAGE.read_text(encoding="utf-8"))
    assert found is not None
    return found[0].replace("shop:", prefix).split()


def rights_for_figures() -> list[str]:
    """What the page adds for the figures of all hosts."""
    found = re.search(r"`(\+hset [^`]*)`", _PAGE.read_text(encoding="utf-8"))
    assert found is not None
    return found[1].split()


def grant(client: Any, command: list[str], *more: str) -> None:
    """Make the user, and let the driver tell its version where the server knows that."""
    client.execute_command(*command, *more)
    with contextlib.suppress(redis.ResponseError):
        client.execute_command("ACL", "SETUSER", _USER, "+client|setinfo")


def pytest_configure() -> None:
    start, close, options = (
        redis_server.RedisServer.start,
        redis_server.RedisServer.close,
        connection._options,
    )

    def start_with_user(self: redis_server.RedisServer) -> bool:
        started = start(self)
        if started:
            own_users = contextlib.suppress(redis.RedisError)  # those of the test
            with self.client() as client, own_users:
                # What a Cluster, reports and figures need besides, as the page says.
                more = ["+cluster|slots", "+command", "+readonly", "+info", *rights_for_figures()]
                # A test lets a call wait by it. No tier uses it.
                grant(client, rights(), *more, "+blpop")
        return started

    def close_and_look(self: redis_server.RedisServer) -> None:
        try:
            with self.client() as client:
                refused.extend(
                    f"{entry['object']} ({entry['reason']})"
                    for entry in client.acl_log()
                    if entry["username"] == _USER and entry["reason"] != "auth"
                )
        except redis.RedisError:
            pass  # the test has ended it
        close(self)

    def options_of_user(address: Address, said: Mapping[str, Any]) -> dict[str, Any]:
        made = options(address, said)
        if not (address.username or address.password or "@" in (address.url or "")):
            made |= {"username": _USER, "password": _PASSWORD}
        return made

    redis_server.RedisServer.start = start_with_user  # type: ignore[method-assign]
    redis_server.RedisServer.close = close_and_look  # type: ignore[method-assign]
    connection._options = options_of_user


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a command, a key or a channel was refused."""
    if refused:
        print("refused:", *sorted(set(refused)), sep="\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
