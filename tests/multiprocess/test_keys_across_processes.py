"""One question has one key in every process that runs the same code, and two scripts share none (P16)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

#: Functions, and arguments whose classes the main program defines; the program prints keys as JSON.
PROGRAM = """
import datetime, enum, json, multiprocessing, pathlib, sys
from dataclasses import dataclass
from typing import NamedTuple
from cachekit import cache_result

class Colour(enum.Enum):
    RED = 1

@dataclass
class Point:
    x: int
    y: int

class Pair(NamedTuple):
    x: int
    y: int

class Keyed:
    def __cache_key__(self):
        return 1

def helper(x):
    return x

@cache_result
def asked(*args, **kwargs):
    return args

@cache_result
def colours(x):
    return x in {"red", "green", "blue", "black", "white"}

class Client:
    @cache_result(ignore=("self",))
    def method(self):
        return 1

def keys():
    values = [
        1, "a", b"a", 1.5, None, Colour.RED, Point(1, 2), Pair(1, 2), Keyed(), helper, Point, len,
        {"b": 1, "a": {"x", "y", "z"}}, frozenset({"p", "q", "r"}), pathlib.Path("x"),
        datetime.datetime(2024, 1, 1), [Colour.RED, (Point(1, 2), {Colour.RED: helper})], "long" * 1000,
    ]
    return [asked.key(*values), colours.key(1), Client.method.key(Client()), *map(asked.key, values)]

def send(queue):
    queue.put(keys())

def main():
    found = {"parent": keys()}
    for method in sys.argv[1:]:
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        child = context.Process(target=send, args=(queue,))
        child.start()
        found[method] = queue.get()
        child.join()
    print(json.dumps(found))

if __name__ == "__main__":
    main()
"""
METHODS = ["spawn", *(["fork", "forkserver"] if hasattr(os, "fork") else [])]


def run(*command: str | Path, cwd: Path, **environment: str) -> Any:
    ran = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the program as a script, as a module of a package, and as a directory to run."""
    for path in ("script.py", "pkg/mod.py", "pkg/__main__.py", "app/__main__.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(PROGRAM)
    (tmp_path / "pkg/__init__.py").touch()
    return tmp_path


class TestChildren:
    def test_of_a_script(self, place: Path) -> None:
        """Parent, forked and spawned children agree, also on what the main program defines."""
        found = run("script.py", *METHODS, cwd=place)
        assert set(found) == {"parent", *METHODS}
        for method in METHODS:
            assert found["parent"] == found[method]
        assert found["parent"][1].startswith(f"{place / 'script.py'}.colours@")
        assert len(set(found["parent"])) == len(found["parent"])

    def test_of_a_module(self, place: Path) -> None:
        """With `python -m` too; and the key is that of the module imported under its name."""
        found = run("-m", "pkg.mod", *METHODS, cwd=place)
        for method in METHODS:
            assert found["parent"] == found[method]
        assert found["parent"][1].startswith("pkg.mod.colours@")
        imported = run("-c", "import json, pkg.mod; print(json.dumps(pkg.mod.keys()))", cwd=place)
        assert found["parent"] == imported

    def test_of_a_package(self, place: Path) -> None:
        """`python -m pkg` is its `__main__` module; Python does not spawn what that defines."""
        (first, *_) = run("-m", "pkg", cwd=place)["parent"]
        assert first.startswith("pkg.__main__.asked@")

    def test_of_a_directory_or_an_archive(self, place: Path) -> None:
        """A directory or a zip file that is run is its file, not just `__main__`."""
        with zipfile.ZipFile(place / "app.pyz", "w") as archive:
            archive.writestr("__main__.py", PROGRAM)
        for program in ("app", "app.pyz"):
            (first, *_) = run(program, cwd=place)["parent"]
            assert first.startswith(f"{place / program / '__main__.py'}.asked@")

    def test_under_a_profiler(self, place: Path) -> None:
        """A tool that runs the script in its own `__main__` does not lend it its name."""
        (place / "small.py").write_text(BEFORE)
        command = [sys.executable, "-m", "cProfile", "small.py"]
        ran = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
        assert run("small.py", cwd=place) == json.loads(ran.stdout.splitlines()[0])


class TestRuns:
    def test_hash_seeds(self, place: Path) -> None:
        """Keys do not hang on the hash seed."""
        keys = [run("script.py", cwd=place, PYTHONHASHSEED=seed) for seed in ("0", "1", "2", "random")]
        assert all(one == keys[0] for one in keys)

    def test_paths_to_one_script(self, place: Path) -> None:
        """However the script is named on the command line, it is one script."""
        (place / "link.py").symlink_to(place / "script.py")
        expected = run("script.py", cwd=place)
        for path in (place / "script.py", "./pkg/../script.py", "link.py"):
            assert expected == run(path, cwd=place)
        assert expected == run("../script.py", cwd=place / "pkg")

    def test_two_scripts(self, place: Path) -> None:
        """Two scripts with a function of one name, even with the same code, share no key."""
        (place / "other.py").write_text(PROGRAM)
        one, other = run("script.py", cwd=place)["parent"], run("other.py", cwd=place)["parent"]
        assert set(one).isdisjoint(other)


BEFORE = '''
import json
from cachekit import cache_result

@cache_result
def f(x):
    """Say what x is."""
    return [str(item) for item in (x, 1) if item in {1, 2, 3}]

print(json.dumps(f.key(1)))
'''


class TestEdits:
    @pytest.mark.parametrize(
        ("before", "after"),
        [("x, 1)", "x, 2)"), ("str(", "repr("), ("{1, 2, 3}", "{1, 2, 4}"), ("return [", "return x and [")],
    )
    def test_of_the_function(self, tmp_path: Path, before: str, after: str) -> None:
        """Between two runs, an edit of the function's code gives its answers new keys."""
        script = tmp_path / "script.py"
        script.write_text(BEFORE)
        old = run(script, cwd=tmp_path)
        script.write_text(BEFORE.replace(before, after))
        assert old != run(script, cwd=tmp_path)

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("    return", "    # a comment\n\n    return"),
            ("    return", "\n\n\n    return"),
            ("import json", "import json\n\n\nHELPER = 1\n\n\ndef g(): ...\n"),
        ],
        ids=["comment", "blank lines", "elsewhere"],
    )
    def test_around_the_function(self, tmp_path: Path, before: str, after: str) -> None:
        """Comments, blank lines, and the rest of the file are no part of the question."""
        script = tmp_path / "script.py"
        script.write_text(BEFORE)
        old = run(script, cwd=tmp_path)
        script.write_text(BEFORE.replace(before, after))
        assert old == run(script, cwd=tmp_path)
