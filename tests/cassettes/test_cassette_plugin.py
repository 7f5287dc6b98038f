"""The pytest plugin: the marker, the fixture, the option, and what CI=true changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
from cachekit import cache_result

@cache_result(name="ask", version="1")
def ask(question):
    with open("calls", "a") as file:
        print(question, file=file)
    return question.upper()

@pytest.mark.cassette
@pytest.mark.parametrize("question", ["a/b", "a b"])
def test_marked(question):
    assert ask(question) == question.upper()

def test_fixture(cachekit_cassette):
    assert ask("fixture") == "FIXTURE"
    assert cachekit_cassette.path.name == "test_fixture.jsonl"

class TestMethods:
    @pytest.mark.cassette(version="ignore", exceptions=(ValueError,))
    def test_in_a_class(self):
        ask("class")

@pytest.mark.cassette("shared/answers.jsonl")
@pytest.mark.parametrize("number", range(6))
def test_shared(number):
    ask(f"shared{number}")

@pytest.fixture
def answer():
    return ask("in a fixture")

@pytest.mark.cassette
def test_with_a_fixture(answer):
    assert answer == "IN A FIXTURE"

def test_unmarked():
    ask("unmarked")
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "test_agent.py").write_text(TESTS)
    return tmp_path


def run(directory: Path, *options: str, ci: str = "") -> tuple[str, list[str]]:
    """Return what pytest prints, and the calls that were made."""
    calls = directory / "calls"
    calls.write_text("")
    # Other plugins of this environment take most of the time of a run.
    environment = {**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "-p", SWITCH]
    ran = subprocess.run(
        [*command, "-o", "cachekit=true", f"--rootdir={directory}", *options, "."],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran.stdout, calls.read_text().splitlines()


SWITCH = "cachekit.testing.pytest_switch"


def test_recorded_by_workers_and_replayed_in_ci(directory: Path) -> None:
    """Workers of xdist record at once. Where CI=true, a question that is not recorded fails."""
    printed, calls = run(directory, "-p", "xdist", "-n", "2", "--dist", "load")
    assert "12 passed" in printed, printed
    assert len(calls) == 12
    files = sorted(file.relative_to(directory).as_posix() for file in directory.rglob("*.jsonl"))
    assert [file for file in files if "test_marked" not in file] == [
        "cassettes/test_agent/TestMethods.test_in_a_class.jsonl",
        "cassettes/test_agent/test_fixture.jsonl",
        "cassettes/test_agent/test_with_a_fixture.jsonl",
        "shared/answers.jsonl",
    ]
    assert len(files) == 6
    assert len((directory / "shared/answers.jsonl").read_text().splitlines()) == 7
    tests = directory / "test_agent.py"
    tests.write_text(tests.read_text().replace('ask("fixture")', 'ask("texture")'))
    printed, calls = run(directory, ci="true")
    assert "1 failed, 11 passed" in printed
    assert calls == ["unmarked"]
    for line in (
        "CassetteMissError: ask(question='texture') is not recorded in ",
        "the nearest recorded question of ask differs in:",
        "question: recorded with 'fixture', asked with 'texture'",
        "to record it, run: pytest --cassette=auto 'test_agent.py::test_fixture'",
    ):
        assert line in printed, printed


def test_the_option_is_stronger_than_the_marker(directory: Path) -> None:
    tests = directory / "test_agent.py"
    tests.write_text(tests.read_text().replace('"shared/answers.jsonl"', '"shared.jsonl", "replay"'))
    for options, result, count in (((), "6 failed", 0), (("--cassette=record",), "6 passed", 6)):
        printed, calls = run(directory, "-k", "test_shared", *options)
        assert result in printed
        assert len(calls) == count


def test_wrong_markers(directory: Path) -> None:
    """Each says what the marker takes."""
    wrong = {
        "modus='auto'": "the marker cassette has no option modus; it takes path, mode, version",
        "'a', 'auto', 'check'": "the marker cassette takes a path and a mode, not 3 arguments",
        "mode='rec'": "mode must be one of 'auto'",
    }
    (directory / "test_agent.py").write_text(
        "import pytest\n\n"
        + "".join(
            f"@pytest.mark.cassette({marker})\ndef test_{number}(): pass\n\n"
            for number, marker in enumerate(wrong)
        )
    )
    printed, _ = run(directory)
    assert all(message in printed for message in wrong.values()), printed


MARKED = """
import pytest
from cachekit import cache_result

@cache_result(name="ask", version="1")
def ask(question):
    with open("calls", "a") as file:
        print(question, file=file)

@pytest.fixture
def answer():
    return ask("in a fixture")

@pytest.mark.cassette
def test_marked(answer):
    ask("marked")

def test_unmarked():
    ask("unmarked")
"""


@pytest.mark.parametrize("how", ["the marker alone", "a conftest.py"])
def test_without_the_setting(tmp_path: Path, how: str) -> None:
    """The marker is enough: a test that has it never calls what it means to replay."""
    (tmp_path / "test_agent.py").write_text(MARKED)
    options: tuple[str, ...] = ("-o", "cachekit=false")
    if how == "a conftest.py":
        (tmp_path / "conftest.py").write_text('pytest_plugins = ["cachekit.testing.pytest_plugin"]\n')
    printed, calls = run(tmp_path, *options, "--strict-markers", ci="true")
    assert "1 passed" in printed
    assert "1 failed" in printed or "1 error" in printed
    assert calls == ["unmarked"]
