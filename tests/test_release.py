"""What is written down once more for a release agrees with where it comes from."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

import cachekit

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    file = ROOT / name
    if not file.exists():
        pytest.skip(f"{name} is in the repository alone")
    return file.read_text(encoding="utf-8")


def versions() -> list[str]:
    """The versions of Python that the metadata names."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return re.findall(r"Python :: (3\.\d+)$", settings["metadata"]["classifiers"], re.MULTILINE)


def test_the_changelog_begins_with_this_version() -> None:
    """A version has a date; what comes after the last one is under Unreleased."""
    titles = re.findall(r"^## \[(.+?)\](?: - (.+))?$", read("CHANGELOG.md"), re.MULTILINE)
    named = [(name, date) for name, date in titles if name != "Unreleased"]
    assert named[0][0] == cachekit.__version__
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in named)


def test_the_versions_of_python() -> None:
    """The metadata, the README and the workflow name the same ones."""
    named = versions()
    assert named == [f"3.{minor}" for minor in range(11, 11 + len(named))]
    assert f"Python {named[0]} to {named[-1]}" in re.sub(r"\s+", " ", read("README.md"))
    matrix = re.search(r"python: \[(.*)\]", read(".github/workflows/checks.yml"))
    assert matrix is not None
    assert re.findall(r'"(.*?)"', matrix[1]) == named


def test_a_commit_is_checked_by_the_linters_of_ci() -> None:
    """With the same arguments."""
    hooks = re.findall(r"entry: \.venv/bin/(.*)", read(".pre-commit-config.yaml"))
    pattern = r'^ *"\$work/lint/bin/((?:ruff|mypy|lint-imports).*?)(?: &&)?$'
    linters = re.findall(pattern, read(".ci/run"), re.MULTILINE)
    assert hooks == [linter.replace('"', "") for linter in linters]
    assert len(hooks) == 4
