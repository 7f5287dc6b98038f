"""What pytest loads in every run where cachekit is installed: the switch that turns the plugin on.

    [tool.pytest.ini_options]
    cachekit = true

Without it, a run of tests that has nothing to do with caching loads no cache and gets no fixture.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting `cachekit`."""
    parser.addini("cachekit", "load the fixtures and the marker of cachekit", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Load the plugin if the setting says so."""
    if config.getini("cachekit"):
        config.pluginmanager.import_plugin("cachekit.testing.pytest_plugin")
