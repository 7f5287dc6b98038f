"""The reference has every public name, command, environment variable and statistic, and no other."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from free_threads import lock_free_hits

import cachekit
from cachekit import FileCache, IntelligentCache, MemoryCache, aio, http, testing
from cachekit.cli import _parser
from cachekit.cli.doctor import _VARIABLES
from cachekit.model.stats import COUNTED
from cachekit.testing import FaultyTier, ManualClock

PAGES = Path(__file__).parents[1] / "docs" / "reference"


def read(page: str) -> str:
    return (PAGES / page).read_text(encoding="utf-8")


def first_cells(page: str) -> list[str]:
    return re.findall(r"^\| `(\w+)", read(page), re.MULTILINE)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("cachekit.md", cachekit.__all__),
        ("aio.md", aio.__all__),
        ("http.md", http.__all__),
        ("testing.md", testing.__all__),
    ],
)
def test_every_public_name_is_there(page: str, names: list[str]) -> None:
    """Under its own heading; `cachekit.aio` may name those that are the same as in `cachekit`."""
    text = read(page)
    described = re.findall(r"^::: cachekit\.(?:\w+\.)*(\w+)$", text, re.MULTILINE)
    if page == "aio.md":
        described += [name for name in re.findall(r"`(\w+)`", text) if name in cachekit.__all__]
    assert sorted({*names} - {*described}) == []


def test_every_environment_variable_is_there() -> None:
    """Those that `cachekit doctor` knows, which are those that the package reads."""
    program = "".join(file.read_text(encoding="utf-8") for file in Path(cachekit.__path__[0]).rglob("*.py"))
    read_by_code = set(re.findall(r"\bCACHEKIT_[A-Z_]*[A-Z]\b", program))
    assert set(first_cells("environment.md")) == _VARIABLES == read_by_code


def test_every_command_is_there() -> None:
    """With each of its options."""
    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    rows = {row.split("`")[1].split()[0]: row for row in read("commands.md").splitlines() if row[:3] == "| `"}
    assert set(rows) == set(commands.choices)
    for name, command in commands.choices.items():
        options = {option for action in command._actions for option in action.option_strings if option[2:]}
        if name != "cassette":  # its options are those of its two actions
            assert set(re.findall(r"--[\w-]+", rows[name])) == options - {"--help"}


# -- statistics -------------------------------------------------------------------------------------------


def fail() -> int:
    raise OSError("the loader's own")


def one_failure(cache: IntelligentCache) -> None:
    with pytest.raises(OSError, match="own"):
        cache.get_or_set("k", fail)


def one_eviction(cache: IntelligentCache) -> None:
    for key in "abc":
        cache.set(key, 1)


def one_expiration(cache: IntelligentCache, clock: ManualClock) -> None:
    cache.set("k", 1, ttl=5)
    clock.advance(6)
    cache.get("k")


def a_stale_answer(cache: IntelligentCache, clock: ManualClock) -> None:
    cache.get_or_set("k", lambda: 1, ttl=5, stale_ttl=60)
    clock.advance(6)
    assert cache.get_or_set("k", fail, ttl=5, stale_ttl=60) == 1


def one_refusal(cache: IntelligentCache) -> None:
    cache.get_or_set("k", lambda: cache.delete("k"))


#: What moves each statistic of a memory tier with two entries and 100,000 bytes, or of its cache.
MOVES: dict[str, Callable[[IntelligentCache, ManualClock], object]] = {
    "hits": lambda cache, _: (cache.set("k", 1), cache.get("k")),
    "misses": lambda cache, _: cache.get("k"),
    "requests": lambda cache, _: cache.get("k"),
    "request_hits": lambda cache, _: (cache.set("k", 1), cache.get("k")),
    "sets": lambda cache, _: cache.set("k", 1),
    "deletes": lambda cache, _: (cache.set("k", 1), cache.delete("k")),
    "invalidations": lambda cache, _: (cache.set("k", 1, tags={"t"}), cache.invalidate_by_tags({"t"})),
    "evictions": lambda cache, _: one_eviction(cache),
    "expirations": one_expiration,
    "refusals": lambda cache, _: one_refusal(cache),
    "oversized": lambda cache, _: cache.set("k", "x" * 200_000),
    "size": lambda cache, _: cache.set("k", 1),
    "memory_usage_bytes": lambda cache, _: cache.set("k", 1),
    "latency_p50": lambda cache, _: (cache.set("k", 1), cache.get("k")),
    "latency_p99": lambda cache, _: (cache.set("k", 1), cache.get("k")),
    "loads": lambda cache, _: cache.get_or_set("k", lambda: 1),
    "load_failures": lambda cache, _: one_failure(cache),
    "load_seconds": lambda cache, clock: cache.get_or_set("k", lambda: clock.advance(2)),
    "stale_served": a_stale_answer,
}
#: The files with the tests of those that need more than a call, each with what a test asks for.
ELSEWHERE = {
    "unavailable": ("test_reference.py", "unavailable"),
    "errors": ("test_reference.py", "errors"),
    "promotions": ("test_reference.py", "promotions"),
    "lease_waits": ("loads/test_turns.py", "lease_waits"),
    "reloaded": ("loads/test_reload_hot.py", "reloaded"),
    "verified": ("loads/test_verification.py", "verified"),
    "mismatches": ("loads/test_verification.py", "mismatches"),
    "prefetches": ("loads/test_prefetching.py", "prefetches"),
    "prefetch_hits": ("loads/test_prefetching.py", "prefetch_hits"),
    "prefetches_late": ("loads/test_prefetched_loads.py", "info.late"),
    "prefetches_wasted": ("loads/test_prefetched_loads.py", "info.wasted"),
}


def test_every_statistic_is_there_and_moved_by_a_test() -> None:
    rows = first_cells("statistics.md")
    assert sorted(rows) == sorted([*COUNTED, "hit_rate", "request_hit_rate"])
    assert sorted([*MOVES, *ELSEWHERE]) == sorted(COUNTED)
    for name, (file, word) in ELSEWHERE.items():
        assert word in (Path(__file__).parent / file).read_text(encoding="utf-8"), name


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[lock_free_hits] if name.startswith("latency") else []) for name in MOVES],
)
def test_a_statistic_moves(name: str) -> None:
    """Of the tier or of the cache, as its row says; what is counted for a cache stays 0 in a tier."""
    row = next(line for line in read("statistics.md").splitlines() if line.startswith(f"| `{name}` |"))
    of = row.split("|")[2].strip()
    clock = ManualClock()
    with IntelligentCache(MemoryCache(2, max_bytes=100_000, clock=clock), file_cache=None) as cache:
        before = {part: stats[name] for part, stats in cache.get_stats().items()}
        MOVES[name](cache, clock)
        moved = {part for part, stats in cache.get_stats().items() if stats[name] > before[part]}
    assert moved == ({"combined"} if of == "cache" else {"memory", "combined"})


def test_statistics_of_a_tier_below(tmp_path: Path) -> None:
    """A promotion counts where the copy is; a failure where it happens."""
    file = FaultyTier(FileCache(tmp_path, 8))
    with IntelligentCache(MemoryCache(), file_cache=file) as cache:  # type: ignore[arg-type]
        cache.set("k", 1)
        assert isinstance(cache.memory_cache, MemoryCache)
        cache.memory_cache.clear()
        cache.get("k")
        assert cache.get_stats()["memory"].promotions == 1
        file.fail()
        cache.get("absent")
        failed = cache.get_stats()["file"]
        assert (failed.unavailable, failed.errors > 0) == (1, True)
        file.mend()
