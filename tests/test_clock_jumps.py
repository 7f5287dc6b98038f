"""The wall clock jumps: before and after a write, and over a restart, in each tier. A table.

An entry may end too soon. It never lives longer than its TTL, beyond what a clock is corrected by.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
from racing import frequent_switches, race

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.testing import ManualClock

TTL = 100.0
SECOND, HOUR, TEN_YEARS = 1.0, 3_600.0, 10 * 365.25 * 86_400
JUMPS = [sign * size for size in (SECOND, HOUR, TEN_YEARS) for sign in (1, -1)]
#: Seconds of a jump that count as a correction: the clocks of a host differ by that.
SLEW = 2.0
WHEN = ["before the write", "after the write", "after the write, before a restart"]


def opened(tier: str, path: Path, clock: ManualClock) -> IntelligentCache:
    memory = None if tier == "files" else MemoryCache(clock=clock, cleanup_interval=None)
    file = None if tier == "memory" else FileCache(path, 16, cleanup_interval=None, clock=clock)
    return IntelligentCache(memory, None, file)


@pytest.mark.parametrize("tier", ["memory", "files", "both"])
def test_no_entry_outlives_its_ttl(tier: str, tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (jump, when) in enumerate((jump, when) for jump in JUMPS for when in WHEN):
        if tier == "memory" and when == WHEN[2]:
            continue  # it does not outlive its process
        with subtests.test(jump=jump, when=when):
            clock = ManualClock()
            path = tmp_path / str(number)
            cache = opened(tier, path, clock)
            if when == WHEN[0]:
                clock.jump(jump)
            cache.set("k", 1, ttl=TTL)
            if when != WHEN[0]:
                clock.jump(jump)
            if when == WHEN[2]:
                cache.close()
                cache = opened(tier, path, clock)
            with cache:
                clock.advance(TTL / 2)
                # A clock that was right when the value was written, and is again, is no reason to end it.
                if when == WHEN[0] or abs(jump) < SLEW:
                    assert cache.get("k") == 1
                clock.advance(TTL / 2 + SLEW)
                assert cache.get("k") is None


def test_threads_that_advance_a_clock_together_lose_no_second() -> None:
    """Without the GIL it would even go back, and what has expired would live again."""
    clock = ManualClock(0.0)

    def work() -> None:
        for _ in range(1_000):
            clock.advance(1)
            clock.jump(1)

    with frequent_switches():
        race(*[work] * 4)
    assert clock.time() == 8_000


def test_a_clock_can_be_copied() -> None:
    clock = ManualClock(5.0)
    copies = [copy.deepcopy(clock), pickle.loads(pickle.dumps(clock))]
    clock.advance(1)
    assert [one.time() for one in copies] == [5.0, 5.0]
