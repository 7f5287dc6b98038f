"""Source distributions of frameworks at their installed versions, which alone have the frameworks' tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

SUITES = Path(__file__).parents[1] / "integrations" / "suites"
ROOT = Path(__file__).parents[2]


def source_of(distribution: str, path: Path) -> Path:
    """The unpacked source distribution; skips the test where it cannot be had, as without a network."""
    wanted = f"{distribution}=={version(distribution)}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
    done = subprocess.run([*pip, wanted], cwd=path, capture_output=True, text=True)
    archives = list(path.glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"pip has no source of {wanted}: {done.stderr.strip().splitlines()[-1:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(path, filter="data")
    return next(one for one in path.iterdir() if one.is_dir())


def run_suite(arguments: list[str], cwd: Path, **environment: str) -> str:
    """The output of a suite that succeeded; it is printed too, for `-s`."""
    paths = os.pathsep.join([str(ROOT), str(cwd)])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    print(output[-3000:])
    assert done.returncode == 0, output[-8000:]
    return output
