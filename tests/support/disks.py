"""Places for files: a small file system, which can be filled, and a directory that other users may reach."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine allows no mounts")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(filler: Path) -> None:
    """Use up what is left of a disk, with a file."""
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users may reach; pytest takes that away from the directories of its runs."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
