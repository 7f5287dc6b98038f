"""Test an agent without the network: run this file with pytest. Its recorded answers lie in cassettes/."""

from __future__ import annotations

import pytest

from cachekit import Cassette, cache_result

# Or put `cachekit = true` into the settings of pytest.
pytest_plugins = ["cachekit.testing.pytest_plugin"]


@cache_result
def ask(prompt: str, *, model: str = "large-2") -> str:
    pytest.fail(f"the network is not there: {model} cannot answer {prompt!r}")


def summary(text: str) -> str:
    return ask(f"Summarize: {text}")


def translated(text: str, language: str) -> str:
    return ask(f"Translate to {language}: {summary(text)}")


def test_a_summary(cachekit_cassette: Cassette) -> None:
    """Replay one answer."""
    assert summary("A cache remembers what it was asked.") == "Caches remember."
    assert cachekit_cassette.recorded == 0


@pytest.mark.usefixtures("cachekit_cassette")
@pytest.mark.parametrize(("language", "expected"), [("French", "Les caches"), ("German", "Caches merken")])
def test_translations(language: str, expected: str) -> None:
    """Replay two answers, of which the second question holds the first answer."""
    assert translated("A cache remembers what it was asked.", language).startswith(expected)
