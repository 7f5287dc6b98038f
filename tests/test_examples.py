"""The examples run, and print what they promise; test_typing.py sees to their types."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from free_threads import HAS_GIL

HERE = Path(__file__).parents[1] / "examples"

#: A line that each program must print; # stands for a number that depends on how fast it runs.
EXPECTED = {
    "alerting.py": "warning: alerting.py: 0 of 200 requests were hits, less than 50%",
    "agent.py": "3 answers, 3 calls of the model for 120 questions",
    "async_agent.py": "10 answers, calls of the model: 1; large says: stressed",
    "cache_size.py": "max_size=120 would answer 25 +- 0 points more of the lookups in memory",
    "cached_methods.py": "19.0 19.0 20.0",
    "dogpile_region.py": "2 processes, 1 call of the creator",
    "django_shop.py": "visits 5, prices worked out 3 times",
    "dynamodb_table.py": "Grace, 2 lookups",
    "cost_aware.py": "cost-aware: half of the last loads took # ms or less",
    "decorated_script.py": "answers from the cache: 2, worked out: 1",
    "explained.py": "2 of 4 calls hit",
    "explicit_cache.py": "hit rate: 50%",
    "fastapi_shop.py": "14 requests, rendered 5 times: apple, apple, fig, fig, apple",
    "flask_shop.py": "pages 3, prices worked out 2 times",
    "health_webhook.py": "healthy -> warning: 0 of # requests were hits, less than 50%",
    "health.py": "health: warning, because of ['hit_rate']",
    "hot_restart.py": "first run: 20 misses in memory, second run: 0",
    "langchain_answers.py": "['Paris, still', 'Paris, still']",
    "next_page.py": "reader 2 waited for 10 of 10 pages",
    "offline_agent.py": "ms, 0 calls over the network",
    "own_tier.py": "Ada None Grace",
    "own_eviction.py": "most recent first 82%",
    "persistent.py": "found: 669 primes",
    "readme.py": "is in MEMORY: # s old, expires in # s, no tags, served 0 times",
    "region_mapping.py": "2880067194370816120 from 89 numbers",
    "tags.py": "5 9 after 3 answers about prices were dropped",
    "test_cached_code.py": "5 passed",
    "verified_answers.py": "answers of price depend on something that is not an argument: 1 of 1 verified",
    "test_offline_agent.py": "3 passed",
    "warm_start.py": "101 calls of the backend",
    "time_to_live.py": "after    60 more seconds: ['news', 'factorial']",
}

#: What an example needs beside cachekit.
NEEDS = {
    "django_shop.py": "django",
    "dogpile_region.py": "dogpile.cache",
    "dynamodb_table.py": "moto",
    "fastapi_shop.py": "fastapi",
    "flask_shop.py": "flask_caching",
    "langchain_answers.py": "langchain_core",
}

#: What shortens the waiting of an example: health is judged every ten seconds.
SOONER = {"health_webhook.py": "import cachekit.health; cachekit.health._INTERVAL = 0.1"}

#: A line of the second run, of those that keep their answers.
AGAIN = {
    "async_agent.py": "10 answers, calls of the model: 0; large says: stressed",
    "cached_methods.py": "19.0 19.0 20.0",
    "decorated_script.py": "answers from the cache: 3, worked out: 0",
    "explicit_cache.py": "hit rate: 50%",
    "readme.py": "17984",
    "tags.py": "5 7 after 1 answer about apples was dropped",
}


def test_each_has_its_line() -> None:
    """Whoever adds an example says here what it prints."""
    assert set(EXPECTED) == {file.name for file in HERE.glob("*.py")}


@pytest.mark.parametrize(
    ("page", "count"), [("README.md", 3), ("docs/caches.md", 3), ("docs/default-cache.md", 1)]
)
def test_the_readmes_code_is_among_them(page: str, count: int) -> None:
    """Every line of Python in the README, and in the pages that it begins, is run here."""
    blocks = re.findall(r"```python\n(.*?)```", (HERE.parent / page).read_text(encoding="utf-8"), re.DOTALL)
    program = (HERE / "readme.py").read_text(encoding="utf-8").replace("  # noqa: E402", "")
    assert len(blocks) == count
    for block in blocks:
        parts = [part for part in block.split("\n\n\n") if part]
        assert all(part in program for part in parts), block


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_it_runs(name: str, tmp_path: Path) -> None:
    """It ends well, without a warning, and prints its line; the tests among them pass.

    What the first run has left behind does not make a second one wrong.
    """
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    printed = run(name, tmp_path)
    if name == "cache_size.py" and not HAS_GIL:
        pytest.skip("requests come faster than the estimate of a free-threaded build can follow")
    assert re.search(re.escape(EXPECTED[name]).replace(r"\#", r"\d+(?:\.\d)?"), printed), printed
    if name in AGAIN:
        assert AGAIN[name] in run(name, tmp_path)


def run(name: str, directory: Path) -> str:
    program = [str(HERE / name)]
    if name.startswith("test_"):
        plugins = ("-p", "no:cacheprovider", "-p", "cachekit.testing.pytest_switch")
        program = ["-m", "pytest", *plugins, "-c", "/dev/null", *program]
    elif name in SOONER:
        program = ["-c", f"{SOONER[name]}; import runpy; runpy.run_path({program[0]!r}, run_name='__main__')"]
    ran = subprocess.run(
        [sys.executable, "-W", "error", *program],
        cwd=directory,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # they would take most of the time
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
