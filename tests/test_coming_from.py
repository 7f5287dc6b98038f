"""The programs in docs/coming-from.md run: those of cachekit, and the others where they are installed."""

from __future__ import annotations

import asyncio
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cachekit import IntelligentCache

PAGE = Path(__file__).parents[1] / "docs" / "coming-from.md"
SECTIONS = re.findall(
    r"^## (.+?)\n+```python\n(.*?)```\n+```python\n(.*?)```",
    PAGE.read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)


def run(program: str, name: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": name}
    exec(compile(program, f"{PAGE.name}: {name}", "exec"), names)
    if "main" in names:
        asyncio.run(names["main"]())
    return names


def test_each_section_has_two_programs() -> None:
    assert len(SECTIONS) == len(re.findall(r"^## ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == 7


@pytest.mark.parametrize(("title", "theirs", "ours"), SECTIONS, ids=[one[0] for one in SECTIONS])
def test_ours_runs(
    title: str, theirs: str, ours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(ours, "ours")
    for made in names.values():
        if isinstance(made, IntelligentCache):
            made.close()


@pytest.mark.parametrize(("title", "theirs", "ours"), SECTIONS, ids=[one[0] for one in SECTIONS])
@pytest.mark.filterwarnings("ignore")
def test_theirs_runs_as_well(
    title: str, theirs: str, ours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes the same claims about its results."""
    for module in re.findall(r"^from (\w+)", theirs, re.MULTILINE):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    monkeypatch.chdir(tmp_path)
    run(theirs, "theirs")
