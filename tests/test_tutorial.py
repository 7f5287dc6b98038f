"""The tutorial: each step's page shows the program in examples/tutorial, and what that prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from redis_server import free_port

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
PROGRAMS = sorted((ROOT / "examples" / "tutorial").glob("*.py"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def run(step: int, directory: Path, **variables: str) -> str:
    """Run a step as its reader does; its output, without what the log says."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAMS[step - 1])],
        cwd=directory, capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"CACHEKIT_DIR": str(directory / "default"), **variables},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def without_durations(printed: str) -> str:
    """A busy machine takes longer."""
    return re.sub(r"\d+\.\d s", "# s", printed)


def test_six_pages_show_six_programs() -> None:
    """Each page has the whole program of its step, and leads to the next page."""
    assert len(PAGES) == len(PROGRAMS) == 6
    for number, (page, program, following) in enumerate(
        zip(PAGES, PROGRAMS, [*PAGES[1:], None], strict=True), 1
    ):
        assert page.name.startswith(f"{number}-")
        assert program.name.startswith(f"step{number}_")
        assert blocks(page, "python") == [program.read_text(encoding="utf-8")]
        assert following is None or f"]({following.name})" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("step", "runs"), [(1, 2), (2, 2), (3, 2), (4, 1)])
def test_a_step_prints_what_its_page_shows(step: int, runs: int, tmp_path: Path) -> None:
    """In a second run too: the results are kept, or memory is empty again."""
    shown = blocks(PAGES[step - 1], "text")
    assert 1 <= len(shown) <= runs
    for expected in (shown * runs)[:runs]:
        assert without_durations(run(step, tmp_path)) == without_durations(expected)


def test_the_step_with_a_server(tmp_path: Path, redis_url: str) -> None:
    """It serves from the server, and without one from files."""
    with_server, without = blocks(PAGES[4], "text")
    assert run(5, tmp_path, SHOP_REDIS_URL=redis_url) == with_server
    assert run(5, tmp_path, SHOP_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0") == without


def test_the_step_with_a_page(tmp_path: Path) -> None:
    """A browser finds the page at the address that the program prints."""
    (shown,) = blocks(PAGES[5], "text")
    program = subprocess.Popen(
        [sys.executable, "-W", "error", str(PROGRAMS[5]), "shop-cache", "0"],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout is not None
    first = program.stdout.readline()
    address = first.split()[1]
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert "<title>" in answer.read().decode()
    rest, complaints = program.communicate("\n", timeout=60)
    assert (re.sub(r":\d+/", ":8000/", first) + rest, complaints) == (shown, "")
