"""`cachekit inspect DIR`: what is in a cache directory, how full it is, and whether it looks sound.

It changes nothing, neither files nor the record of recent reads. If the directory is in use, the numbers
are those of one moment.
"""

from __future__ import annotations

import json
import re
import time
from math import inf
from typing import Any, Final, NamedTuple

from cachekit.cli.directory import (
    DirectoryError,
    counted,
    inspect_directory,
    printable,
    refuse,
    remaining,
    size,
    watched,
)
from cachekit.cli.display import Display
from cachekit.tiers.file.engine.check import STATES, Inspection
from cachekit.tiers.file.permissions import exposure, network_file_system

_SHOWN: Final = 20  # the most problems that are listed
_TIMES: Final = (("within an hour", 3600.0), ("within a day", 86_400.0), ("within a week", 604_800.0))
_LATER: Final = "later"
_NEVER: Final = "never"


class Plan(NamedTuple):
    """The options of the command."""

    directory: str
    keys: re.Pattern[str] | None  #: list the live keys that it matches from the start
    as_json: bool


def run(plan: Plan, display: Display) -> int:
    """Show a directory; return 0 if it looks sound, 1 if it is damaged or cannot be read."""
    try:
        inspection = inspect_directory(plan.directory)
    except DirectoryError as error:
        return refuse(error)
    report = _look(inspection, plan.keys, None if plan.as_json else display)
    if plan.as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(report, plan.keys, display)
    return 1 if report["problems"] else 0


def _look(inspection: Inspection, pattern: re.Pattern[str] | None, display: Display | None) -> dict[str, Any]:
    # Everything that is shown, ready for JSON.
    parts = inspection.parts()
    problems = [f"shard {part.number:02x}: {problem}" for part in parts for problem in part.problems]
    states = dict.fromkeys(STATES, 0)
    expiry = dict.fromkeys([name for name, _ in _TIMES] + [_LATER, _NEVER], 0)
    keys = []
    largest = total = 0
    now = time.time()
    for item in watched(inspection, "Looking", display, verify=False):
        if item.state not in states:
            problems.append(f"shard {item.shard:02x}: an entry is damaged: {item.state}")
            continue
        states[item.state] += 1
        if item.state != "live":
            continue
        total += item.size
        largest = max(largest, item.size)
        expiry[_when(item.expiry - now)] += 1
        if pattern is not None and pattern.match(item.key):
            end = None if item.expiry == inf else item.expiry
            keys.append({"key": item.key, "bytes": item.size, "expires": end, "tags": item.tags})
    report = {
        "directory": inspection.path,
        "made": inspection.made,
        "limit": inspection.geometry.limit,
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
        "others_may_write": exposure(inspection.path) or None,
        "network_file_system": network_file_system(inspection.path) or None,
        "problems": problems,
    }
    return report if pattern is None else report | {"keys": keys}


def _when(left: float) -> str:
    return next((name for name, span in _TIMES if left <= span), _NEVER if left == inf else _LATER)


def _show(report: dict[str, Any], pattern: re.Pattern[str] | None, display: Display) -> None:
    live = report["entries"]["live"]
    users = report["used_by"]
    mean = report["live_bytes"] / live if live else 0
    display.line()
    rows = [
        ["created", time.strftime("%Y-%m-%d %H:%M", time.localtime(report["made"]))],
        ["limit", size(report["limit"])],
        ["on disk", f"{size(report['disk_bytes'])} ({report['disk_bytes'] / report['limit']:.0%})"],
        ["live entries", f"{live:,}"],
        ["expired, not yet removed", f"{report['entries']['expired']:,}"],
        ["invalidated by tag, not yet removed", f"{report['entries']['invalidated']:,}"],
        ["bytes of live entries", size(report["live_bytes"])],
        ["mean and largest entry", f"{size(mean)}, {size(report['largest'])}"],
        ["used by processes", _users(users)],
    ]
    display.table(report["directory"], ["what", "figure"], rows)
    display.line()
    display.table(
        "When live entries expire",
        ["when", "entries"],
        [[name, f"{count:,}"] for name, count in report["expiry"].items()],
    )
    display.line()
    filled = [one for one in report["shards"] if one["entries"]]
    display.table(
        "Shards",
        ["shard", "entries", "slots", "segments", "live", "on disk"],
        [
            [
                f"{one['number']:02x}",
                f"{one['entries']:,}",
                f"{one['slots']:,}",
                f"{one['segments']:,}",
                size(one["live_bytes"]),
                size(one["disk_bytes"]),
            ]
            for one in filled
        ],
    )
    empty = len(report["shards"]) - len(filled)
    if empty:
        display.line(f"{counted(empty, 'more shard')} without an entry.")
    if pattern is not None:
        display.line()
        display.table(
            f"Live keys that {pattern.pattern!r} matches",
            ["key", "size", "left", "tags"],
            [
                [printable(one["key"]), size(one["bytes"]), remaining(_end(one["expires"])), str(one["tags"])]
                for one in sorted(report["keys"], key=lambda one: str(one["key"]))
            ],
        )
        if not report["keys"] and live:
            display.line("A key is matched from its start; write .* before what is in the middle of keys.")
    display.line()
    if report["others_may_write"]:
        display.line(f"{report['others_may_write']}: it is read by an allow-list, or needs a secret.")
    if report["network_file_system"]:
        display.line(f"It is on a network file system ({report['network_file_system']}).")
    problems = report["problems"]
    display.line("It looks sound." if not problems else f"{counted(len(problems), 'problem')}:")
    for problem in problems[:_SHOWN]:
        display.line(f"  {problem}")
    if problems:
        display.line(f"`cachekit verify --repair {report['directory']}` removes what is damaged.")


def _users(users: list[int] | None) -> str:
    if users is None:
        return "unknown"
    return ", ".join(map(str, users)) or "none"


def _end(expires: float | None) -> float:
    return inf if expires is None else expires
