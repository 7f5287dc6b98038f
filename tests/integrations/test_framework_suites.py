"""The tests that frameworks hold their own backends to, run against ours at the installed versions."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from framework_sources import SUITES, run_suite, source_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


def of_pytest(suite: str, tests: Path, *more: str) -> str:
    """Run a suite that pytest runs, beside the tests of a source distribution."""
    shutil.copy(SUITES / suite, tests / "test_cachekit.py")
    options = ["-q", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return run_suite(["-m", "pytest", *options, *more, "test_cachekit.py"], tests)


def test_cachelib(tmp_path: Path) -> None:
    """Its common tests, over memory and over files."""
    for module in ("cachelib", "xprocess"):  # its conftest imports the latter
        pytest.importorskip(module, reason=f"{module} is not installed")
    output = of_pytest("cachelib_suite.py", source_of("cachelib", tmp_path) / "tests")
    assert "28 passed" in output


def test_flask_caching(tmp_path: Path) -> None:
    """Its `GenericCacheTests`, over memory and over files."""
    for module in ("flask_caching", "xprocess"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    output = of_pytest("flask_caching_suite.py", source_of("Flask-Caching", tmp_path) / "tests")
    assert "26 passed" in output


def test_dogpile(tmp_path: Path) -> None:
    """`dogpile.testing`, which is installed with it, over memory and over files."""
    pytest.importorskip("dogpile.cache", reason="dogpile.cache is not installed")
    assert "112 passed" in of_pytest("dogpile_suite.py", tmp_path)


def test_langchain(tmp_path: Path) -> None:
    """The suites of langchain-tests, over memory and over files."""
    pytest.importorskip("langchain_tests", reason="langchain-tests is not installed")
    assert "30 passed" in of_pytest("langchain_suite.py", tmp_path, "-o", "asyncio_mode=auto")


def test_django(tmp_path: Path, redis_url: str) -> None:
    """`BaseCacheTests` in each kind of location. Django skips what needs culling."""
    pytest.importorskip("django", reason="Django is not installed")
    tests = source_of("Django", tmp_path) / "tests"
    suite = tests / "cachekit_suite"
    suite.mkdir()
    (suite / "__init__.py").touch()
    shutil.copy(SUITES / "django_suite.py", suite / "tests.py")
    (tests / "suite_caches.py").write_text(
        "from cachekit import IntelligentCache, MemoryCache\n"
        "shop = IntelligentCache(MemoryCache(), file_cache=None)\n"
    )
    output = run_suite(
        # A label of the app `cache` makes runtests.py install its models.
        ["runtests.py", "cache.tests.CacheHandlerTest", "cachekit_suite", "--parallel", "1", "-v", "2"],
        tests,
        SUITE_DIRECTORY=str(tmp_path / "caches"),
        SUITE_SERVER=redis_url,
    )
    ran = re.search(r"Ran (\d+) tests", output)
    assert ran is not None
    assert int(ran[1]) > 250
    skipped = re.findall(r"skipped ['\"](.*?)['\"]$", output, re.MULTILINE)
    assert set(skipped) <= {"Culling isn't implemented."}, skipped
