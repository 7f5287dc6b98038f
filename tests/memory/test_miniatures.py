"""Miniature caches: those that are written for speed serve what the general one does."""

from __future__ import annotations

import random

import pytest

from cachekit.tiers.memory.eviction.lru import Lru
from cachekit.tiers.memory.miniatures import LruMiniature, Miniature


@pytest.mark.parametrize("capacity", [1, 2, 7, 40])
def test_a_miniature_of_lru_serves_what_lru_does(capacity: int) -> None:
    """Whatever is requested, stored, prolonged, forgotten and expired in between."""
    chance = random.Random(capacity)
    quick, general = LruMiniature(capacity), Miniature(Lru[str](), capacity)
    now = 0.0
    for step in range(20_000):
        now += chance.random()
        key, part, deadline = f"k{chance.randrange(60)}", chance.randrange(4), now + chance.uniform(1, 60)
        event = chance.randrange(12)
        served = []
        for one in (quick, general):
            if event == 0:
                one.store(key, deadline, 1)
            elif event == 1:
                one.prolong(key, deadline)
            elif event == 2:
                one.forget(key)
            else:
                served.append(one.request(key, part, now, deadline, 1, None))
                if served[-1] and event == 3:
                    one.hit_again(key, part, 3)
        assert served.count(True) != 1, step
        assert len(quick) == len(general)
        assert (key in quick) == (key in general)
    assert quick.hits == general.hits
    assert sum(quick.hits) > 50
