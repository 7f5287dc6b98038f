"""Run every benchmark, and print its figures as Markdown, for README.md and docs/benchmarks.md.

A column of a peer has the time of cachekit divided by the time of the peer, the median of interleaved rounds.
Below 1 cachekit takes less time. The last column is the time of cachekit. Every row is printed. `--quick`
shows in a minute or two that all of them run; its figures mean nothing. `--from DIR` prints the tables of an
earlier run, from the JSON files that it left there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

SCRIPTS = (
    "calls", "memory", "decorator", "loads", "cache", "import_time", "serialization", "fleet", "engine",
    "eviction",
)  # fmt: skip
#: The rows of README: a question of calls.py, and the peer beside which it stands there.
README = (
    ("memory: get, 200 B", "cachebox TTL"),
    ("memory: cached function, hit, 200 B", "functools.lru_cache"),
    ("files: get, 200 B", "diskcache"),
    ("files: get, 200 B", "lmdb + pickle"),
    ("files: set, overwrite, 200 B", "diskcache"),
    ("files: get, 32 KB", "diskcache"),
    ("files: cached function, hit, 200 B", "diskcache"),
    ("files: 9 get to 1 set, 200 B, 8 processes", "diskcache"),
    ("files: await get, 100 tasks, 200 B", "diskcache"),
    ("Redis: get, 200 B", "redis-py + pickle"),
    ("Redis: set, overwrite, 200 B", "redis-py + pickle"),
    ("Redis: get_many of 100, 200 B", "redis-py + pickle"),
)

#: A question: its title, its unit, and its rows as the harness writes them.
Answer: TypeAlias = tuple[str, str, list[dict[str, Any]]]


def measure(folder: Path, *, quick: bool) -> None:
    """Run the scripts one after the other; each leaves a JSON file in the folder."""
    for script in SCRIPTS:
        program = Path(__file__).with_name(f"{script}.py")
        command = [sys.executable, str(program), "--json", str(folder / f"{script}.json")]
        print(f"... {script}.py", file=sys.stderr, flush=True)
        subprocess.run([*command, *(["--quick"] if quick else [])], stdout=subprocess.DEVNULL, check=True)


def answers(folder: Path, script: str) -> list[Answer]:
    questions = json.loads((folder / f"{script}.json").read_text(encoding="utf-8"))["questions"]
    return [(title, one["unit"], one["rows"]) for title, one in questions.items()]


def ratio(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    if ours["trouble"] or peer["trouble"]:
        return (peer["trouble"] or ours["trouble"]).partition(":")[0]
    pairs = zip(ours["per_round"], peer["per_round"], strict=False)
    found = statistics.median(mine / theirs for mine, theirs in pairs if theirs)
    return f"{found:.2f}" if found >= 0.1 else f"{found:.3f}"


def figure(row: dict[str, Any], unit: str) -> str:
    if row["trouble"]:
        return str(row["trouble"]).partition(":")[0]
    digits = 0 if row["median"] >= 100 else 1
    return f"{row['median']:,.{digits}f} {unit}"


def place_of(title: str) -> str:
    place, colon, _ = title.partition(": ")
    return place if colon else ""


def table(place: str, some: list[Answer]) -> Iterator[str]:
    """Yield a table of questions: a line for each row of ours, a column for each peer."""
    peers = list(dict.fromkeys(row["name"] for _, _, rows in some for row in rows if not row["ours"]))
    if not any(row["ours"] for _, _, rows in some for row in rows):
        peers = []  # a script without peers: all rows are ours
    yield f"| {place} | " + "".join(f"{peer} | " for peer in peers) + "cachekit |"
    yield "|---" * (len(peers) + 2) + "|"
    for title, unit, rows in some:
        others = {row["name"]: row for row in rows if not row["ours"]} if peers else {}
        for row in rows:
            if peers and not row["ours"]:
                continue
            cells = [ratio(row, others[peer]) if peer in others else "" for peer in peers]
            cells = ["" if cell == "not offered" else cell for cell in cells]
            label = title.removeprefix(f"{place}: ")
            name = row["name"].removeprefix("cachekit, ")
            named = label if name == "cachekit" else f"{label}, {name}"
            yield f"| {named} | " + "".join(f"{cell} | " for cell in cells) + f"{figure(row, unit)} |"


def documentation(folder: Path) -> Iterator[str]:
    for script in SCRIPTS:
        yield f"\n### `benchmarks/{script}.py`"
        found = answers(folder, script)
        # A table for each place, or else for the questions that the same rows answer.
        groups: dict[object, list[Answer]] = {}
        for one in found:
            groups.setdefault(place_of(one[0]) or tuple(row["name"] for row in one[2]), []).append(one)
        for some in groups.values():
            yield ""
            yield from table(place_of(some[0][0]), some)


def readme(folder: Path) -> Iterator[str]:
    yield "| ratio | a call | beside | cachekit |"
    yield "|---|---|---|---|"
    found = {title: (unit, rows) for title, unit, rows in answers(folder, "calls")}
    for title, peer in README:
        unit, rows = found[title]
        by_name = {row["name"]: row for row in rows}
        ours = by_name["cachekit"]
        yield f"| {ratio(ours, by_name[peer])} | {title} | {peer} | {figure(ours, unit)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few operations: does it run at all?")
    parser.add_argument("--from", metavar="DIR", type=Path, help="the folder of an earlier run")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave the JSON files here")
    chosen = vars(parser.parse_args())
    folder = chosen["from"]
    if folder is None:
        folder = chosen["keep"] or Path(tempfile.mkdtemp(prefix="cachekit-bench-"))
        folder.mkdir(exist_ok=True)
        measure(folder, quick=chosen["quick"])
    environment = json.loads((folder / "calls.json").read_text(encoding="utf-8"))["environment"]
    print(*(f"{name}: {value}" for name, value in environment.items()), sep="\n")
    print("\n## README.md\n", *readme(folder), sep="\n")
    print("\n## docs/benchmarks.md", *documentation(folder), sep="\n")


if __name__ == "__main__":
    main()
