"""`python -m cachekit.testing.compat`: what it prints of servers, and that it notices what they lack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer

from cachekit.testing import compat

pytestmark = pytest.mark.usefixtures("few_buckets")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as started:
        yield started


def test_a_server_that_does_all(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Each check has a line, and no key is left."""
    assert compat.main([server.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "version" in lines[1] or "INFO" in lines[1]  # as the user who may not ask
    assert lines[-1] == f"{len(lines) - 3} of {len(lines) - 3} checks passed"
    assert all(line.startswith("ok     ") for line in lines[2:-1])
    with server.client() as client:
        # Tokens of tags of loads end by themselves.
        assert not [name for name in client.scan_iter("cachekit:compat:*") if b"{#" not in name]


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("-publish", "Messages reach other hosts"),
        ("-subscribe", "Messages reach other hosts"),
        ("-evalsha", "A lease has one holder"),
        ("-pexpire", "Value, type, tags and time"),
    ],
)
def test_a_server_that_lacks_something(
    server: RedisServer, lacking: str, words: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It says what failed, and ends with status 1."""
    monkeypatch.setattr(compat, "_PATIENCE", 0.5)
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "poor", "reset", "on", ">secret", "~*", "&*", "+@all", lacking
        )
    assert compat.main([server.url.replace("//", "//poor:secret@")]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert any(words in line for line in failed), failed


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """It is told apart from one that fails, and from a wrong URL."""
    assert compat.main(["redis://127.0.0.1:1"]) == 1
    assert "not reachable" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        compat.main(["http://:hunter2@h"])
    said = capsys.readouterr().err
    assert "url must begin with redis://" in said
    assert "hunter2" not in said


def test_servers_are_recognised(subtests: pytest.Subtests) -> None:
    """By what they answer to INFO."""
    rows = [
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, "valkey", "9.1.2"),
        ({"redis_version": "8.2.3", "executable": "/usr/bin/redis-server"}, "redis", "8.2.3"),
        ({"redis_version": "6.2.14"}, "old", "6.2.14"),
        ({"redis_version": "6.3.4", "executable": "/usr/bin/keydb-server"}, "keydb", "6.3.4"),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.30.0"}, "dragonfly", "df-v1.30.0"),
        ({"redis_version": "7.4.3", "garnet_version": "1.0.80"}, "garnet", "1.0.80"),
    ]
    for info, kind, version in rows:
        with subtests.test(kind=kind):
            assert compat.recognised(info)[:2] == (kind, version)


def test_the_table_in_the_documentation() -> None:
    """It has a row for each server that is recognised."""
    page = Path(__file__).parents[2] / "docs" / "redis.md"
    text = page.read_text(encoding="utf-8")
    assert [row for row in compat.ROWS.values() if f"| {row} |" not in text] == []
