"""Request streams to hold policies to: real ones where they are, and one that is made up."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import sys
from array import array
from pathlib import Path
from typing import Any

#: Where traces and `reference.json` are, if they are anywhere.
FOLDER = Path(os.environ.get("CACHEKIT_TRACES") or Path(__file__).resolve().parents[3] / "shared" / "traces")


def reference(part: str) -> dict[str, Any]:
    """By trace: how many requests, and the hits by capacity and policy; empty if there are no traces."""
    path = FOLDER / "reference.json"
    if not path.exists():
        assert "CACHEKIT_TRACES" not in os.environ, f"CACHEKIT_TRACES names no folder of traces: {FOLDER}"
        return {}
    known: dict[str, Any] = json.loads(path.read_text())[part]
    return known


def trace(name: str, requests: int) -> list[str]:
    """The first requests of a trace, as keys."""
    keys = array("I", gzip.decompress((FOLDER / f"{name}.u32.gz").read_bytes()))
    if sys.byteorder == "big":
        keys.byteswap()
    return [str(key) for key in keys[:requests]]


def made_up(requests: int, seed: int = 1) -> list[str]:
    """Skewed requests whose favourites change, with a scan now and then."""
    random_fraction = random.Random(seed)
    weights = list(itertools.accumulate(rank**-0.9 for rank in range(1, 501)))
    keys: list[str] = []
    while len(keys) < requests:
        shift = len(keys) // 2000 * 50
        keys += [
            f"k{shift + rank}" for rank in random_fraction.choices(range(500), cum_weights=weights, k=700)
        ]
        keys += [f"scan{len(keys)}-{number}" for number in range(100)]
    return keys[:requests]
