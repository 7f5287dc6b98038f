"""`cachekit verify DIR`: reads every record of a cache directory and checks its checksum.

Without `--repair` it changes nothing. With it, damaged entries are removed, as a lookup would have done,
and so are files that belong to no entry. The directory may be in use.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from cachekit.cli.directory import DirectoryError, inspect_directory, refuse, size, watched
from cachekit.cli.display import Display
from cachekit.errors import CacheError
from cachekit.tiers.file.engine.check import STATES, Inspection, Item
from cachekit.tiers.file.engine.engine import Engine

_SHOWN: Final = 20  # the most problems that are listed


class Plan(NamedTuple):
    """The options of the command."""

    directory: str
    repair: bool


def run(plan: Plan, display: Display) -> int:
    """Check a directory; return 0 if it is sound, or is after the repair, and 1 otherwise."""
    try:
        inspection = inspect_directory(plan.directory)
    except DirectoryError as error:
        return refuse(error)
    shards = [
        f"shard {part.number:02x}: {problem}" for part in inspection.parts() for problem in part.problems
    ]
    states: Counter[str] = Counter()
    checked = 0
    damaged = []
    for item in watched(inspection, "Verifying", display, verify=True):
        checked += item.size
        if item.state in STATES:
            states[item.state] += 1
        else:
            damaged.append(item)
    sound = sum(states.values())
    display.line(f"{sound:,} records with {size(checked)} are sound; {len(damaged):,} are damaged.")
    for problem in [*shards, *[f"shard {one.shard:02x}: {one.state}" for one in damaged]][:_SHOWN]:
        display.line(f"  {problem}")
    if not shards and not damaged:
        return 0
    if not plan.repair:
        display.line(f"`cachekit verify --repair {inspection.path}` removes what is damaged.")
        return 1
    return _repair(inspection, damaged, display)


def _repair(inspection: Inspection, damaged: list[Item], display: Display) -> int:
    try:
        with Engine(inspection.path, geometry=inspection.geometry) as engine:
            dropped = engine.repair([(item.shard, item.generation, item.at, item.slot) for item in damaged])
    except CacheError as error:
        return refuse(error)
    except OSError as error:
        return refuse(DirectoryError(f"{inspection.path} cannot be repaired: {error.strerror}"))
    left = [problem for part in Inspection(inspection.path).parts() for problem in part.problems]
    display.line(f"{dropped:,} damaged entries were dropped; {len(left):,} problems are left.")
    return 1 if left else 0
