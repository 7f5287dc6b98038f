"""`%%cached` in IPython, and the tables of statistics, health and explanations."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("IPython", reason="IPython is not installed")

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from cachekit import FileCache, IntelligentCache, MemoryCache, disabled, override
from cachekit.integrations.jupyter.names import names_of
from cachekit.testing import ManualClock


class Notebook:
    """A shell with the extension; a second one over the same directory is a restarted kernel."""

    def __init__(self, ipython_dir: Path) -> None:
        settings = Config()
        settings.HistoryManager.enabled = False
        self._shell = InteractiveShell(config=settings, ipython_dir=str(ipython_dir))
        self._shell.run_line_magic("load_ext", "cachekit.integrations.jupyter")
        self.space: dict[str, Any] = self._shell.user_ns
        self.runs: list[int] = []
        self.space["runs"] = self.runs

    def run(self, cell: str, line: str = "", ignore: str = "runs") -> Any:
        """Run a cell with the magic; its runs count in the list `runs`, which is no part of the key."""
        more = f" ignore={ignore}" if ignore else ""
        ran = self._shell.run_cell(f"%%cached {line}{more}\nruns.append(1)\n{cell}")
        if ran.error_in_exec is not None:
            raise ran.error_in_exec
        assert ran.error_before_exec is None, ran.error_before_exec
        return ran.result

    def table(self, value: object) -> str:
        formatted, _ = self._shell.display_formatter.format(value)
        html: str = formatted["text/html"]
        return html


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "files"])
def cache(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> Iterator[IntelligentCache]:
    files = FileCache(tmp_path / "cache", clock=clock) if request.param == "files" else None
    with IntelligentCache(MemoryCache(clock=clock), file_cache=files) as made, override(made):
        yield made


@pytest.fixture
def notebook(cache: IntelligentCache, tmp_path: Path) -> Notebook:
    return Notebook(tmp_path)


def test_a_cell_runs_once(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    """Layout and comments are not part of the key, the code is; the last expression is the result."""
    assert notebook.run("total = sum(range(10))\ntotal * 2") == 90
    del notebook.space["total"]
    assert notebook.run("total = sum( range(10) )   # again\n\ntotal*2") == 90
    assert (notebook.space["total"], notebook.runs) == (45, [1])
    assert "%%cached: total from an earlier run" in capsys.readouterr().out
    notebook.run("total = sum(range(11))")
    assert (notebook.space["total"], len(notebook.runs)) == (55, 2)


def test_what_a_cell_reads_is_part_of_the_key(notebook: Notebook) -> None:
    """Values, functions by their code, and what an earlier cell made."""
    cell = "answer = scale(data) + offset"
    notebook.space["offset"] = 1
    for body, data in (("2 * sum(x)", [1, 2]), ("2 * sum(x)", [1, 3]), ("3 * sum(x)", [1, 3])):
        notebook._shell.run_cell(f"def scale(x): return {body}")
        notebook.space["data"] = data
        for _ in range(2):
            notebook.run(cell)
    assert len(notebook.runs) == 3
    assert notebook.space["answer"] == 13
    notebook.space["data"].append(10)  # in place
    notebook.run(cell)
    assert notebook.space["answer"] == 43
    assert len(notebook.runs) == 4


def test_results_are_copies(notebook: Notebook) -> None:
    """What a later cell does to a name or to the result is not seen by the next run."""
    for _ in range(3):
        result = notebook.run("rows = [[1]]\n[[3]]")
        assert (notebook.space["rows"], result) == ([[1]], [[3]])
        notebook.space["rows"][0].append(2)
        result[0].append(4)
    assert notebook.runs == [1]


def test_the_same_cell_again(notebook: Notebook) -> None:
    """A name that the cell itself assigns first is not what it reads."""
    cell = (
        "total = 0\n"
        "for number in range(4):\n    total += number\n"
        "squares = [number**2 for number in range(3)]"
    )
    for _ in range(3):
        notebook.run(cell)
        assert (notebook.space["total"], notebook.space["squares"]) == (6, [0, 1, 4])
    assert notebook.runs == [1]


def test_imports_and_definitions_run_again(notebook: Notebook) -> None:
    cell = (
        "import math as m\nfrom json import dumps\n"
        "BASE = m.floor(2.5)\ndef up(x, by=BASE):\n    return x + by"
    )
    for _ in range(2):
        notebook.run(cell)
        assert notebook.space["up"](1) == 3
        for name in ("m", "dumps", "up", "BASE"):
            del notebook.space[name]
    assert notebook.runs == [1]


def test_the_options(notebook: Notebook, clock: ManualClock, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.run("a = 1", "ttl=2m")
    clock.advance(119)
    notebook.run("a = 1", "ttl=2m")
    clock.advance(2)
    notebook.run("a = 1", "ttl=2m")
    assert len(notebook.runs) == 2
    notebook.run("a = 1", "refresh")
    assert len(notebook.runs) == 3
    for day in ("monday", "tuesday", "monday"):
        notebook.space["day"] = day
        notebook.run("b = 1", "depends=day")
    assert len(notebook.runs) == 5
    notebook.run("c, lock = 1, lambda: 1")
    if "not stored" not in capsys.readouterr().out:  # memory alone can hold it
        assert notebook.space["lock"]() == 1
    for _ in range(2):
        notebook.run("c, lock = 2, lambda: 1", "save=c")
        assert notebook.space.pop("c") == 2
    assert len(notebook.runs) == 7


def test_a_value_that_cannot_be_part_of_a_key(notebook: Notebook) -> None:
    notebook.space["lines"] = (line for line in "ab")
    with pytest.raises(Exception, match="lines, which the cell reads, cannot be part of the key") as raised:
        notebook.run("a = [str(line) for line in lines]")
    assert "ignore=lines" in str(raised.value)
    notebook.run("a = lines", ignore="runs,lines")
    assert notebook.runs == [1]


def test_a_cell_that_fails_is_not_stored(notebook: Notebook) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            notebook.run("a = 1 / 0")
    assert len(notebook.runs) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ttl=soon", "ttl must be such as 90"),
        ("ttl=0", "ttl must be such as 90"),
        ("ttl=-5", "ttl must be such as 90"),
        ("ttl=1d ttl=2d", "'ttl=2d' is no argument"),
        ("refresh=yes", "'refresh=yes' is no argument"),
        ("depends", "'depends' is no argument"),
        ("depend=a", "'depend=a' is no argument"),
        ("depends=a.b", "depends must be names"),
        ("depends=nothing_of_this", "nothing_of_this has none"),
        ("save=nothing_of_this", "save must be names that the cell assigns"),
    ],
)
def test_wrong_options(notebook: Notebook, line: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        notebook.run("a = 1", line)


def test_await_is_refused(notebook: Notebook) -> None:
    notebook.run("async def later():\n    await 1")  # not at the top level
    with pytest.raises(Exception, match="a cell with await at its top level cannot be cached"):
        notebook._shell.run_cell("%%cached\nawait later()").raise_error()


def test_disabled(notebook: Notebook) -> None:
    notebook.run("a = 1")
    with disabled():
        notebook.run("a = 1")
    assert len(notebook.runs) == 2


def test_a_restarted_kernel(tmp_path: Path) -> None:
    """Results survive in the directory of the default cache, and a tag drops them."""
    for _ in range(2):
        notebook = Notebook(tmp_path)
        with IntelligentCache(file_cache=FileCache(tmp_path / "cache")) as cache, override(cache):
            notebook.run("import datetime\nday = datetime.date(2024, 2, 29)")
            assert str(notebook.space["day"]) == "2024-02-29"
    assert notebook.runs == []
    with IntelligentCache(file_cache=FileCache(tmp_path / "cache")) as cache, override(cache):
        cache.invalidate_by_tags({"cachekit.cells"})
        notebook.run("import datetime\nday = datetime.date(2024, 2, 29)")
    assert notebook.runs == [1]


@pytest.mark.parametrize(
    ("code", "read", "assigned"),
    [
        ("a = b", "b", "a"),
        ("a = 1; b = a", "", "a b"),
        ("a += 1", "a", "a"),
        ("a = a + 1", "a", "a"),
        ("if c:\n    a = 1\nb = a", "a c", "a b"),
        ("if c:\n    a = 1\nelse:\n    a = 2\nb = a", "c", "a b"),
        ("for i in r:\n    s = i\nt = s", "r s", "i s t"),
        ("while n:\n    n -= 1", "n", "n"),
        ("try:\n    a = f()\nexcept E as e:\n    a = e\nb = a", "E f", "a b"),
        ("with open(p) as f:\n    t = f.read()", "open p", "f t"),
        ("x = [i for i in r if i > k]", "k r", "x"),
        ("x = (y := z) + y", "y z", "x y"),
        ("any((last := i) for i in r)", "any r", "last"),
        ("f = lambda a: a + b", "b", "f"),
        ("def f(a, c=d):\n    b = 1\n    return a + b + g", "d g", ""),
        ("@deco\nclass A(B):\n    x = y", "B deco y", ""),
        ("import a.b as c\nx = c.d", "", "x"),
        ("import a.b\nx = a.d", "", "x"),
        ("df['x'] = df.y", "df", "df"),
        ("a.b.c = 1", "a", "a"),
        ("a, *b = c", "c", "a b"),
        ("del a", "a", ""),
        ("match m:\n    case [x, *y] if x > z:\n        w = x", "m z", "w x y"),
        ("def f():\n    global g\n    g = 1", "", ""),
        ("print(f'{a} {b!r:{w}}')", "a b print w", ""),
        ("a: int = b\nc: str", "b", "a"),
    ],
)
def test_names_of(code: str, read: str, assigned: str) -> None:
    names = names_of(ast.parse(code))
    assert (" ".join(sorted(names.read, key=str)), " ".join(sorted(names.assigned))) == (read, assigned)


def test_tables_are_escaped(notebook: Notebook, cache: IntelligentCache) -> None:
    """Keys and tags come from data, and a notebook may be published."""
    cache.set("a", 1, tags={"<script>alert(1)</script>"})
    for _ in range(200):
        cache.get("b")
    explained = notebook.table(cache.explain("a"))
    assert explained.startswith("<p>")
    assert "<script>" not in explained
    assert "<tr><th>misses</th><td>200</td></tr>" in notebook.table(cache.get_stats()["memory"])
    assert "<tr><th>status</th><td>warning</td></tr>" in notebook.table(cache.health())
