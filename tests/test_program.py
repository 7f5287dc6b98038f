"""Which program a process belongs to: scripts, shells, tools, what they start, and runs of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOTAL = """
from cachekit import cache_result

def load(day): return {}

@cache_result
def total(day):
    print("working")
    return sum(load(day))

print(total("monday"))
"""

METHODS = """
import asyncio
from dataclasses import dataclass
from cachekit import cache_result

@dataclass(frozen=True)
class Client:
    rate: int

    @cache_result
    def price(self, x):
        print("price")
        return x * self.rate

    @cache_result(ignore=("self",))
    def shared(self, x):
        print("shared")
        return x

    @classmethod
    @cache_result
    def made(cls, x):
        print("made")
        return x

    @staticmethod
    @cache_result
    def free(x):
        print("free")
        return x

    @cache_result
    async def awaited(self, x):
        print("awaited")
        return x

    class Inner:
        @staticmethod
        @cache_result
        def of_inner(x):
            print("of_inner")
            return x

client = Client(2)
asyncio.run(client.awaited(1))
print([call(1) for call in (client.price, client.shared, client.made, client.free, client.Inner.of_inner)])
"""

POOLED = """
import os, subprocess, sys
from cachekit import cache_result

@cache_result
def work(n):
    return os.getpid(), n

if __name__ == "__main__":
    {start}
    print(theirs == [work(n) for n in range(4)])
"""

LIBRARY = """
import os
from cachekit import cache_result

@cache_result
def work(n):
    return os.getpid(), n
"""


def run(*arguments: str, cwd: Path, source: str | None = None, **variables: str) -> str:
    """Return what a Python process prints."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        input=source,
        capture_output=True,
        text=True,
        timeout=200,
        cwd=cwd,
        env=os.environ | variables,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def places(tmp_path: Path, *names: str) -> list[Path]:
    """Make directories."""
    made = [tmp_path / name for name in names]
    for place in made:
        place.mkdir()
    return made


class TestShells:
    def test_projects_share_no_answers(self, tmp_path: Path, subtests: pytest.Subtests) -> None:
        """Shells are told apart by the working directory, and the next shell there finds the answers."""
        first, second = places(tmp_path, "first", "second")
        code = [TOTAL.format(data) for data in ("[1, 2, 3]", "[10, 20, 30]")]
        for how, arguments in (
            ("-c", lambda source: (["-c", source], None)),
            ("-", lambda source: (["-"], source)),
        ):
            with subtests.test(how=how):
                for place, source, answer in zip((first, second), code, ("6", "60"), strict=True):
                    given, text = arguments(source)
                    variables = {"CACHEKIT_DIR": str(tmp_path / f"caches{how}")}
                    assert run(*given, cwd=place, source=text, **variables) == f"working\n{answer}\n"
                    assert run(*given, cwd=place, source=text, **variables) == f"{answer}\n"

    def test_shells_that_one_program_starts(self, tmp_path: Path) -> None:
        """They belong to that program, and their functions are still told apart by the directory."""
        first, second = places(tmp_path, "first", "second")
        assert run("-c", TOTAL.format("[1]"), cwd=first, CACHEKIT_PROGRAM="script:/x.py") == "working\n1\n"
        assert run("-c", TOTAL.format("[2]"), cwd=second, CACHEKIT_PROGRAM="script:/x.py") == "working\n2\n"

    def test_a_directory_that_was_removed(self, tmp_path: Path) -> None:
        """One warning, and memory serves alone."""
        source = "import os; os.rmdir(os.getcwd())\n" + TOTAL.format("[1]") + "print(total('monday'))"
        (place,) = places(tmp_path, "gone")
        ended = subprocess.run(
            [sys.executable, "-c", source], cwd=place, capture_output=True, text=True, timeout=200, check=True
        )
        assert ended.stdout == "working\n1\n1\n"
        assert ended.stderr.count("\n") == 1
        assert "set CACHEKIT_NAMESPACE" in ended.stderr


