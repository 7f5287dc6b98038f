"""Run every benchmark, and print its figures as Markdown, for README.md and docs/benchmarks.md.

A column of a peer has the time of cachekit divided by the time of the peer, the median of interleaved rounds.
Below 1 cachekit takes less time. The last column is the time of cachekit. Every row is printed. `--quick`
shows in a minute or two that all of them run; its figures mean nothing. `--from DIR` prints the tables of an
earlier run, from the JSON files that it left there. `--readme` measures what README.md shows, and writes it
to `readme.json` and into its table. `--check` compares the two.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

SCRIPTS = (
    "calls", "memory", "decorator", "loads", "cache", "import_time", "serialization", "fleet", "memcached",
    "engine", "eviction", "watching",
)  # fmt: skip
#: The figures of README.md, as `--readme` has measured them.
FIGURES = Path(__file__).with_name("readme.json")
PAGE = Path(__file__).parents[1] / "README.md"


class Cell(NamedTuple):
    """One ratio: of a row of ours to one of a peer."""

    question: str
    peer: str
    ours: str = "cachekit"
    script: str = "calls"


#: The rows of README: what is called, the peers as README names them, and the ratios.
README = (
    (
        "`get` from files",
        "diskcache; lmdb + pickle",
        (Cell("files: get, 200 B", "diskcache"), Cell("files: get, 200 B", "lmdb + pickle")),
    ),
    (
        "`set` in files, overwrite",
        "diskcache; lmdb + pickle",
        (
            Cell("files: set, overwrite, 200 B", "diskcache"),
            Cell("files: set, overwrite, 200 B", "lmdb + pickle"),
        ),
    ),
    (
        "`get` from files, 32 KB",
        "diskcache; lmdb + pickle",
        (Cell("files: get, 32 KB", "diskcache"), Cell("files: get, 32 KB", "lmdb + pickle")),
    ),
    (
        "cached function, hit in files",
        "`diskcache.Cache.memoize`",
        (Cell("files: cached function, hit, 200 B", "diskcache"),),
    ),
    (
        "`get` from files, 100 tasks of an event loop",
        "diskcache in an executor",
        (Cell("files: await get, 100 tasks, 200 B", "diskcache"),),
    ),
    (
        "8 processes on the files, 90 % `get` and 10 % `set`",
        "diskcache; lmdb + pickle",
        (
            Cell("files: 9 get to 1 set, 200 B, 8 processes", "diskcache"),
            Cell("files: 9 get to 1 set, 200 B, 8 processes", "lmdb + pickle"),
        ),
    ),
    (
        "Redis: `get`; `set`",
        "redis-py + pickle",
        (
            Cell("Redis: get, 200 B", "redis-py + pickle"),
            Cell("Redis: set, overwrite, 200 B", "redis-py + pickle"),
        ),
    ),
    (
        "a program with `import cachekit`; with a decorated function too",
        "a program that imports nothing",
        (
            Cell("wall time of a process", "bare interpreter", "import cachekit", "import_time"),
            Cell("wall time of a process", "bare interpreter", "one decorated function", "import_time"),
        ),
    ),
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


def measure_readme(folder: Path) -> None:
    """Run what README.md shows, and nothing else."""
    for script in ("import_time", "calls"):
        questions = {cell.question for *_, cells in README for cell in cells if cell.script == script}
        command = [sys.executable, str(Path(__file__).with_name(f"{script}.py"))]
        command += ["--json", str(folder / f"{script}.json")]
        if script == "calls":
            command += [word for question in sorted(questions) for word in ("--only", question)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def answers(folder: Path, script: str) -> list[Answer]:
    questions = json.loads((folder / f"{script}.json").read_text(encoding="utf-8"))["questions"]
    return [(title, one["unit"], one["rows"]) for title, one in questions.items()]


def ratio(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    if ours["trouble"] or peer["trouble"]:
        return str(peer["trouble"] or ours["trouble"]).partition(":")[0]
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


def readme_figures(folder: Path) -> dict[str, Any]:
    """Return what README shows of a run: its environment, and each ratio, rounded as it is shown."""
    measured: dict[str, dict[str, Any]] = {
        script: json.loads((folder / f"{script}.json").read_text(encoding="utf-8"))
        for script in ("calls", "import_time")
    }
    rows = []
    for call, beside, cells in README:
        ratios = []
        for cell in cells:
            by_name = {row["name"]: row for row in measured[cell.script]["questions"][cell.question]["rows"]}
            ours, peer = by_name[cell.ours], by_name[cell.peer]
            ratios.append(shown(ours, peer))
        rows.append({"call": call, "beside": beside, "ratios": ratios})
    return {"environment": measured["calls"]["environment"], "rows": rows}


def shown(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    found: str = ratio(ours, peer)
    return f"{float(found):#.2g}".rstrip(".") if found[:1].isdigit() else found


def readme(figures: dict[str, Any]) -> str:
    """Return the table of README, and where the run was."""
    rows = [f"| {row['call']} | {row['beside']} | {'; '.join(row['ratios'])} |" for row in figures["rows"]]
    where = f"Measured with {figures['environment']['Python']} on {figures['environment']['machine']}."
    return "\n".join(["| | beside | ratio |", "|---|---|---|", *rows, "", where]) + "\n"


def readme_with(table: str) -> str:
    """Return README.md with this table in place of the one that it has."""
    pattern = r"^\| \| beside \| ratio \|\n(?:\|.*\n)+\nMeasured with .*\n"
    page, found = re.subn(pattern, lambda _: table, PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if found != 1:
        raise SystemExit(
            f"{PAGE} must have one table '| | beside | ratio |' and one line 'Measured with', not {found}"
        )
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few operations: does it run at all?")
    parser.add_argument("--from", metavar="DIR", type=Path, help="the folder of an earlier run")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave the JSON files here")
    parser.add_argument(
        "--readme", action="store_true", help="measure and write the figures of README.md alone"
    )
    parser.add_argument(
        "--check", action="store_true", help="measure nothing: has README.md the figures of readme.json?"
    )
    chosen = vars(parser.parse_args())
    if chosen["check"]:
        table = readme(json.loads(FIGURES.read_text(encoding="utf-8")))
        if readme_with(table) != PAGE.read_text(encoding="utf-8"):
            raise SystemExit(f"README.md has other figures than {FIGURES.name}, which are:\n{table}")
        return
    folder = chosen["from"]
    if folder is None:
        folder = chosen["keep"] or Path(tempfile.mkdtemp(prefix="cachekit-bench-"))
        folder.mkdir(exist_ok=True)
        if chosen["readme"]:
            measure_readme(folder)
        else:
            measure(folder, quick=chosen["quick"])
    figures = readme_figures(folder)
    if chosen["readme"]:
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        PAGE.write_text(readme_with(readme(figures)), encoding="utf-8")
        return
    print(*(f"{name}: {value}" for name, value in figures["environment"].items()), sep="\n")
    print("\n## README.md\n", readme(figures), sep="\n")
    print("\n## docs/benchmarks.md", *documentation(folder), sep="\n")


if __name__ == "__main__":
    main()
