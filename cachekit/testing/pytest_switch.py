"""What pytest loads in every run where cachekit is installed: the switch that turns the plugin on.

    [tool.pytest.ini_options]
    cachekit = true

Without it, a run of tests that has nothing to do with caching loads no cache and gets no fixture. A test with
the marker `cassette` turns the plugin on for itself: it must never call what it means to replay.
"""

from __future__ import annotations

from typing import Final

import pytest

_PLUGIN: Final = "cachekit.testing.pytest_plugin"

CASSETTE_MARKER: Final = (
    "cassette(path=None, mode=None, **options): cached functions answer from a cassette of this test; the "
    "options are those of cachekit.cassette"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting `cachekit` and the option `--cassette`."""
    parser.addini("cachekit", "load the fixtures and the markers of cachekit", type="bool", default=False)
    parser.getgroup("cachekit").addoption(
        "--cassette",
        choices=("record", "replay", "auto", "off"),
        default=None,
        help="the mode of cassettes of the marker and the fixture (default: replay if CI=true, else auto)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the plugin if the setting or the option says so."""
    config.addinivalue_line("markers", CASSETTE_MARKER)
    if config.getini("cachekit") or config.getoption("--cassette"):
        config.pluginmanager.import_plugin(_PLUGIN)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Load the plugin for tests with the marker `cassette`, and give these the fixture."""
    marked = [item for item in items if item.get_closest_marker("cassette") is not None]
    if marked and not config.pluginmanager.has_plugin(_PLUGIN):
        config.pluginmanager.import_plugin(_PLUGIN)
        for item in marked:  # collected before the plugin's own fixture could ask
            if isinstance(item, pytest.Function):
                item.fixturenames.insert(0, "cachekit_cassette")
