"""Directories damaged at random while three processes use them: no wrong value, no other error, no hang."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from damage_matrix import REPLACEMENTS, command

from cachekit import FileCache, FileFormatError, TierUnavailableError
from cachekit.testing.processes import in_processes

WORKERS = 3
OPERATIONS = 600
MUTATIONS = 60
#: Rounds that once found something, and some that did not.
SEEDS = (1, 2, 3, 5, 8, 13)
NOTHING = None


def mutate(path: Path, chance: random.Random) -> str:
    """Damage one file; return how. No file is cut: in use, that may be SIGBUS."""
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    if not files:
        return "nothing"
    file = chance.choice(files)
    size = file.stat().st_size
    how = chance.choices(("word", "page", "block", "grown", "replaced"), (75, 6, 9, 5, 5))[0]
    if how == "replaced":
        kind = chance.choice(list(REPLACEMENTS))
        with contextlib.suppress(OSError):
            file.unlink()
            REPLACEMENTS[kind](file)
        return kind
    if how == "grown":
        os.truncate(file, size + chance.choice((1, 4096, 1 << 30)))
        return how
    if size < 8:
        return "nothing"
    with open(file, "r+b") as opened, mmap.mmap(opened.fileno(), min(size, 1 << 20)) as view:
        words = len(view) // 8
        at = 8 * chance.randrange(words)
        if chance.random() < 0.8:  # one that is not 0, if there is one near
            for _ in range(500):
                if any(view[at : at + 8]):
                    break
                at = 8 * chance.randrange(words)
        before = int.from_bytes(view[at : at + 8], "little")
        if how == "word":
            value = chance.choice(
                (
                    0,
                    (1 << 64) - 1,
                    chance.getrandbits(64),
                    before + 1,
                    before - 1,
                    before ^ 1 << 63,
                    before >> 1,
                )
            )
            view[at : at + 8] = (value & (1 << 64) - 1).to_bytes(8, "little")
        else:
            length = min(4096 if how == "page" else chance.randrange(1, 256), len(view) - at)
            view[at : at + length] = bytes(length) if how == "page" else chance.randbytes(length)
    return how


class Worker:
    """Uses a cache, and knows what its own keys may hold."""

    def __init__(self, me: int, chance: random.Random) -> None:
        self.me = me
        self.chance = chance
        self.known: dict[str, set[Any]] = {}
        self.seen: Counter[str] = Counter()

    def step(self, cache: FileCache, number: int) -> None:
        """Do one operation; whatever fails leaves the old value or the new one, or nothing."""
        chance = self.chance
        key = f"w{self.me}-{chance.randrange(40)}"
        known = self.known.setdefault(key, {NOTHING})
        kind = chance.choices(
            ("get", "other", "set", "large", "delete", "tags", "pattern", "keys", "rest"),
            (40, 10, 30, 2, 8, 2, 1, 2, 5),
        )[0]
        value: Any = (key, number, "x" * chance.choice((0, 10, 300, 3000)))
        try:
            if kind == "get":
                self.judge(key, cache.get_value(key), known)
            elif kind == "other":
                other = f"w{1 + chance.randrange(WORKERS)}-{chance.randrange(40)}"
                found = cache.get_value(other)
                assert found is None or found[0] == other, f"{other} holds {found!r:.60}"
            elif kind in ("set", "large"):
                if kind == "large":
                    value = (key, number, "L" * 60_000)
                known.add(value)
                cache.set_value(key, value, tags={f"t{self.me}"} if number % 5 == 0 else None)
                known.clear()
                known.update((value, NOTHING))
            elif kind == "delete":
                cache.delete(key)
                known.clear()
                known.add(NOTHING)
            elif kind == "tags":
                cache.invalidate_by_tags({f"t{self.me}"})
            elif kind == "pattern":
                cache.invalidate_by_pattern(f"w{self.me}-1$")
            elif kind == "keys":
                for one in list(cache.keys()):
                    assert one.startswith("w"), f"{one!r} is listed"
            else:
                chance.choice(
                    (cache.size, cache.remove_expired, cache.get_stats, lambda: cache.touch(key, 60))
                )()
            self.seen["done"] += 1
        except TierUnavailableError:
            self.seen["unavailable"] += 1

    def judge(self, key: str, found: Any, known: set[Any]) -> None:
        self.seen["miss" if found is None else "hit"] += 1
        assert found in known, f"{key} holds {found!r:.60}, and may hold {known!r:.200}"


def opened(path: Path) -> FileCache | None:
    """Open the directory, which may be damaged at this very moment; None if nothing tells that it is one."""
    for _ in range(50):
        with contextlib.suppress(TierUnavailableError, FileFormatError):
            return FileCache(path, 1, cleanup_interval=None)
    try:
        return FileCache(path, 1, cleanup_interval=None)
    except FileFormatError as error:
        # Neither its manifest nor its lock is left.
        if "is no cache directory" not in str(error):
            raise
        return None


def play(seed: int, path: Path) -> Counter[str]:
    """One round; what was seen in it."""

    def work(me: int) -> Counter[str]:
        logging.getLogger("cachekit").setLevel(logging.CRITICAL)
        chance = random.Random(seed * 1000 + me)
        worker = Worker(me, chance)
        cache = opened(path)
        if cache is None:
            worker.seen["lost"] += 1
            return worker.seen
        with cache:
            if me == 0:
                for _ in range(MUTATIONS):
                    for number in range(5):
                        worker.step(cache, number)
                    with contextlib.suppress(FileNotFoundError, ValueError):
                        worker.seen["damage: " + mutate(path, chance)] += 1
            else:
                for number in range(OPERATIONS):
                    worker.step(cache, number)
        return worker.seen

    seen: Counter[str] = Counter()
    for one in in_processes(WORKERS + 1, work):
        seen += one
    status, said = command(path, "verify", "--repair")
    if not status:
        status, said = command(path, "verify")
    if "may not be a cache" in said or "is not a cache directory" in said:
        seen["lost"] += 1
    elif status:
        raise AssertionError(f"not mended: {said[-300:]}")
    seen["rounds"] += 1
    return seen


def play_for(seconds: float, seeds: random.Random, path: Path) -> Counter[str]:
    """Rounds of random seeds; the error of one names its seed."""
    seen: Counter[str] = Counter()
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        seed = seeds.randrange(1 << 30)
        try:
            seen += play(seed, path / str(seed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    return seen


def test_a_damaged_directory_in_use(tmp_path: Path) -> None:
    """One round; another one if early damage, to manifest and lock, left few hits to judge."""
    hits = 0
    for seed in SEEDS:
        hits += play(seed, tmp_path / str(seed))["hit"]
        if hits > 100:
            break
    assert hits > 100


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_that_are_kept(tmp_path: Path, seed: int) -> None:
    """What they once found stays mended."""
    play(seed, tmp_path / "cache")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_damage_at_random(tmp_path: Path) -> None:
    """Ten minutes of new rounds."""
    print(play_for(600, random.Random(), tmp_path))
