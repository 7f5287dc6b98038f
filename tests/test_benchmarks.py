"""The benchmarks run, with whatever peers are installed; what they measure is not looked at."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from array import array
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = [
    "cache.py", "calls.py", "decorator.py", "engine.py", "eviction.py", "fleet.py", "import_time.py",
    "loads.py", "memcached.py", "memory.py", "serialization.py", "watching.py",
]  # fmt: skip
#: Two that take a second; a test below runs decorator.py without peers, and `-m soak` runs all of them.
IN_SUITE = {"eviction.py", "loads.py"}
PEERS = (
    "aiocache", "async_lru", "cachebox", "cacheout", "cachetools", "cashews", "dogpile", "moka_py",
    "theine",
)  # fmt: skip

# Runs a script as if some modules were not installed.
WITHOUT = """
import runpy, sys
script, *blocked = sys.argv[1].split(",")
sys.modules.update(dict.fromkeys(blocked))
sys.argv[:2] = [script]
sys.path.insert(0, script.rpartition("/")[0])
runpy.run_path(script, run_name="__main__")
"""

# Runs scripts for their help, one after the other.
HELP = """
import contextlib, io, json, runpy, sys
folder, *scripts = sys.argv[1:]
sys.path.insert(0, folder)
pages = {}
for script in scripts:
    sys.argv[:] = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as page:
        try:
            runpy.run_path(f"{folder}/{script}", run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, script
    pages[script] = page.getvalue()
print(json.dumps(pages))
"""

# Asks one question of rows that fail in every way; prints the number of figures, and the trouble.
FAILING = """
import json, sys
sys.path.insert(0, sys.argv[1])
from harness import NotOfferedError, Question, Row, measure

def fails(error):
    raise error

rounds = iter([lambda: 1.0, lambda: 2.0, lambda: fails(OSError("late"))])
rows = [
    Row("good", lambda: lambda: 1.0, ours=True),
    Row("never", lambda: fails(OSError("no start"))),
    Row("at once", lambda: lambda: fails(OSError("no luck"))),
    Row("late", lambda: lambda: next(rounds)()),
    Row("cannot", lambda: fails(NotOfferedError("it has none"))),
]
answer = measure(Question("does it work?", 1, rows), rounds=3)
print(json.dumps({row.name: [len(row.per_round), row.trouble] for row in answer}))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != "CACHEKIT_DISABLE"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=900, env=environment
    )


def rows_of(measured: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for question in measured["questions"].values() for row in question["rows"]]


def progress_alone(stderr: str) -> bool:
    """Whether nothing but what the scripts are doing was said there."""
    return all(line.startswith("... ") for line in stderr.splitlines())


def test_every_script_is_tried_here() -> None:
    """A benchmark that is added is added to this test."""
    assert sorted(path.name for path in BENCHMARKS.glob("*.py")) == sorted(
        [
            *SCRIPTS,
            "harness.py",
            "intelligence.py",
            "intelligence_prefetch.py",
            "site_apps.py",
            "sites.py",
            "tables.py",
        ]
    )


@pytest.mark.soak
@pytest.mark.parametrize("command", ["prefetch", "clock"])
def test_what_prefetching_is_asked_for(command: str) -> None:
    """On the streams that it makes; the others are not part of the project."""
    ended = run(str(BENCHMARKS / "intelligence_prefetch.py"), command, "--quick")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all is as asked" in ended.stdout


