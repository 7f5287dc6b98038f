"""The code of the documentation runs: of each page, all blocks in their order, as one program."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

#: Pages with tests of their own, beside the tutorial: programs of peers, an agent with its services, and the
#: shop of README, whose code is in examples/readme.py.
ELSEWHERE = {"agents.md": "aio/test_agents_page.py", "coming-from.md": "test_coming_from.py",
             "caches.md": "test_examples.py"}  # fmt: skip
#: What a page of explanations leaves to its reader. The pages of the other parts run as they stand.
BEFORE = {
    "decorator.md": """
import functools, math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar, cast
import pytest
P, T = ParamSpec("P"), TypeVar("T")
class Model:
    def __cache_key__(self): return "one"
    def predict(self, row): return 1
model = Model()
""",
}
#: What a page needs beside the extra `test`.
NEEDS = {"dynamodb.md": "boto3"}
#: A minute, in which a machine is qualified, is more than a test has.
INSTEAD = {"seconds=60": "seconds=1"}

# Runs the programs of some pages, each with names of its own; the default cache is that of all.
RUN = """
import contextlib, json, os, sys, traceback
for name, program in json.load(sys.stdin).items():
    os.makedirs(name, exist_ok=True)
    os.chdir(name)
    names = {"__name__": name.replace(".", "_")}
    try:
        with open("printed", "w") as printed, contextlib.redirect_stdout(printed):
            exec(compile(program, name, "exec"), names)
    except BaseException:
        print(name, traceback.format_exc(), sep="\\n")
    os.chdir("..")
"""


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def nav(part: str) -> list[str]:
    """The pages of a part of the site, without those that lie outside docs/."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = settings.partition(f"\n  - {part}:\n")[2]
    (pages,) = re.findall(r"\A((?:      - .*\n)+)", listed)
    return [name for name in re.findall(r"(\S+\.md)$", pages, re.MULTILINE) if (DOCS / name).exists()]


def test_each_page_begins_with_a_program() -> None:
    """Those of the tutorial, of tasks and of the reference; a few pages have nothing to run."""
    begun = {
        name: (DOCS / name).read_text(encoding="utf-8").partition("```")[2].startswith("python\n")
        for part in ("Tutorial", "How-to", "Reference")
        for name in nav(part)
    }
    assert len(begun) > 30
    assert [name for name, begins in begun.items() if not begins] == ["exceptions.md", "benchmarks.md"]


def test_the_blocks_run(tmp_path: Path) -> None:
    """In an empty directory and home, then again there; with a secret, as the pages about servers ask for."""
    for module in ("prometheus_client", "pymemcache"):
        pytest.importorskip(module)
    programs = {}
    for page in sorted({*DOCS.glob("*.md"), *(DOCS / "reference").glob("*.md")}):
        is_left_out = page.name in NEEDS and find_spec(NEEDS[page.name]) is None
        code = [] if is_left_out or page.name in ELSEWHERE else blocks(page)
        if code:
            program = "\n".join([BEFORE.get(page.name, ""), *code])
            for given, instead in INSTEAD.items():
                program = program.replace(given, instead)
            programs["_".join(page.relative_to(DOCS).parts)] = program
    assert len(programs) > 20
    variables = {
        **os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache"),
        "CACHEKIT_DIR": str(tmp_path / "caches"), "CACHEKIT_SECRET": "0123456789abcdef" * 2,
    }  # fmt: skip
    for _ in range(2):  # the second run finds what the first one has left in the caches
        ended = subprocess.run(
            [sys.executable, "-c", RUN],
            input=json.dumps(programs), cwd=tmp_path, env=variables,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stdout, ended.stdout
    commented = re.findall(r"^print\(.*\)\n# (.*)$", programs["explanations.md"], re.MULTILINE)
    printed = (tmp_path / "explanations.md" / "printed").read_text(encoding="utf-8").splitlines()
    assert list(map(without_names_and_times, printed)) == list(map(without_names_and_times, commented))
    assert len(printed) > 2


def without_names_and_times(line: str) -> str:
    """Return a line without the module, the digests and the seconds, which differ from run to run."""
    return re.sub(r"^\S+\.|#[0-9a-f]+|\d+\.\d s", "", line)
