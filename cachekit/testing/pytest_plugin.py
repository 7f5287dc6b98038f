"""Fixtures and markers for tests of code that caches: an own cache, no caching, or recorded answers.

Turn it on in the settings of pytest:

    [tool.pytest.ini_options]
    cachekit = true

Or name the module once, in the `conftest.py` at the root of your tests:

    pytest_plugins = ["cachekit.testing.pytest_plugin"]
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from cachekit.cache.default import override
from cachekit.cache.intelligent import IntelligentCache
from cachekit.cassettes.cassette import Cassette, Mode, cassette
from cachekit.decorator.source import disabled
from cachekit.runtime.clock import Clock, SystemClock
from cachekit.testing.clock import ManualClock
from cachekit.testing.pytest_switch import CASSETTE_MARKER
from cachekit.tiers.memory.tier import MemoryCache


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    if CASSETTE_MARKER not in config.getini("markers"):  # without the switch
        config.addinivalue_line("markers", CASSETTE_MARKER)
    config.addinivalue_line(
        "markers",
        "cachekit(disabled=False): give the test an empty default cache; with disabled=True, no caching",
    )


@pytest.fixture
def _cachekit_clocks() -> list[Clock]:
    return []  # the clock of the test's cache, once it is chosen


@pytest.fixture
def _cachekit_test_cache(
    request: pytest.FixtureRequest, _cachekit_clocks: list[Clock]
) -> Iterator[IntelligentCache]:
    # Apart from `cachekit_cache`, so that a project's own `cachekit_cache` may use `cachekit_clock`.
    if not _cachekit_clocks:
        by_hand = "cachekit_clock" in request.fixturenames
        _cachekit_clocks.append(ManualClock() if by_hand else SystemClock())
    memory = MemoryCache(clock=_cachekit_clocks[0])
    with IntelligentCache(memory, file_cache=None) as cache, override(cache):
        yield cache


@pytest.fixture
def cachekit_clock(request: pytest.FixtureRequest, _cachekit_clocks: list[Clock]) -> ManualClock:
    """Provide a clock that moves only on request, and an empty default cache that goes by it."""
    if not _cachekit_clocks:
        _cachekit_clocks.append(ManualClock())
    clock = _cachekit_clocks[0]
    if not isinstance(clock, ManualClock):
        pytest.fail(
            "cachekit_clock must be an argument of the test or of its fixtures: the cache of this test "
            "already goes by the time of the system",
            pytrace=False,
        )
    request.getfixturevalue("_cachekit_test_cache")
    return clock


@pytest.fixture
def cachekit_cache(_cachekit_test_cache: IntelligentCache) -> IntelligentCache:
    """Provide an empty default cache for this test, and close it at the end."""
    return _cachekit_test_cache


@pytest.fixture
def cachekit_disabled() -> Iterator[None]:
    """Disable caching for this test: cached functions run, nothing is looked up or stored."""
    with disabled():
        yield


@pytest.fixture
def cachekit_cassette(request: pytest.FixtureRequest) -> Iterator[Cassette]:
    """Answer cached functions from a cassette of this test, and provide it.

    Its file is `cassettes/<module>/<test>.jsonl` beside the test file, or the path that the marker `cassette`
    gives, relative to the directory of the test file.
    """
    with _cassette_of(request) as used:
        yield used


def _cassette_of(request: pytest.FixtureRequest) -> Cassette:
    marker = request.node.get_closest_marker("cassette")
    given: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    names = ("path", "mode")
    positional = () if marker is None else marker.args
    if len(positional) > len(names):
        raise pytest.UsageError(
            f"the marker cassette takes a path and a mode, not {len(positional)} arguments; give options "
            f"by name"
        )
    given |= dict(zip(names, positional, strict=False))
    options: dict[str, Any] = {
        name: parameter.default
        for name, parameter in inspect.signature(cassette).parameters.items()
        if name not in names
    }
    unknown = given.keys() - options.keys() - set(names)
    if unknown:
        raise pytest.UsageError(
            f"the marker cassette has no option {', '.join(sorted(unknown))}; it takes path, mode, "
            f"{', '.join(options)}"
        )
    options |= {name: value for name, value in given.items() if name not in names}
    path = request.path.parent / (given.get("path") or _default_path(request))
    # The switch declares the option. A conftest.py may load this module alone.
    mode: Mode = request.config.getoption("--cassette", default=None) or given.get("mode") or _default_mode()
    remedy = f"to record it, run: pytest --cassette=auto {request.node.nodeid!r}"
    return Cassette(path, mode, **options, remedy=remedy)


def _default_path(request: pytest.FixtureRequest) -> Path:
    test = request.node.nodeid.partition("::")[2].replace("::", ".")
    name = re.sub(r"[^\w\-.\[\]]", "_", test)[:150]
    if name != test:  # the id of a parameter may be any text, and two of them must not share a file
        name += f"-{blake2b(test.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"
    return Path("cassettes") / request.path.stem / f"{name}.jsonl"


def _default_mode() -> Mode:
    return "replay" if os.environ.get("CI", "").lower() in ("1", "true", "yes") else "auto"


@pytest.fixture(autouse=True)
def _cachekit_marker(request: pytest.FixtureRequest) -> None:
    """Do what the nearest markers say."""
    if request.node.get_closest_marker("cassette") is not None:
        request.getfixturevalue("cachekit_cassette")
    marker = request.node.get_closest_marker("cachekit")
    if marker is None:
        return
    unknown = set(marker.kwargs) - {"disabled"}
    disables = marker.kwargs.get("disabled", False)
    if marker.args or unknown or not isinstance(disables, bool):
        said = [*map(repr, marker.args), *(f"{name}={value!r}" for name, value in marker.kwargs.items())]
        pytest.fail(
            f"the marker cachekit must have no argument but disabled=True or False, not {', '.join(said)}",
            pytrace=False,
        )
    request.getfixturevalue("cachekit_disabled" if disables else "cachekit_cache")
