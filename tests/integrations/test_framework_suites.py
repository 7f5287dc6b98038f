"""The tests that frameworks hold their own backends to, run against ours at the installed versions."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from framework_sources import SUITES, run_suite, source_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


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
    assert set(skipped) <= {"Culling isn't implemented.", "No delete_many implementation in backend."} or all(
        "ull" in reason for reason in skipped
    ), skipped
