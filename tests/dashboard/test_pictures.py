"""The pictures of the documentation are made by one command."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NEEDED = ("playwright", "uvicorn", "matplotlib")

pytestmark = [
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium (Debian: chromium)"),
    pytest.mark.browser,
]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    for module in NEEDED:
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")
    return subprocess.run(
        [sys.executable, DOCS / "pictures.py", *map(str, arguments)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def size(picture: Path) -> tuple[int, int]:
    """Return the width and the height that a PNG has at its head."""
    head = picture.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", head[16:])
    return width, height


def test_the_pictures_of_the_documentation(tmp_path: Path) -> None:
    """They have the names and widths of those that the pages show."""
    ended = run(tmp_path, "--seconds", 1)
    assert ended.returncode == 0, ended.stderr
    made = {file.name: size(file) for file in tmp_path.iterdir()}
    assert sorted(made) == sorted(file.name for file in DOCS.glob("*.png"))
    assert {name: width for name, (width, _) in made.items()} == {name: size(DOCS / name)[0] for name in made}
    assert all(height > 400 for _, height in made.values())


def test_a_page_that_is_too_wide(tmp_path: Path) -> None:
    """It is refused, and named with its screen."""
    page = "<meta name=viewport content='width=device-width'><p style='width: 500px'>x"
    for place in ("", "tutorial/1-cached-function", "tutorial/2-own-cache", "tutorial/3-files"):
        (tmp_path / "site" / place).mkdir(parents=True)
        (tmp_path / "site" / place / "index.html").write_text(page, encoding="utf-8")
    ended = run(tmp_path, "--site", tmp_path / "site")
    assert ended.returncode == 1
    assert "is wider than the screen of readme-390.png" in ended.stderr
    assert len([*tmp_path.glob("*-1280.png")]) == 4
