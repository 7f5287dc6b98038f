"""`cachekit inspect DIR`: what is in a cache directory, how full it is, and whether it looks sound.

It reads, and changes nothing: neither files nor which entries count as recently read. Figures of a
directory that is in use are those of a moment.
"""

from __future__ import annotations

import json
import re
from math import isinf
from typing import Any, Final, NamedTuple

from cachekit.cli.directory import DirectoryError, inspect_directory, refuse, remaining, size
from cachekit.cli.display import Display
from cachekit.tiers.file.inspection import Inspection, Item
from cachekit.tiers.file.trust import exposure, network_file_system

_STEP: Final = 1000  # entries between two reports of progress
_SHOWN: Final = 20  # problems
_TIMES: Final = (("within an hour", 3600.0), ("within a day", 86_400.0), ("within a week", 604_800.0))


class Plan(NamedTuple):
    """What is asked for."""

    directory: str
    keys: re.Pattern[str] | None  #: list the keys that it matches from the start
    as_json: bool


def run(plan: Plan, display: Display) -> int:
    """Show it; 0 if it looks sound, 1 if it does not, or cannot be read."""
    try:
        inspection = inspect_directory(plan.directory)
    except DirectoryError as error:
        return refuse(error)
    if plan.as_json:
        report, items = _look(inspection, plan, None)
        print(json.dumps(report | ({"keys": items} if plan.keys is not None else {}), indent=2))
    else:
        report, items = _look(inspection, plan, display)
        _show(report, display)
        if plan.keys is not None:
            rows = [[one["key"], size(one["bytes"]), remaining(_expiry(one)), str(one["tags"])] for one in items]
            display.table(f"Keys that match {plan.keys.pattern!r}", ["key", "size", "left", "tags"], rows)
    return 1 if report["problems"] else 0


def _expiry(item: dict[str, Any]) -> float:
    return float("inf") if item["expires"] is None else float(item["expires"])


def _look(
    inspection: Inspection, plan: Plan, display: Display | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everything that is shown, and the keys that were asked for."""
    parts = inspection.parts()
    problems = [f"shard {part.number:02x}: {problem}" for part in parts for problem in part.problems]
    states: dict[str, int] = {"live": 0, "expired": 0, "invalidated": 0}
    expiry = dict.fromkeys([*(name for name, _ in _TIMES), "later", "never"], 0)
    found: list[dict[str, Any]] = []
    largest, total, damaged = 0, 0, 0
    import time

    now = time.time()
    for item in _watched(inspection, display):
        if item.state not in states:
            damaged += 1
            problems.append(f"shard {item.shard:02x}: {item.state}")
            continue
        states[item.state] += 1
        if item.state != "live":
            continue
        total += item.size
        largest = max(largest, item.size)
        expiry[_when(item.expiry - now)] += 1
        if plan.keys is not None and plan.keys.match(item.key):
            found.append(
                {
                    "key": item.key,
                    "bytes": item.size,
                    "expires": None if isinf(item.expiry) else item.expiry,
                    "tags": item.tags,
                }
            )
    geometry = inspection.geometry
    reason = exposure(inspection.path)
    network = network_file_system(inspection.path)
    report = {
        "directory": inspection.path,
        "made": inspection.made,
        "limit": geometry.limit,
        "disk_bytes": inspection.disk_bytes(),
        "used_by": inspection.users(),
        "entries": states,
        "live_bytes": total,
        "largest": largest,
        "expiry": expiry,
        "shards": [
            {
                "number": part.number,
                "entries": part.entries,
                "slots": part.slots,
                "segments": part.segments,
                "live_bytes": part.live_bytes,
                "disk_bytes": part.disk_bytes,
            }
            for part in parts
        ],
        "damaged": damaged,
        "others_may_write": reason or None,
        "network_file_system": network or None,
        "problems": problems,
    }
    return report, found
