"""`cachekit verify DIR`: reads every record of a cache directory and checks its checksum.

Without `--repair` it changes nothing. With it, damaged entries are removed, as a lookup would have done,
and so are files that belong to no entry. The directory may be in use.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cachekit.cli.directory import (
    DirectoryError,
    absolute,
    counted,
    geometry_of,
    has_own_format,
    holds_cache,
    inspect_directory,
    refuse,
    size,
    watched,
)
from cachekit.cli.display import Display
from cachekit.errors import CacheError
from cachekit.tiers.file.engine.check import STATES, Inspection, Item
from cachekit.tiers.file.engine.engine import Engine

_SHOWN: Final = 20  # the most problems that are listed
_ROUNDS: Final = 3  # of looking and repairing


class Plan(NamedTuple):
    """The options of the command."""

    directory: str
    repair: bool


def run(plan: Plan, display: Display) -> int:
    """Check a directory; return 0 if it is sound, or is after the repair, and 1 otherwise."""
    try:
        inspection = inspect_directory(plan.directory)
    except DirectoryError as error:
        return _rebuild(plan.directory, error, display) if plan.repair else refuse(error)
    found = _look(inspection, display)
    display.line(
        f"Sound: {counted(found.sound, 'record')}, {size(found.checked)}. Damaged: {len(found.damaged):,}."
    )
    for problem in found.problems()[:_SHOWN]:
        display.line(f"  {problem}")
    if not found.problems():
        return 0
    if not plan.repair:
        display.line(f"`cachekit verify --repair {inspection.path}` removes what is damaged.")
        return 1
    return _repair(inspection, found.damaged, display)


class _Found(NamedTuple):
    """What a look at every record has found."""

    sound: int  #: records
    checked: int  #: bytes of records
    damaged: list[Item]
    shards: list[str]  #: what is wrong with shards as a whole

    def problems(self) -> list[str]:
        """Return everything that is wrong."""
        return [*self.shards, *[f"shard {one.shard:02x}: {one.state}" for one in self.damaged]]


def _look(inspection: Inspection, display: Display) -> _Found:
    shards = [
        f"shard {part.number:02x}: {problem}" for part in inspection.parts() for problem in part.problems
    ]
    sound = checked = 0
    damaged = []
    for item in watched(inspection, "Verifying", display, verify=True):
        checked += item.size
        if item.state in STATES:
            sound += 1
        else:
            damaged.append(item)
    shards += [f"shard {number:02x}: its control block counts too little" for number in inspection.miscounted]
    return _Found(sound, checked, damaged, shards)


def _rebuild(path: str, error: DirectoryError, display: Display) -> int:
    """Make a directory again whose common files are damaged; return 1 if it has no such damage."""
    try:
        path = absolute(path)
        if not (holds_cache(path) and has_own_format(path)):
            return refuse(error)
        with Engine(path, geometry=geometry_of(path)):
            pass
    except (DirectoryError, CacheError) as failure:
        return refuse(failure)
    except OSError as failure:
        return refuse(DirectoryError(f"{path} cannot be repaired: {failure.strerror}"))
    display.line(f"{path} was made again, without its entries: {error}")
    return 0


def _repair(inspection: Inspection, damaged: list[Item], display: Display) -> int:
    path, dropped = inspection.path, 0
    left: list[str] = []
    try:
        # While an index is being replaced, what was damaged in it has another place in the next one.
        for _ in range(_ROUNDS):
            with Engine(path, geometry=inspection.geometry) as engine:
                dropped += engine.repair([(one.shard, one.generation, one.at, one.slot) for one in damaged])
            found = _look(inspect_directory(path), display)
            damaged, left = found.damaged, found.problems()
            if not left:
                break
    except (DirectoryError, CacheError) as error:
        return refuse(error)
    except OSError as error:
        return refuse(DirectoryError(f"{path} cannot be repaired: {error.strerror}"))
    display.line(f"{counted(dropped, 'damaged entry')} dropped; {counted(len(left), 'problem')} left.")
    for problem in left[:_SHOWN]:
        display.line(f"  {problem}")
    return 1 if left else 0
