"""`cachekit doctor`: what it finds in each situation, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from disks import disk as disk
from disks import fill
from redis_server import RedisServer, free_port

import cachekit
from cachekit.cli import doctor as doctor_command

Report = dict[tuple[str, str], tuple[str, str, str]]


def doctor(*arguments: str, **variables: str) -> tuple[int, Report, str]:
    """Run it in a process of its own; its status, findings by part and name, and all of its output."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CACHEKIT_")}
    clean.pop("PYTEST_VERSION", None)
    clean.pop("PYTEST_CURRENT_TEST", None)
    ended = subprocess.run(
        [sys.executable, "-m", "cachekit", "doctor", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env=clean | variables,
        check=False,
    )
    assert not ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    report = {(one["part"], one["name"]): (one["status"], one["value"], one["remedy"]) for one in found}
    return ended.returncode, report, ended.stdout


def everything_below(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


def test_a_healthy_machine(tmp_path: Path) -> None:
    """No problem, the versions in use, and nothing is left in the directory."""
    base = tmp_path / "not" / "made"
    status, report, _ = doctor(CACHEKIT_DIR=str(base))
    assert status == 0
    assert {one[0] for one in report.values()} == {"ok"}
    assert report["Installation", "cachekit"][1].startswith(cachekit.__version__)
    assert report["Installation", "extra cli"][1].startswith("rich ")
    assert not [name for _, name in report if name.startswith("extra test")]
    assert report["Files", "directory"][1] == f"{base} (the first cache will make it)"
    assert report["Files", "a value of 100 kB"][1].startswith("stored, read and removed in ")
    assert report["Files", "health"][1] == "healthy"
    assert everything_below(tmp_path) == []


def test_what_a_person_reads(tmp_path: Path) -> None:
    """The same findings as lines, each with its remedy below."""
    ended = subprocess.run(
        [sys.executable, "-m", "cachekit", "doctor", "--dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"CACHEKIT_MAX_SIZE_MB": "many", "CACHEKIT_SECRETS": "x"},
        check=False,
    )
    assert ended.returncode == 1
    assert (
        "  problem: CACHEKIT_MAX_SIZE_MB: cannot be used\n"
        "      CACHEKIT_MAX_SIZE_MB must be a whole number from 1 to 1048576, not 'many'\n"
    ) in ended.stdout
    assert "no such variable; it has no effect\n      did you mean CACHEKIT_SECRET?\n" in ended.stdout
    assert ended.stdout.endswith("1 problem, 1 warning.\n")


def test_caches_of_programs_are_counted(tmp_path: Path) -> None:
    with cachekit.FileCache(tmp_path, 8, namespace="program") as cache:
        cache.set_value("k", "x" * 200_000)
    before = everything_below(tmp_path)
    status, report, _ = doctor("--dir", str(tmp_path))
    assert status == 0
    count, taken = report["Files", "caches in it"][1].split(", which take ")
    assert count == "1"
    assert taken.endswith("KiB")
    assert report["Files", "cache program"][1] == taken
    assert everything_below(tmp_path) == before


def test_the_directory_of_one_cache(tmp_path: Path) -> None:
    """As `inspect`, `verify` and `top` take it: it is recognised, and left as it is."""
    with cachekit.FileCache(tmp_path, 8) as cache:
        cache.set_value("k", "x" * 200_000)
    before = everything_below(tmp_path)
    status, report, _ = doctor("--dir", str(tmp_path))
    assert status == 0
    said = report["Files", "this is one cache"][1]
    assert said.startswith("it takes ")
    assert said.endswith("KiB of its limit, 8.0 MiB")
    assert ("Files", "caches in it") not in report
    assert everything_below(tmp_path) == before


def test_no_home_directory(tmp_path: Path) -> None:
    """A user without an entry in the password file; as in a container."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    # The first run imports all that it needs: the other user may not read this Python.
    program = (
        "import contextlib, io, os, sys; from cachekit.cli import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()): main(['doctor', '--dir', {str(tmp_path)!r}])\n"
        "os.environ.pop('HOME', None); os.setuid(4_242); sys.exit(main(['doctor', '--json']))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CACHEKIT", "PYTEST"))}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200, env=kept, check=False
    )
    if not ended.stdout:
        pytest.skip(f"another user may not read this Python: {ended.stderr[-200:]}")
    (found,) = [one for one in json.loads(ended.stdout) if one["part"] == "Files"]
    assert ended.returncode == 1
    assert (found["name"], found["status"]) == ("directory", "problem")
    assert "CACHEKIT_DIR" in found["remedy"]


def test_a_full_disk(disk: Path) -> None:
    fill(disk / "filler")
    status, report, _ = doctor("--dir", str(disk))
    assert status == 1
    assert report["Files", "limit of each"][0] == "warning"
    problems = [one for one in report.values() if one[0] == "problem"]
    assert problems
    assert all("free" in one[2] + one[1] and "writable for" not in " ".join(one) for one in problems)


def test_a_directory_that_others_may_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    status, report, _ = doctor("--dir", str(tmp_path))
    assert status == 0
    assert report["Files", "trusted"] == (
        "warning",
        f"no: everybody may write to {tmp_path}",
        "chmod go-w it, or set CACHEKIT_SECRET; until then, it keeps plain values only",
    )


def test_a_place_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, report, _ = doctor("--dir", str(tmp_path / "file"))
    assert status == 1
    assert report["Files", "directory"] == (
        "problem",
        f"{tmp_path / 'file'} cannot be opened: Not a directory",
        "name a directory, because a part of the path is a file, or set CACHEKIT_DIR to another directory",
    )


def test_extras_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take one line, however many there are."""
    monkeypatch.setattr(doctor_command, "_version", lambda name: None if name == "rich" else "1")
    lines = [one.value for one in doctor_command._installation() if one.name.startswith("extras")]
    assert lines == ["cli (pip install 'cachekit-tiered[cli]' adds one)"]


def test_a_dead_server_and_its_password() -> None:
    """It is told once, with a remedy, and the password is nowhere."""
    url = f"redis://user:pass-word@127.0.0.1:{free_port()}/0"
    status, report, output = doctor(CACHEKIT_REDIS_URL=url, CACHEKIT_SECRET="s" * 16)
    assert status == 1
    assert report["Server", "reachable"][0] == "problem"
    assert (
        report["Environment", "CACHEKIT_REDIS_URL"][1] == report["Environment", "CACHEKIT_SECRET"][1] == "set"
    )
    assert "pass-word" not in output
    assert "s" * 16 not in output
    assert doctor("--redis", "pass-word")[1]["Server", "url"][0] == "problem"


def test_servers(server: RedisServer) -> None:
    """Without a limit or an eviction policy there is a warning; otherwise none. No key is left."""
    client = server.client()
    for limit, policy, status in (
        (0, "noeviction", "warning"),
        (1 << 27, "noeviction", "warning"),
        (1 << 27, "allkeys-lru", "ok"),
    ):
        client.config_set("maxmemory", limit)
        client.config_set("maxmemory-policy", policy)
        ended, report, _ = doctor("--redis", server.url)
        assert ended == 0
        assert report["Server", "memory"][0] == status
        assert report["Server", "a value of 100 kB"][1].startswith("stored, read and removed")
    left = [key for key in client.scan_iter() if b"doctor" in key and client.type(key) != b"none"]
    assert not [key for key in left if client.ttl(key) == -1], "what is left expires"


def test_a_user_who_may_not_ask(server: RedisServer) -> None:
    """A server that refuses INFO is told of by what works."""
    client = server.client()
    client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-info")
    url = server.url.replace("redis://", "redis://app:pw@")
    status, report, _ = doctor("--redis", url)
    assert status == 0
    assert ("Server", "version") not in report
    assert report["Server", "a value of 100 kB"][0] == "ok"
