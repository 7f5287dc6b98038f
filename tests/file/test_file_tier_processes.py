"""Separate programs on one directory see each other's writes at once, and break each other's fences."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cachekit import CacheEntry, FileCache
from cachekit.testing.processes import in_processes
from cachekit.tiers.fences import SharedFence

#: Evaluates a line at a time, and answers with a line.
PEER = """
import sys
from cachekit import CacheEntry, FileCache
kept = {}
with FileCache(sys.argv[1], 4) as cache:
    print("ready", flush=True)
    for line in sys.stdin:
        print(repr(eval(line)), flush=True)
"""


@contextmanager
def peer(path: Path) -> Iterator[Callable[[str], Any]]:
    """Another program with a FileCache on the directory, called `cache` in the expressions it is given."""
    program = subprocess.Popen(
        [sys.executable, "-c", PEER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdin is not None
    assert program.stdout is not None
    stdin, stdout = program.stdin, program.stdout

    def ask(expression: str) -> Any:
        stdin.write(expression + "\n")
        stdin.flush()
        return eval(stdout.readline())

    try:
        assert stdout.readline() == "ready\n"
        yield ask
    finally:
        stdin.close()
        stdout.close()
        assert program.wait(60) == 0


def test_two_programs(tmp_path: Path) -> None:
    """Values, removals, tags and fences go both ways."""
    with FileCache(tmp_path, 4) as cache, peer(tmp_path) as ask:
        cache.set_value("k", {"from": "here"}, tags={"t"})
        assert ask("cache.get_value('k')") == {"from": "here"}
        found = cache.look("k")
        assert found is not None
        assert ask("cache.set_value('k', (1, 2), tags={'t'})") is True
        assert not found.fence.is_current()
        assert cache.get_value("k") == (1, 2)

        assert ask("kept.update(f=cache.fence('n', {'t'}))") is None
        assert ask("kept['f'].is_current()") is True
        cache.invalidate_by_tags({"t"})
        assert ask("kept['f'].is_current()") is False
        assert ask("cache.set_if('n', CacheEntry('n', 1, tags={'t'}), kept['f'])") is False
        assert ask("cache.get_value('k')") is None

        loading = cache.fence("p")
        assert ask("cache.invalidate_by_pattern('nothing')") == 0
        assert cache.set_if("p", CacheEntry("p", 1), loading) is False

        fence = cache.put("k", CacheEntry("k", 1), in_flux=True)
        assert fence is not None
        assert ask("cache.look('k').fence.is_current()") is False
        cache.settle(fence)
        assert ask("cache.look('k').fence.is_current()") is True
        assert ask("cache.clear()") is True
        assert cache.size() == 0
        assert not fence.is_current()


def test_one_of_many_adds(tmp_path: Path) -> None:
    """Of four processes that loaded the same key, one stores it and the others get what it stored."""
    FileCache(tmp_path, 4).close()

    def work(number: int) -> list[tuple[bool, int]]:
        outcomes = []
        with FileCache(tmp_path, 4) as cache:
            fences: list[SharedFence] = [cache.fence(f"k{key}") for key in range(50)]
            for key, fence in enumerate(fences):
                outcome = cache.add(f"k{key}", CacheEntry(f"k{key}", number), fence)
                outcomes.append(
                    (True, number) if outcome is True else (False, outcome.value if outcome else -1)
                )
        return outcomes

    results = in_processes(4, work)
    for outcomes in zip(*results, strict=True):
        assert sum(stored for stored, _ in outcomes) == 1
        assert len({value for _, value in outcomes}) == 1


@pytest.mark.parametrize("rounds", [300])
def test_an_invalidation_is_never_lost_to_a_copy(tmp_path: Path, rounds: int) -> None:
    """Copies that `look` vouches for are never older than a write that was over before the check."""
    FileCache(tmp_path, 4).close()

    def work(number: int) -> int:
        with FileCache(tmp_path, 4) as cache:
            if number == 0:
                for step in range(rounds):
                    cache.set_value("k", step, tags={"t"})
                    cache.set_value("done", step)
                    if step % 7 == 0:
                        cache.invalidate_by_tags({"t"})
                return 0
            checked = 0
            while True:
                found = cache.look("k")
                done = cache.get_value("done", -1)
                if found is not None and found.fence.is_current():
                    assert found.entry.value >= done
                    checked += 1
                if done == rounds - 1:
                    return checked

    assert len(in_processes(3, work)) == 3
