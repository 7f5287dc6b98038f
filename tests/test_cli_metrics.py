"""`cachekit metrics`: the figures of all processes of a directory, once or at a port; dashboard and rules."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from redis_server import wait_until
from workers import Worker

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.cli import main, metrics
from cachekit.cli.watched import reader_of
from cachekit.monitoring.families import FAMILIES
from cachekit.monitoring.reading import HostReader

WITHOUT = (
    "import sys; sys.modules['prometheus_client'] = None; from cachekit.cli import main; sys.exit(main())"
)


def published(directory: Path, processes: int) -> None:
    """Wait until so many processes have published, which a busy machine may delay."""
    reader = HostReader(directory)
    wait_until(lambda: len(reader.read().processes) == processes, "all have published")


def test_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All processes, under the name of the directory."""
    worker = Worker(tmp_path, "w")
    worker.do("load 3")
    published(tmp_path, 1)
    assert main(["metrics", str(tmp_path)]) == 0
    assert f'cachekit_loads_total{{cache="{tmp_path.name}",result="ok"}} 3.0' in capsys.readouterr().out
    worker.end()
    assert main(["metrics", str(tmp_path), "--name", "shop"]) == 0
    assert 'cachekit_loads_total{cache="shop",result="ok"} 3.0' in capsys.readouterr().out


@pytest.mark.parametrize(("prefix", "label"), [("shop:", "shop:"), (None, "fleet")])
def test_the_name_of_a_server(prefix: str | None, label: str) -> None:
    """The prefix that the command gives, and `fleet` without one. Nothing connects."""
    url = "redis://127.0.0.1:1"
    assert metrics._name(metrics.Plan(url, prefix, None, "", None), reader_of(url, prefix)) == label


def test_at_a_port(tmp_path: Path) -> None:
    """It serves until Ctrl-C, and says where."""
    with FileCache(tmp_path, 1):
        pass
    command = [sys.executable, "-m", "cachekit", "metrics", str(tmp_path), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", address)
    with urllib.request.urlopen(address, timeout=60) as answer:
        text = answer.read().decode()
    assert all(family.prometheus in text for family in FAMILIES)
    server.send_signal(signal.SIGINT)
    _, complaint = server.communicate(timeout=60)
    assert (server.returncode, complaint) == (130, "interrupted\n")


def test_caches_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert main(["metrics"]) == 0
    assert "cachekit_requests_total" in capsys.readouterr().out
    assert os.listdir(tmp_path / "cachekit") == ["figures"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{tmp}/missing"], "is not a directory"),
        (["{tmp}"], "is not a cache directory"),
        (["{cache}", "--port", "1", "--host", "203.0.113.1"], "cannot be used"),
        (["{cache}", "--port", "0", "--host", "a..b"], "no name of a host"),
    ],
)
def test_what_cannot_be_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with FileCache(tmp_path / "cache", 1):
        pass
    arguments = [one.format(tmp=tmp_path, cache=tmp_path / "cache") for one in arguments]
    assert main(["metrics", *arguments]) == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


def test_figures_that_another_reader_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No figures are an error, and no file without samples for whoever collects what is printed."""
    with FileCache(tmp_path, 1):
        pass
    HostReader(tmp_path).begin()
    monkeypatch.setattr("cachekit.monitoring.reading._PATIENCE", 0.05)
    with (tmp_path / "figures" / "lock").open("w") as lock:
        os.fchmod(lock.fileno(), 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["metrics", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "another reader" in captured.err


def test_a_full_disk_for_the_output_is_no_port(tmp_path: Path) -> None:
    with FileCache(tmp_path, 1):
        pass
    command = [sys.executable, "-m", "cachekit", "metrics", str(tmp_path)]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert "No space left on device" in ran.stderr
    assert "port" not in ran.stderr


def test_a_name_that_is_no_unicode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / os.fsdecode(b"caf\xe9")
    with FileCache(directory, 1) as file, IntelligentCache(MemoryCache(), file_cache=file) as cache:
        cache.set("k", 1)
        assert main(["metrics", str(directory)]) == 0
    assert 'cache="caf\\\\udce9"' in capsys.readouterr().out


def test_without_the_extra(tmp_path: Path) -> None:
    """The message says what to install; the dashboard and the rules need nothing."""
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, "metrics", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "pip install 'cachekit-tiered[prometheus]'" in ran.stderr
    for option in ("--grafana", "--alerts"):
        subprocess.run([sys.executable, "-c", WITHOUT, "metrics", option], capture_output=True, check=True)


def test_dashboard_and_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a file that Grafana or Prometheus reads as it is."""
    assert main(["metrics", "--grafana"]) == 0
    board = json.loads(capsys.readouterr().out)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == 12
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "job", "cache"]
    assert main(["metrics", "--alerts"]) == 0
    assert capsys.readouterr().out.startswith("groups:\n  - name: cachekit\n")
