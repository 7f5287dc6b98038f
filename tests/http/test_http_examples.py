"""The examples of the HTTP cache run, and print what they promise; each needs its framework."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "examples" / "http"

EXPECTED = {
    "crawler.py": ("httpx", "12 pages read, 4 sent, 6 validated"),
    "django_pages.py": ("django", "5 requests, rendered 2 times"),
    "fastapi_pages.py": ("fastapi", "12 requests, rendered 3 times"),
    "flask_pages.py": ("flask", "6 requests, rendered 4 times"),
}


def test_each_has_its_line() -> None:
    assert set(EXPECTED) == {file.name for file in HERE.glob("*.py")}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_it_runs(name: str, tmp_path: Path) -> None:
    needed, line = EXPECTED[name]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed; the extra test-http has it")
    ran = subprocess.run(
        [sys.executable, "-W", "error", HERE / name],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert line in ran.stdout
