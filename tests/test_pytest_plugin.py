"""The plugin for tests of code that caches: its switch, its marker, its fixtures, and workers of xdist."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: The entry point by hand: this checkout may be installed without it.
SWITCH = ("-p", "no:cachekit", "-p", "cachekit.testing.pytest_switch")
ON = "[pytest]\ncachekit = true\n"


def run(directory: Path, tests: str, settings: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_them.py").write_text(tests)
    (directory / "pytest.ini").write_text(settings)
    of_this_run = ("PYTEST", "CACHEKIT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(of_this_run)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they would take most of the time
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *options],
        capture_output=True, text=True, check=False, cwd=directory, env=environment,
    )  # fmt: skip


def test_the_entry_point() -> None:
    """Pytest finds the switch by it in every environment where cachekit is installed."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert settings["options.entry_points"]["pytest11"].split() == [
        "cachekit", "=", "cachekit.testing.pytest_switch",
    ]  # fmt: skip


OFF_TESTS = """
import sys
import pytest

def test_nothing_is_loaded(request):
    loaded = {name for name in sys.modules if name.partition(".")[0] in {"cachekit", "redis"}}
    assert loaded == {"cachekit", "cachekit.testing", "cachekit.testing.pytest_switch"}
    with pytest.raises(pytest.FixtureLookupError):
        request.getfixturevalue("cachekit_cache")
"""


def test_off_by_default(tmp_path: Path) -> None:
    """Tests that have nothing to do with caching load no cache, and no fixture of ours."""
    ran = run(tmp_path, OFF_TESTS, "[pytest]\n", *SWITCH)
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr


#: The beginning of tests that are run: a cached function, and what it was called with.
PRICED = """
import cachekit, pytest

calls = []

@cachekit.cache_result(ttl=60)
def price(item):
    calls.append(item)
    return len(calls)
"""

ON_TESTS = (
    PRICED
    + """
import sys

@pytest.mark.cachekit
@pytest.mark.parametrize("again", [1, 2])
def test_own_cache(again):
    assert cachekit.get_default_cache().memory_cache.size() == 0
    assert price("a") == price("a")
    assert cachekit.get_default_cache().file_cache is None

@pytest.mark.cachekit(disabled=True)
class TestUncached:
    def test_each_call_runs(self):
        assert price("a") < price("a")

    @pytest.mark.cachekit
    def test_the_nearest_marker_counts(self):
        assert price("a") == price("a")

@pytest.mark.cachekit
def test_time(cachekit_clock):
    first = price("a")
    cachekit_clock.advance(59)
    assert price("a") == first
    cachekit_clock.advance(1)
    assert price("a") > first

def test_both_by_name(cachekit_clock, cachekit_cache):
    cachekit_cache.set("a", 1, ttl=10)
    cachekit_clock.advance(10)
    assert cachekit_cache.get("a") is None
    assert cachekit.get_default_cache() is cachekit_cache

def test_no_redis():
    assert not {name for name in sys.modules if name.partition(".")[0] == "redis"}
    assert not cachekit.cache.default._overriding
"""
)


def test_the_marker_and_the_clock(tmp_path: Path) -> None:
    """On by the setting: an own cache, none, and time by hand; nothing outlives a test."""
    ran = run(tmp_path, ON_TESTS, ON, *SWITCH, "--strict-markers", "-W", "error")
    assert "7 passed" in ran.stdout, ran.stdout + ran.stderr


def test_also_named_in_a_conftest(tmp_path: Path) -> None:
    """The setting and the older way together load it once."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["cachekit.testing.pytest_plugin"]\n')
    ran = run(tmp_path, ON_TESTS, ON, *SWITCH)
    assert "7 passed" in ran.stdout, ran.stdout + ran.stderr


CLOCK_TESTS = (
    PRICED
    + """

def expires(clock):
    first = price("a")
    clock.advance(59)
    assert price("a") == first
    clock.advance(1)
    assert price("a") > first

def test_the_clock_alone(cachekit_clock):
    assert cachekit.get_default_cache().file_cache is None
    expires(cachekit_clock)

