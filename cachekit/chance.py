"""Chance, for jitter: `random`, which is loaded when it is first asked."""

from __future__ import annotations


def chance() -> float:
    """A number from 0 up to, but not including, 1."""
    import random

    return random.random()
