"""The command: parses the arguments, runs a soak, prints its table. The exit status is 1 for a problem."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from cachekit.errors import CacheError
from cachekit.testing.soak.run import KINDS, Growth, Soak, SoakReport
from cachekit.testing.soak.stalls import milliseconds

_MOST_SHOWN: Final = 10
_MIB: Final = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak that the arguments name, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cachekit.testing.soak",
        description="Qualify this machine, a file system or a server for cachekit.",
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("target", nargs="?", help="the URL for redis, the directory for disk")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="N", help="how long to work (default: 1)")
    length.add_argument("--seconds", type=float, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (default: 0)")
    options = parser.parse_args(arguments)
    seconds = options.seconds if options.seconds is not None else 60 * (options.minutes or 1.0)
    try:
        with Soak(options.kind, options.target, seconds=seconds, seed=options.seed) as soak:
            report = soak.run()
            lines = list(table(options.kind, report, outages=soak.makes_outages))
    except (ValueError, OSError, CacheError) as error:
        print(f"python -m cachekit.testing.soak: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print("\n".join(lines))
    return 1 if report.problems() else 0


def table(kind: str, report: SoakReport, *, outages: bool) -> Iterator[str]:
    """Yield the lines of the results."""
    growth = report.growth
    rows = [
        ("python", f"{platform.python_version()} on {platform.system()} {platform.release()}"),
        ("time", f"{report.seconds:,.0f} s in {report.rounds:,} rounds"),
        ("operations", f"{report.operations:,}, {report.operations / report.seconds:,.0f} a second"),
        ("checked", f"{report.checked:,} reads and writes"),
        ("kills", f"{report.kills:,}"),
        ("outages", f"{report.outages:,}" if outages else "none: no server that this run may cut off"),
        ("wrong answers", f"{len(report.wrong):,}"),
        ("exceptions", f"{report.exceptions:,}"),
    ]
    if kind == "asyncio":
        rows.append(("loops ended", f"{report.loops:,}"))
    if growth is None:
        rows.append(("growth", "not measured: the run was too short"))
    else:
        millions = max(growth.operations, 1) / 1e6
        rows += [
            ("growth", f"{_grown(growth, 1.0)}, in {growth.operations:,} operations of one process"),
            ("in a million", _grown(growth, millions)),
            ("descriptors", _held(growth.last.descriptors, growth.descriptors)),
            ("files of the cache", f"{growth.last.files} open"),
            ("threads", _held(growth.last.threads, growth.threads)),
        ]
    if report.peak is not None:
        rows.append(("memory", f"{report.peak / _MIB:,.0f} MiB at most, all processes together"))
    rows += [
        ("longest stall", str(report.stall)),
        ("longest collection", f"{milliseconds(report.collection)} of garbage collection"),
        ("result", "; ".join(report.problems()) or "qualified"),
    ]
    yield from (f"{name:<20} {value}" for name, value in rows)
    for finding in (*report.wrong[:_MOST_SHOWN], *report.tracebacks[:_MOST_SHOWN]):
        yield f"  {finding}"


def _grown(growth: Growth, share: float) -> str:
    resident = "" if growth.resident is None else f", {growth.resident / _MIB / share:+,.1f} MiB"
    return f"{growth.blocks / share:+,.0f} objects{resident}"


def _held(now: int | None, more: int | None) -> str:
    return "the system does not say" if now is None else f"{now}, {more:+} since the first rounds"


if __name__ == "__main__":
    sys.exit(main())