@pytest.fixture
def later(cachekit_clock):
    return cachekit_clock

def test_the_clock_of_a_fixture(later, cachekit_cache):
    assert cachekit.get_default_cache() is cachekit_cache
    expires(later)

def test_asked_for_by_the_test_itself(request):
    expires(request.getfixturevalue("cachekit_clock"))

def test_asked_for_too_late(request, cachekit_cache):
    with pytest.raises(pytest.fail.Exception, match="cachekit_clock must be an argument of the test"):
        request.getfixturevalue("cachekit_clock")

def test_without_caching(cachekit_disabled, cachekit_clock):
    assert price("a") < price("a")

class TestOwnCache:
    @pytest.fixture
    def cachekit_cache(self, cachekit_clock):
        memory = cachekit.MemoryCache(clock=cachekit_clock)
        with cachekit.IntelligentCache(memory, file_cache=None) as own, cachekit.override(own):
            yield own

    def test_it_may_use_the_clock(self, cachekit_cache, cachekit_clock):
        assert cachekit.get_default_cache() is cachekit_cache
        expires(cachekit_clock)

def test_nothing_is_left():
    assert not cachekit.cache.default._overriding
"""
)


def test_the_clock_brings_the_cache_that_goes_by_it(tmp_path: Path) -> None:
    """A test that asks for the clock alone would otherwise move no time of any cache."""
    ran = run(tmp_path, CLOCK_TESTS, ON, *SWITCH)
    assert "7 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_examples_of_the_documentation(tmp_path: Path) -> None:
    """They run as they are copied from the page."""
    page = (ROOT / "docs" / "decorator.md").read_text().partition("## Tests of cached code")[2]
    code = page.partition("```python\n")[2].partition("```")[0]
    ran = run(tmp_path, code, ON, *SWITCH, "--strict-markers", "-W", "error")
    number = code.count("def test_")
    assert number >= 5
    assert f"{number} passed" in ran.stdout, ran.stdout + ran.stderr


def test_wrong_arguments_of_the_marker(tmp_path: Path) -> None:
    """They are errors: a marker without effect would leave a test with the values of others."""
    wrong = ("disabled=1", "'disabled'", "off=True", "disabled=None")
    tests = [f"@pytest.mark.cachekit({said})\ndef test_{at}(): pass\n" for at, said in enumerate(wrong)]
    ran = run(tmp_path, "import pytest\n\n" + "\n".join(tests), ON, *SWITCH)
    assert f"{len(wrong)} errors" in ran.stdout
    for said in wrong:
        assert f"must have no argument but disabled=True or False, not {said}" in ran.stdout


WORKER_TESTS = """
import os, pathlib
import cachekit, pytest

@pytest.mark.parametrize("number", range(2))
def test_where(number, worker_id):
    cache = cachekit.get_default_cache()
    path = pathlib.Path(cache.file_cache.path)
    assert path.is_relative_to(os.environ["CACHEKIT_TESTS_DIR"])
    assert path.parent.name == worker_id
    assert oct(path.parent.stat().st_mode & 0o777) == "0o700"
    assert cache.get("held") is None
    cache.set("held", 1)
    if number == 0:
        cache.delete("held")
    pathlib.Path("seen-" + worker_id).write_text(str(path.parent))
"""

#: The controller uses the default cache before it starts its workers, which inherit its directory.
CONTROLLER = """
import os
import cachekit

if "PYTEST_XDIST_WORKER" not in os.environ:
    cachekit.get_default_cache().set("held", 1)
"""


@pytest.mark.soak
def test_workers_of_xdist(tmp_path: Path) -> None:
    """Each has a directory of its own in that of the controller, which removes all of them."""
    (tmp_path / "conftest.py").write_text(CONTROLLER)
    ran = run(tmp_path, WORKER_TESTS, ON, *SWITCH, "-p", "xdist", "-n", "2", "--dist", "each")
    assert "4 passed" in ran.stdout, ran.stdout + ran.stderr
    directories = {file.read_text() for file in tmp_path.glob("seen-*")}
    assert len(directories) == 2
    assert not any(map(os.path.exists, directories))
