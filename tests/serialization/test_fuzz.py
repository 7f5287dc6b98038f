"""Bytes of another program come to a value, an UnreadableError, or a broken connection, whatever they are."""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import fuzzing
import pytest

#: How long the soak goes on.
MINUTES = float(os.environ.get("CACHEKIT_FUZZ_MINUTES", "10"))


@pytest.mark.parametrize("seed", fuzzing.kept())
def test_of_kept_seeds(seed: int) -> None:
    """What was read wrongly once."""
    fuzzing.run(seed)


def test_of_some_seeds() -> None:
    """The same ones in each run, and every reader among them."""
    assert {fuzzing.run(seed) for seed in range(150)} == set(fuzzing.READERS)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_of_many_seeds() -> None:
    """New ones in each run. A seed that is read wrongly is kept in a file, for `test_of_kept_seeds`."""
    draw = random.SystemRandom()
    end = time.monotonic() + 60 * MINUTES
    done: Counter[str] = Counter()
    found = []
    while time.monotonic() < end:
        seed = draw.getrandbits(48)
        try:
            done[fuzzing.run(seed)] += 1
        except Exception as error:
            found.append(f"{seed}: {error!r}")
            with fuzzing.KEPT.open("a") as kept:
                print(seed, file=kept)
    print(f"{done.total()} inputs, {dict(done)}, {len(found)} findings")
    assert not found, "\n".join(found)