def test_the_next_process_finds_what_methods_returned(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """As it finds the results of functions: those of a script, and of a module."""
    (tmp_path / "script.py").write_text(METHODS)
    (tmp_path / "library.py").write_text(METHODS)
    (tmp_path / "importing.py").write_text("import library")
    for name in ("script.py", "importing.py"):
        with subtests.test(name):
            assert len(run(name, cwd=tmp_path).splitlines()) == 7
            assert run(name, cwd=tmp_path) == "[2, 1, 1, 1, 1]\n"


PROFILED = """
import dataclasses, enum
import library
from cachekit import cache_result

@dataclasses.dataclass
class Other:
    price: int

print(library.read.key(Other(1)), library.read.key(Other))

@dataclasses.dataclass
class Item:
    price: int

class Schema:
    price: int

class Kind(enum.Enum):
    SMALL = 1

@dataclasses.dataclass(order=True)
class Row:
    price: int

class Outer:
    class Inner:
        @classmethod
        @cache_result
        def made(cls):
            return 1

@cache_result
def read(value):
    return 1

for value in (Item(1), Schema, Row, Kind.SMALL, Outer.Inner, Outer.Inner.made):
    print(read.key(value))
print(Outer.Inner.made())
print(library.read.key(Row(1)), library.read.key(Row))
"""


def test_comparisons_that_are_errors(tmp_path: Path) -> None:
    """With -bb Python refuses to compare a str with bytes, which may have the same hash."""
    source = """
from cachekit import cache_result

@cache_result
def kind(x):
    return type(x).__name__

print([kind(x) for x in ("a", b"a", "a", b"a")])
print(kind.invalidate("a"), kind.invalidate(b"a"))
"""
    (tmp_path / "script.py").write_text(source)
    assert run("-bb", "script.py", cwd=tmp_path) == "['str', 'bytes', 'str', 'bytes']\nTrue True\n"


def test_a_profiler_changes_no_key(tmp_path: Path) -> None:
    """It is the main module while it runs the program, and does not have its classes."""
    (tmp_path / "script.py").write_text(PROFILED)
    (tmp_path / "library.py").write_text(
        "from cachekit import cache_result\n@cache_result\ndef read(value): return 1\n"
    )
    plain = run("script.py", cwd=tmp_path)
    assert str(tmp_path / "script.py") in plain.splitlines()[0]
    assert run("-m", "cProfile", "-o", "out", "script.py", cwd=tmp_path) == plain


def test_a_class_that_was_an_argument_while_it_was_made(tmp_path: Path) -> None:
    """It is refused then, and not any more when its module has it, under a profiler either."""
    (tmp_path / "script.py").write_text(REGISTERED)
    plain = run("script.py", cwd=tmp_path)
    assert plain.startswith("refused\n")
    assert f"<class {tmp_path / 'script.py'}.Item~" in plain
    assert run("-m", "cProfile", "-o", "out", "script.py", cwd=tmp_path) == plain


REGISTERED = """
from cachekit import KeyEncodingError, cache_result

@cache_result
def read(kind): return 1

def registered(kind):
    try:
        read(kind)
    except KeyEncodingError:
        print("refused")
    return kind

@registered
class Item: pass

print(read.key(Item))
"""


def test_scripts_that_one_console_runs(tmp_path: Path) -> None:
    """One after the other in its own main module, as `%run -i` does. Each counts by its file."""
    for name, rate in ("first", 1), ("second", 2):
        (tmp_path / f"{name}.py").write_text(f"RATE = {rate}\n{SCALED}")
    console = """
import sys, types
from pathlib import Path

main = sys.modules["__main__"] = types.ModuleType("__main__")
for name in ("first.py", "second.py"):
    main.__file__ = name
    exec(compile(Path(name).read_text(), name, "exec"), vars(main))
    del main.__file__
exec(compile("@cache_result\\ndef typed(): pass\\nprint(typed.key())", "a cell", "exec"), vars(main))
"""
    (tmp_path / "console.py").write_text(console)
    *lines, typed = run("console.py", cwd=tmp_path).splitlines()
    assert lines == ["working", "1", "working", "2"]
    assert typed.startswith(f"shell:{tmp_path}.typed@")


def test_texts_that_a_program_executes_under_one_name(tmp_path: Path) -> None:
    """Functions of plug-ins that have a file and are no modules count by that file, whatever their name."""
    for name, rate in ("first", 1), ("second", 2):
        (tmp_path / f"{name}.py").write_text(f"RATE = {rate}\n{SCALED}")
    program = """
import sys
from pathlib import Path

for name in ("first.py", "second.py"):
    exec(Path(name).read_text(), {"__name__": sys.argv[1], "__file__": name})
"""
    (tmp_path / "program.py").write_text(program)
    assert run("program.py", "plugin", cwd=tmp_path) == "working\n1\nworking\n2\n"
    assert run("program.py", "__main__", cwd=tmp_path) == "1\n2\n"


def test_a_process_without_a_main_module(tmp_path: Path) -> None:
    """Functions of its other modules are cached as ever."""
    (tmp_path / "library.py").write_text(TOTALS)
    program = "import sys\nmain = sys.modules.pop('__main__')\nimport library\nprint(library.total.key(1))"
    (tmp_path / "program.py").write_text(program)
    assert run("program.py", cwd=tmp_path).startswith("library.total@")


def test_scripts_that_another_one_runs(tmp_path: Path) -> None:
    """They are told apart by their files, as scripts are, in one process and in several."""
    for name, rate in ("first", 1), ("second", 2):
        (tmp_path / f"{name}.py").write_text(f"RATE = {rate}\n{SCALED}")
    runner = "import runpy, sys\nfor name in sys.argv[1:]: runpy.run_path(name)"
    (tmp_path / "runner.py").write_text(runner)
    assert run("runner.py", "first.py", "second.py", cwd=tmp_path) == "working\n1\nworking\n2\n"
    for name, answer in ("first.py", "1"), ("second.py", "2"):
        assert run("runner.py", name, cwd=tmp_path) == f"{answer}\n"
    # What a script has stored can be invalidated when it has ended.
    later = "import runpy\nran = runpy.run_path('first.py')\nprint(ran['of_item'].invalidate(ran['Item'](1)))"
    (tmp_path / "runner.py").write_text(later)
    assert run("runner.py", cwd=tmp_path) == "1\nTrue\n"


SCALED = """
from dataclasses import dataclass
from cachekit import cache_result

@cache_result
def scaled(number):
    print("working")
    return number * RATE

@dataclass
class Item:
    price: int

@cache_result
def of_item(item):
    return item.price

print(scaled(1))
of_item(Item(1))
"""

TOTALS = """
from cachekit import cache_result

@cache_result
def total(item):
    return item.total()
"""

PRICED = """
import threading
from dataclasses import dataclass
import library

@dataclass
class Item:
    price: int

    def total(self):
        return self.price * RATE

def show():
    print(library.total(Item(1)), library.total.key(Item(1)))

"""


def test_classes_of_scripts_that_another_one_runs(tmp_path: Path) -> None:
    """A function that they share tells their classes apart, also when the scripts have ended."""
    (tmp_path / "library.py").write_text(TOTALS)
    for name, rate in ("first", 1), ("second", 100):
        (tmp_path / f"{name}.py").write_text(f"RATE = {rate}\n{PRICED}show()\n")
    runner = """
import runpy, sys
for name in ("first.py", "second.py"):
    ran = runpy.run_path(name, run_name=sys.argv[1])
    import library
    item = ran["Item"](1)
    print(library.total(item), library.total.key(item))
"""
    (tmp_path / "runner.py").write_text(runner)
    for run_name in ("<run_path>", "__main__", "a name"):
        lines = run("runner.py", run_name, cwd=tmp_path).splitlines()
        assert lines[0] == lines[1] != lines[2] == lines[3]
        assert [line.split()[0] for line in lines] == ["1", "1", "100", "100"]
        assert f"{tmp_path / 'second.py'}.Item" in lines[3]
        assert lines[0].split()[1].startswith("library.total@")


def test_a_thread_that_outlives_the_script(tmp_path: Path) -> None:
    """Python has removed the file of the main program then. Its classes still count by that file."""
    (tmp_path / "library.py").write_text(TOTALS)
    late = "threading.Thread(target=lambda: (threading.main_thread().join(), show())).start()\n"
    for name, rate in ("first", 1), ("second", 100):
        (tmp_path / f"{name}.py").write_text(f"RATE = {rate}\n{PRICED}{late}")
        answer, key = run(f"{name}.py", cwd=tmp_path, CACHEKIT_NAMESPACE="one for both").split()
        assert answer == str(rate)
        assert f"{tmp_path / name}.py.Item" in key


NAMED = """
import multiprocessing
from typing import NewType, TypeVar
from cachekit import cache_result

Number = NewType("Number", int)
Kind = TypeVar("Kind")

class Item:
    price: Number

@cache_result
def read(x):
    return x

def show():
    print([read.key(x) for x in (Number, Kind, Item, Item.__init__)], flush=True)

if __name__ == "__main__":
    show()
    child = multiprocessing.get_context("spawn").Process(target=show)
    child.start()
    child.join()
"""


def test_a_spawned_child_names_things_as_its_parent(tmp_path: Path) -> None:
    """There, the main module has another name."""
    (tmp_path / "script.py").write_text(NAMED)
    of_parent, of_child = run("script.py", cwd=tmp_path).splitlines()
    assert of_parent == of_child


LAST = """
import sys
from cachekit import cache_result, get_default_cache

@cache_result
def last(x):
    return x

@cache_result
async def awaited(x):
    return x

class Held:
    def __del__(self, last=last, awaited=awaited):
        print("finalized", last(1), last([1]), flush=True)
        try:
            awaited(1).send(None)
        except StopIteration as ended:
            print(ended.value, flush=True)

if sys.argv[1] == "opened":
    get_default_cache()
    last(2)
held = Held()
"""


@pytest.mark.parametrize("cache", ["opened", "not opened"])
def test_a_finalizer_at_the_end_of_the_interpreter(tmp_path: Path, cache: str) -> None:
    """It may call a cached function, which runs then: nothing can be imported or opened any more."""
    (tmp_path / "script.py").write_text(LAST)
    ended = subprocess.run(
        [sys.executable, "script.py", cache], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("finalized 1 [1]\n1\n", "")


def test_a_tool_serves_projects_apart(tmp_path: Path) -> None:
    """A server that is installed runs the code of the working directory, where two modules have one name."""
    first, second = places(tmp_path, "first", "second")
    for place, data, answer in (first, "[1]", "1"), (second, "[2]", "2"):
        (place / "app.py").write_text(TOTAL.format(data))
        # A module of the standard library that runs the code of a project.
        assert run("-m", "timeit", "-n1", "-r1", "import app", cwd=place).startswith(f"working\n{answer}\n")
        assert run("-m", "timeit", "-n1", "-r1", "import app", cwd=place).startswith(f"{answer}\n")


class TestProcessesOfAProgram:
    def test_pools(self, tmp_path: Path, subtests: pytest.Subtests) -> None:
        """The workers find the answers of the program, and it theirs, also if they are called first."""
        (tmp_path / "library.py").write_text(LIBRARY)
        process = "[sys.executable, {!r}, {!r}]"
        worker = tmp_path / "worker.py"
        worker.write_text("from library import work\nprint([work(n) for n in range(4)])")
        starts = {
            method: "import multiprocessing\n"
            f"    with multiprocessing.get_context('{method}').Pool(2) as pool:\n"
            "        theirs = pool.map(work, range(4))"
            for method in ("spawn", "forkserver", "fork")
        } | {
            "loky": "import joblib\n"
            "    theirs = joblib.Parallel(2)(joblib.delayed(work)(n) for n in range(4))",
            "subprocess -c": "from library import work\n    theirs = eval(subprocess.check_output("
            + process.format("-c", worker.read_text())
            + "))",
            "subprocess of another script": "from library import work\n    theirs = eval("
            f"subprocess.check_output([sys.executable, {str(worker)!r}]))",
            "subprocess -m": "from library import work\n    theirs = eval("
            "subprocess.check_output([sys.executable, '-m', 'worker']))",
        }
        for name, start in starts.items():
            with subtests.test(name):
                script = tmp_path / f"{name.replace(' ', '_')}.py"
                script.write_text(POOLED.format(start=start))
                variables = {"PYTHONPATH": str(tmp_path), "CACHEKIT_DIR": str(tmp_path / name)}
                assert run(str(script), cwd=tmp_path, **variables) == "True\n"
                assert len(os.listdir(tmp_path / name)) == 1


class TestRunsOfTests:
    @pytest.mark.parametrize("runner", ["pytest", "unittest"])
    def test_they_leave_nothing(self, tmp_path: Path, runner: str) -> None:
        """Neither for the next run nor on the disk; explicit file tiers without a directory likewise."""
        test = tmp_path / "test_it.py"
        test.write_text(
            "import unittest\n"
            "from cachekit import FileCache, cache_result, get_default_cache\n"
            "calls = []\n"
            "@cache_result\n"
            "def f(n): calls.append(n); return n\n"
            "class TestIt(unittest.TestCase):\n"
            "    def test_it(self):\n"
            "        f(1), f(1)\n"
            "        assert calls == [1]\n"
            "        with open('path', 'w') as file: file.write(get_default_cache().file_cache.path)\n"
            "        with FileCache() as tier:\n"
            "            assert tier.get_value('k') is None\n"
            "            tier.set_value('k', 1)\n"
        )
        # As outside of these tests.
        unset = {
            name: value for name, value in os.environ.items() if not name.startswith(("CACHEKIT_", "PYTEST_"))
        } | {
            "XDG_CACHE_HOME": str(tmp_path / "home"),
            # The plugins of others take most of the time.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_PLUGINS": "cachekit.testing.pytest_switch",
        }
        for _ in range(2):
            ended = subprocess.run(
                [sys.executable, "-m", runner, "test_it.py"],
                cwd=tmp_path, env=unset, capture_output=True, text=True, timeout=200, check=False,
            )  # fmt: skip
            assert ended.returncode == 0, ended.stdout + ended.stderr
            assert not os.path.exists((tmp_path / "path").read_text())
        assert not (tmp_path / "home").exists()

    def test_a_directory_that_is_given_is_kept(self, tmp_path: Path) -> None:
        """CACHEKIT_DIR is obeyed in tests, too."""
        run("-c", TOTAL.format("[1]"), cwd=tmp_path, CACHEKIT_DIR=str(tmp_path / "given"))
        assert os.listdir(tmp_path / "given")


def test_a_user_without_a_home_directory(tmp_path: Path) -> None:
    """One warning, and memory serves alone."""
    source = (
        "import pwd\n"
        "def getpwuid(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
        "pwd.getpwuid = getpwuid\n" + TOTAL.format("[1]") + "print(total('monday'))"
    )
    homeless = {
        name: value
        for name, value in os.environ.items()
        if name not in {"HOME", "XDG_CACHE_HOME"} and not name.startswith(("CACHEKIT_", "PYTEST_"))
    }
    ended = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path, env=homeless, capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    assert ended.stdout == "working\n1\n1\n"
    assert ended.stderr.count("\n") == 1
    assert "set CACHEKIT_DIR" in ended.stderr