@pytest.mark.parametrize(
    "script", [pytest.param(one, marks=() if one in IN_SUITE else pytest.mark.soak) for one in SCRIPTS]
)
def test_it_runs(script: str, tmp_path: Path) -> None:
    """Each script ends well, says what it does, prints environment, tables and targets, and writes JSON."""
    file = tmp_path / "measured.json"
    ended = run(str(BENCHMARKS / script), "--quick", "--json", str(file))
    assert ended.returncode == 0, ended.stderr
    assert progress_alone(ended.stderr)
    assert ended.stderr
    assert re.search(r"^Python: .*\d+\.\d+", ended.stdout)
    assert "CPUs" in ended.stdout
    assert "Targets" in ended.stdout

    measured = json.loads(file.read_text())
    rows = rows_of(measured)
    assert {row["name"] for row in rows if row["name"] in ended.stdout} == {row["name"] for row in rows}
    ours = [row for row in rows if row["ours"]]
    assert [row["trouble"] for row in ours] == [None] * len(ours)
    assert all(len(row["per_round"]) in {1, 2} and row["median"] >= 0 for row in ours)
    assert measured["targets"] or script in {"fleet.py", "memcached.py"}


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_tables(tmp_path: Path) -> None:
    """One command runs every script, and prints a table for README and those of docs/benchmarks.md."""
    ended = run(str(BENCHMARKS / "tables.py"), "--quick", "--keep", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert {f"{path.stem}.py" for path in tmp_path.glob("*.json")} == set(SCRIPTS)
    again = run(str(BENCHMARKS / "tables.py"), "--from", str(tmp_path))
    assert again.stdout == ended.stdout
    headings = [f"### `benchmarks/{script}`" for script in SCRIPTS]
    assert [one for one in ("## README.md", *headings) if one not in ended.stdout] == []
    rows = [row for path in tmp_path.glob("*.json") for row in rows_of(json.loads(path.read_text()))]
    assert [row for row in rows if row["ours"] and row["trouble"]] == []


def test_the_readme_has_the_figures_of_a_run() -> None:
    """Those of benchmarks/readme.json, which a run has written."""
    ended = run(str(BENCHMARKS / "tables.py"), "--check")
    assert ended.returncode == 0, ended.stderr


def test_help_says_what_it_measures() -> None:
    """`--help` shows the options, and the script's own words; each script imports what it measures."""
    ended = run("-c", HELP, str(BENCHMARKS), *SCRIPTS)
    assert ended.returncode == 0, ended.stderr
    pages = json.loads(ended.stdout)
    assert list(pages) == SCRIPTS
    for script, page in pages.items():
        assert all(word in page for word in ("--rounds", "--quick", "--json", "beside")), script


def test_a_wrong_number_of_rounds_is_refused() -> None:
    """No rounds, no figures: that is an error and not an empty table."""
    ended = run(str(BENCHMARKS / "import_time.py"), "--rounds", "0")
    assert ended.returncode == 2
    assert "must be a whole number of at least 1, not '0'" in ended.stderr


def test_a_peer_that_is_not_installed_is_a_row() -> None:
    """Without any peer there are our rows, those of the standard library, and a reason for the rest."""
    ended = run("-c", WITHOUT, ",".join([str(BENCHMARKS / "decorator.py"), *PEERS]), "--quick")
    assert (ended.returncode, progress_alone(ended.stderr)) == (0, True), ended.stderr
    assert re.search(r"\d  functools.lru_cache$", ended.stdout, re.MULTILINE)
    assert re.search(r"-  cachebox.cached TTL: not installed$", ended.stdout, re.MULTILINE)
    assert re.search(r"-  +<= 1 +not installed +cache_result", ended.stdout)


def test_a_peer_that_fails_is_a_row() -> None:
    """One that breaks, at the start or in a later round, says why, and the others go on."""
    ended = run("-c", FAILING, str(BENCHMARKS))
    assert (ended.returncode, progress_alone(ended.stderr)) == (0, True), ended.stderr
    assert json.loads(ended.stdout) == {
        "good": [3, None],
        "never": [0, "failed: OSError: no start"],
        "at once": [0, "failed: OSError: no luck"],
        "late": [1, "failed: OSError: late"],
        "cannot": [0, "not offered: it has none"],
    }


INTELLIGENCE = ("-m", "benchmarks.intelligence")


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("hits", "adaptive"),
        pytest.param("sizes", "x10: ", marks=pytest.mark.soak),
        pytest.param("adaptive", "worst run: ", marks=pytest.mark.soak),
    ],
)
def test_what_a_cache_knows_of_a_stream(tmp_path: Path, command: str, word: str) -> None:
    """Each table is printed beside what was asked; a short stream judges nothing."""
    weights = list(accumulate(rank**-0.9 for rank in range(1, 30_001)))
    numbers = array("I", Random(1).choices(range(30_000), cum_weights=weights, k=8_000))
    (tmp_path / "zipf09.u32.gz").write_bytes(gzip.compress(numbers.tobytes()))
    options = ("--traces", str(tmp_path), "--streams", "zipf09", "--seeds", "1", "--quick")
    ended = subprocess.run(
        [sys.executable, *INTELLIGENCE, command, *options],
        cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert word in ended.stdout


def test_the_streams_must_be_named() -> None:
    ended = subprocess.run(
        [sys.executable, *INTELLIGENCE, "sizes"],
        cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "CACHEKIT_TRACES"},
    )  # fmt: skip
    assert ended.returncode == 2
    assert "--traces must name the folder of the streams" in ended.stderr


SITE = "fastapi, cachekit memory"


def of_sites(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.sites", "--quick", "--rounds", "1", *arguments],
        cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "only"),
    [
        ("backends", SITE),
        pytest.param("backends", "", marks=pytest.mark.soak),
        pytest.param("http", "", marks=pytest.mark.soak),
    ],
)
@pytest.mark.timeout(900)
def test_sites_are_measured(tmp_path: Path, command: str, only: str) -> None:
    """A stampede of 200 on a cold page is one load in each of the two workers that gets a request."""
    pytest.importorskip("fastapi")
    ended = of_sites(command, "--only", only, "--json", str(tmp_path / "measured.json"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured
    for rounds in measured.values():
        (figures,) = rounds
        assert figures["requests_per_second"] > 0
        assert figures["of_stampede"] == 200
    if only:
        assert list(measured) == [SITE]
        assert measured[SITE][0]["loads"] in {1, 2}
        assert measured[SITE][0]["hot"] is None


def test_a_site_that_is_not_there_is_refused() -> None:
    ended = of_sites("--only", "a cache that is in no row")
    assert ended.returncode == 2
    assert "no row contains 'a cache that is in no row'" in ended.stderr
