"""`cachekit inspect`, `verify` and `purge`: what they show, what they leave alone, and what they mend."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from fcntl import flock
from pathlib import Path
from typing import Any, TextIO

import pytest
from progress_lines import without_progress
from racing import in_thread
from rich.console import Console

from cachekit import FileCache
from cachekit.cli import display, main, purge
from cachekit.cli.directory import remaining, size
from cachekit.cli.display import PlainDisplay, RichDisplay
from cachekit.testing import ManualClock
from cachekit.tiers.file.engine import check
from cachekit.tiers.file.engine import index as index_file
from cachekit.tiers.file.engine.check import Inspection
from cachekit.tiers.file.engine.control_block import Table
from cachekit.tiers.file.engine.index import map_file
from cachekit.tiers.file.engine.segments import Segments


def fill(path: Path) -> Path:
    """A directory with live, expired and invalidated entries, and one in a file of its own."""
    with FileCache(path, 1, cleanup_interval=None) as cache:
        for number in range(200):
            cache.set_value(f"user:{number}", number, ttl=3000 if number % 2 else None)
        for number in range(6):
            cache.set_value(f"dropped:{number}", number, tags={"t"})
        cache.invalidate_by_tags({"t"})
        cache.set_value("large", "x" * 100_000, tags={"t"})
        cache.set_value("line\nbreak\x1b[31m", 1)
        cache.set_value("\ud800", 1)
    with FileCache(path, 1, cleanup_interval=None, clock=ManualClock()) as cache:  # which is years behind
        for number in range(4):
            cache.set_value(f"old:{number}", number, ttl=10)
    return path


def state_of(path: Path) -> dict[str, tuple[object, ...]]:
    """Everything about every file."""
    found: dict[str, tuple[object, ...]] = {}
    for file in sorted(path.rglob("*")):
        about = file.lstat()
        content = file.read_bytes() if file.is_file() else b""
        found[str(file)] = (about.st_mtime_ns, about.st_size, about.st_mode, about.st_ino, content)
    return found


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process: status, output, errors."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(arguments)
    out.seek(0)
    return status, out.read(), err.getvalue()


def run_elsewhere(*arguments: str) -> tuple[int, str, str]:
    """Run the command in a process of its own, whose standard input says no."""
    ended = subprocess.run(
        [sys.executable, "-m", "cachekit", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        input="n\n",
    )
    return ended.returncode, ended.stdout, ended.stderr


class TestInspect:
    def test_what_it_shows(self, tmp_path: Path) -> None:
        """Entries by state, sizes, expiry, shards, keys; printable whatever the keys are."""
        status, out, err = run_elsewhere(
            "inspect", str(fill(tmp_path)), "--keys", "user:19|line|[^a-z]|large"
        )
        assert (status, without_progress(err)) == (0, "")
        assert re.search(r"live entries +203\b", out)
        assert re.search(r"invalidated by tag, not yet removed +6\b", out)
        assert re.search(r"within an hour +100\b", out)
        assert re.search(r"never +103\b", out)
        assert re.search(r"large +97\.\d KiB +for ever +1\b", out)
        assert re.search(r"user:199 +\d+ bytes +(49|50) minutes +0\b", out)
        assert "user:18 " not in out
        assert r"'line\nbreak\x1b[31m'" in out
        assert r"'\ud800'" in out
        assert "\x1b" not in out
        assert out.splitlines()[-1] == "It looks sound."

    def test_json(self, tmp_path: Path) -> None:
        """The same for programs."""
        status, out, _ = run("inspect", str(fill(tmp_path)), "--json", "--keys", "large")
        report = json.loads(out)
        assert status == 0
        assert report["entries"] == {"live": 203, "expired": 4, "invalidated": 6}
        assert report["limit"] == 1 << 20
        assert 100_000 < report["live_bytes"] < report["disk_bytes"] < 1 << 20
        assert [(one["key"], one["expires"], one["tags"]) for one in report["keys"]] == [("large", None, 1)]
        assert sum(shard["entries"] for shard in report["shards"]) == 213
        assert report["problems"] == []
        assert (report["used_by"], report["network_file_system"]) == ([], None)

    def test_it_changes_nothing(self, tmp_path: Path) -> None:
        """Not a byte, not a time, not which entries were read; nor does verify without --repair."""
        path = fill(tmp_path / "cache")
        before = state_of(path)
        for arguments in (["inspect", str(path)], ["inspect", "--json", str(path)], ["verify", str(path)]):
            assert main(arguments) == 0
            assert state_of(path) == before

    def test_it_needs_no_right_to_write(self, tmp_path: Path) -> None:
        """Every file may be read-only; and everything it opens is opened for reading."""
        path = fill(tmp_path / "cache")
        for file in path.rglob("*"):
            file.chmod(stat.S_IRUSR | (stat.S_IXUSR if file.is_dir() else 0))
        opened = []
        real = os.open

        def watching(name: str, flags: int, *more: int, dir_fd: int | None = None) -> int:
            opened.append(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            return real(name, flags, *more, dir_fd=dir_fd)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", watching)
            assert main(["inspect", str(path)]) == 0
        assert opened
        assert set(opened) == {0}

    def test_while_it_is_in_use(self, tmp_path: Path) -> None:
        """It says by whom, and disturbs no process."""
        with FileCache(fill(tmp_path), 1) as cache:
            cache.set_value("k", 1)
            assert Inspection(str(tmp_path)).users() == [os.getpid()]
            status, out, _ = run_elsewhere("inspect", str(tmp_path), "--keys", "k$")
            assert status == 0
            assert str(os.getpid()) in out
            assert cache.get_value("k") == 1

    def test_while_it_changes(self, tmp_path: Path) -> None:
        """Entries that come, go and are moved meanwhile are no damage."""
        fill(tmp_path)
        program = (
            "import sys\nfrom cachekit import FileCache\n"
            "with FileCache(sys.argv[1], 1) as cache:\n"
            "    print('ready', flush=True)\n"
            "    number = 0\n"
            "    while True:\n"
            "        number += 1\n"
            "        cache.set_value(f'new:{number % 3000}', 'x' * (number % 900))\n"
        )
        writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            for _ in range(30):
                found = Inspection(str(tmp_path))
                assert [part.problems for part in found.parts()] == [()]
                wrong = {item.state for item in found.items(verify=True)} - {"live", "expired", "invalidated"}
                assert wrong == set()
        finally:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()

    @pytest.mark.parametrize("step", ["map_file", "entries"])
    def test_what_is_replaced_between_two_looks_is_no_damage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """An index after its name was read, segments after the table was: however often in a row."""
        with FileCache(tmp_path, 1, cleanup_interval=None) as cache:
            left, inside = 0, False

            def replace() -> None:
                nonlocal left, inside
                if left and not inside:
                    left, inside = left - 1, True
                    cache.clear()  # another index
                    for number in range(100):  # and other segments, two times over
                        cache.set_value(f"k{left}:{number}", bytes(20_000))
                    inside = False

            real_map, real_entries = map_file, Table.entries

            def map_late(*arguments: Any, **more: Any) -> Any:
                replace()
                return real_map(*arguments, **more)

            def read_early(table: Table) -> Any:
                entries = real_entries(table)
                replace()
                return entries

            cache.set_value("k", bytes(20_000))
            if step == "map_file":
                monkeypatch.setattr(check, "map_file", map_late)
            else:
                monkeypatch.setattr(Table, "entries", read_early)
            found = Inspection(str(tmp_path))
            left = 5
            assert [part.problems for part in found.parts()] == [()]
            assert left < 5
            left = 0

    def test_what_moved_is_looked_at_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slot that was read before its record went is no damage."""
        with FileCache(fill(tmp_path), 1) as cache:
            load = Segments.load

            def clearing(segments: Segments, number: int, offset: int, most: int) -> object:
                monkeypatch.setattr(Segments, "load", load)
                cache.clear()
                return load(segments, number, offset, most)

            found = Inspection(str(tmp_path))
            monkeypatch.setattr(Segments, "load", clearing)
            assert list(found.items(verify=True)) == []

    def test_who_may_write_is_told(self, tmp_path: Path) -> None:
        """A directory that others can write is named as such."""
        path = fill(tmp_path / "cache")
        path.chmod(0o777)
        status, out, _ = run("inspect", str(path))
        assert status == 0
        assert f"everybody may write to {path}" in out

    def test_a_pattern_that_matches_nothing(self, tmp_path: Path) -> None:
        """It matches from the start, which is said, because keys of a script begin with its path."""
        with FileCache(tmp_path, 200) as cache:
            cache.set_value("script.slow", 1)
        _, out, _ = run("inspect", str(tmp_path), "--keys", "slow")
        assert "A key is matched from its start; write .* before what is in the middle of keys." in out
        _, found, _ = run("inspect", str(tmp_path), "--keys", ".*slow")
        assert "script.slow" in found
        assert "from its start" not in found
        assert found.count("more shards without an entry.") == 1
        shards = found.partition("Shards")[2].partition("more shards")[0]
        # The head, one row, and the number of the line below.
        assert len([line for line in shards.splitlines() if line.strip()]) == 3


def damage(path: Path) -> None:
    """A byte in the middle of the record that has a file to itself."""
    (large,) = [file for file in path.rglob("*.segment") if b"x" * 1000 in file.read_bytes()]
    with open(large, "r+b") as opened:
        opened.seek(50_000)
        opened.write(b"?")


class TestVerify:
    def test_a_sound_directory(self, tmp_path: Path) -> None:
        """Every record is read."""
        status, out, err = run("verify", str(fill(tmp_path)))
        assert (status, without_progress(err)) == (0, "")
        assert "213 records" in out
        assert "Damaged: 0." in out

    def test_damage_is_found_and_mended(self, tmp_path: Path) -> None:
        """One byte of one record; nothing else is lost."""
        path = fill(tmp_path)
        damage(path)
        assert main(["inspect", str(path)]) == 0, "at first sight it is sound"
        status, out, _ = run("verify", str(path))
        assert status == 1
        assert "Damaged: 1." in out
        assert "checksum" in out
        assert "--repair" in out
        status, out, _ = run("verify", "--repair", str(path))
        assert status == 0
        assert "1 damaged entry dropped; 0 problems left" in out
        assert run("verify", str(path))[0] == 0
        with FileCache(path, 1) as cache:
            assert cache.get_value("user:7") == 7
            assert cache.get_value("large") is None
            assert cache.get_stats().errors == 0, "the repair has dropped it, not this lookup"

    def test_a_writer_in_the_middle_of_a_change(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A shard that is being cleared has no index for a moment, which is no damage."""
        begun, goes_on = threading.Event(), threading.Event()
        create = index_file.create

        def create_late(*arguments: Any) -> None:
            begun.set()
            assert goes_on.wait(60)
            create(*arguments)

        def try_flock(descriptor: int, operation: int) -> None:
            try:
                flock(descriptor, operation)
            except BlockingIOError:
                goes_on.set()
                raise

        with FileCache(fill(tmp_path), 1, cleanup_interval=None) as cache:
            monkeypatch.setattr(index_file, "create", create_late)
            monkeypatch.setattr(check, "flock", try_flock)
            cleared = in_thread(cache.clear)
            try:
                assert begun.wait(60)
                status, out, _ = run("verify", str(tmp_path))
            finally:
                goes_on.set()
                cleared()
            assert (status, "Sound: 0 records" in out) == (0, True), out

    def test_a_damaged_index(self, tmp_path: Path) -> None:
        """Is a problem of its shard, which the repair makes again."""
        path = fill(tmp_path)
        for index in path.rglob("*.index"):
            index.write_bytes(b"nonsense")
        for command in ("inspect", "verify"):
            status, out, _ = run(command, str(path))
            assert status == 1
            assert "shard 00: its index is damaged or missing" in out
        assert run("verify", "--repair", str(path))[0] == 0
        assert run("inspect", str(path))[0] == 0

    def test_a_segment_that_is_gone(self, tmp_path: Path) -> None:
        """Its entries are damaged; the repair drops them."""
        path = fill(tmp_path)
        for segment in path.rglob("*.segment"):
            segment.unlink()
        status, out, _ = run("inspect", str(path))
        assert status == 1
        assert "is missing" in out
        assert run("verify", "--repair", str(path))[0] == 0
        assert run("verify", str(path))[1].splitlines()[-1].startswith("Sound: 0 records")


class TestPurge:
    def test_a_no_needs_no_remedy(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "cachekit", "purge", str(fill(tmp_path))]
        ended = subprocess.run(command, input=b"n\n", capture_output=True, timeout=200)
        assert (ended.returncode, ended.stderr) == (1, b"")
        assert b"Nothing was removed." in ended.stdout

    @pytest.mark.parametrize("answer", [b"", b"\xff\n", None])
    def test_no_answer_is_no(self, tmp_path: Path, answer: bytes | None) -> None:
        """An end of file, an answer that is no text, a closed stdin: nothing is removed."""
        command = [sys.executable, "-m", "cachekit", "purge", str(fill(tmp_path))]
        if answer is None:
            command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
        ended = subprocess.run(command, input=answer, capture_output=True, timeout=200)
        assert ended.returncode == 1
        assert b"Nothing was removed." in ended.stdout
        remedy = b"there is no answer to read: add --yes to purge without a question"
        if not answer:  # whether octets are text depends on the locale
            assert ended.stderr == b"cachekit: " + remedy + b"\n"

    def test_it_asks(self, tmp_path: Path) -> None:
        """And takes anything but yes for no."""
        path = fill(tmp_path)
        status, out, _ = run_elsewhere("purge", str(path))
        assert status == 1
        assert "Remove 213 entries" in out
        assert "Nothing was removed" in out
        for answer, removed in (("", False), ("no", False), ("Y", True)):
            answers = iter([answer])
            plan = purge.Plan(str(path), False)
            status = purge.run(plan, PlainDisplay(io.StringIO()), lambda _, answers=answers: next(answers))  # type: ignore[misc]
            assert status == (0 if removed else 1)
            with FileCache(path, 1) as cache:
                assert (cache.size() == 0) is removed

    def test_while_it_is_in_use(self, tmp_path: Path) -> None:
        """A process that uses it finds it empty, and trusts no copy."""
        with FileCache(tmp_path, 1) as cache:
            cache.set_value("k", 1)
            found = cache.look("k")
            assert found is not None
            assert run_elsewhere("purge", "--yes", str(tmp_path))[0] == 0
            assert cache.get_value("k") is None
            assert not found.fence.is_current()
            assert cache.set_value("k", 2)
            assert cache.get_value("k") == 2

    def test_what_cannot_be_read_is_made_again(self, tmp_path: Path) -> None:
        """The others say so, and name it."""
        path = fill(tmp_path)
        (path / "manifest").write_bytes(b"nonsense")
        for command in ("inspect", "verify"):
            status, _, err = run(command, str(path))
            assert status == 1
            assert "damaged" in err
            assert f"cachekit purge {path}" in err
        assert run("purge", "--yes", str(path))[0] == 0
        assert run("inspect", str(path))[0] == 0

    def test_what_was_half_removed_is_made_again(self, tmp_path: Path) -> None:
        """What `inspect` says helps, helps: also where the file of the users went with the rest."""
        FileCache(tmp_path, 1).close()
        (tmp_path / "users").unlink()
        (tmp_path / "manifest").write_text("damage")
        assert f"cachekit purge {tmp_path}" in run("inspect", str(tmp_path))[2]
        assert run("purge", "--yes", str(tmp_path))[0] == 0
        assert run("inspect", str(tmp_path))[0] == 0

    def test_a_manifest_of_something_else(self, tmp_path: Path) -> None:
        """Is not offered for removal."""
        (tmp_path / "manifest").write_text("mine")
        assert "it may not be a cache" in run("inspect", str(tmp_path))[2]
        assert "is not a cache directory" in run("purge", "--yes", str(tmp_path))[2]
        assert [one.name for one in tmp_path.iterdir()] == ["manifest"]


@pytest.mark.parametrize("command", ["inspect", "verify", "purge"])
def test_other_directories_are_left_alone(tmp_path: Path, command: str) -> None:
    """No directory, or no cache in it: said, and nothing is made."""
    (tmp_path / "precious").write_text("x")
    assert main([command, str(tmp_path / "none")]) == 1
    assert main([command, str(tmp_path)]) == 1
    status, out, err = run(command, str(tmp_path))
    assert (status, out) == (1, "")
    assert "is not a cache directory" in err
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("rich", [False, True])
def test_names_do_not_command_the_terminal(
    tmp_path: Path, rich: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control characters of a name are escaped in tables, lines, questions and errors."""
    path = tmp_path / "\x1b]0;PWN\x07\x7f\x9bx"
    FileCache(path, 1).close()
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return "n"

    if rich:

        def display_for(stream: TextIO) -> RichDisplay:
            return RichDisplay(Console(file=stream, highlight=False, width=300))

        monkeypatch.setattr(display, "display_for", display_for)
    (path / "manifest").rename(tmp_path / "kept")
    texts = [run("inspect", str(path))[2], run("verify", str(path / "none"))[2]]
    (tmp_path / "kept").rename(path / "manifest")
    texts += [run("inspect", str(path))[1], run("top", "--once", str(path))[1]]
    purge.run(purge.Plan(str(path), False), PlainDisplay(io.StringIO()), ask)
    with pytest.raises(SystemExit) as ended:
        run("replay", str(path))
    texts += [*asked, str(ended.value.code)]
    assert len(texts) == 6
    for text in texts:
        assert r"\x1b]0;PWN\x07\x7f\x9bx" in text
        assert not set("\x1b\x07\x7f\x9b") & set(text)


def test_one_that_cannot_be_reached_is_not_said_to_be_none(tmp_path: Path) -> None:
    """A path that may not be followed, or that leads in a circle, is named as what it is."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert run("inspect", str(tmp_path / "circle"))[2].endswith(
        "cannot be read: Too many levels of symbolic links\n"
    )
    assert "is not a cache directory" in run("inspect", str(tmp_path))[2], "the circle is below it"


@pytest.mark.parametrize("command", ["inspect", "verify", "purge"])
def test_where_programs_have_theirs_they_are_named(tmp_path: Path, command: str) -> None:
    """A user who names the directory above is told which are below; nothing happens to them."""
    for name in ("shop", "bank"):
        with FileCache(tmp_path, 1, namespace=name) as cache:
            cache.set_value("k", name)
    (tmp_path / "other").mkdir()
    status, _, err = run(command, str(tmp_path), *(["--yes"] if command == "purge" else []))
    assert status == 1
    assert err.endswith(f"; below it are {tmp_path / 'bank'}, {tmp_path / 'shop'}\n")
    with FileCache(tmp_path, 1, namespace="shop") as cache:
        assert cache.get_value("k") == "shop"


@pytest.mark.parametrize(("caches", "said"), [(20, "/c19"), (22, "/c19, and 2 more")])
def test_not_all_of_many_are_named(tmp_path: Path, caches: int, said: str) -> None:
    """Twenty are enough to see what is meant."""
    FileCache(tmp_path, 1, namespace="c00").close()
    for number in range(1, caches):
        shutil.copytree(tmp_path / "c00", tmp_path / f"c{number:02}")
    assert run("inspect", str(tmp_path))[2].rstrip().endswith(said)


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """A pattern that is none ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(["inspect", ".", "--keys", "("])
    assert ended.value.code == 2
    assert "not a valid regular expression" in capsys.readouterr().err


def test_sizes_and_times() -> None:
    """For users."""
    assert [size(n) for n in (0, 1023, 1024, 1536, 5 << 20, 3 << 40, 1 << 60)] == [
        "0 bytes", "1,023 bytes", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 TiB", "1,048,576.0 TiB",
    ]  # fmt: skip
    assert remaining(0) == "0 seconds"
    assert remaining(float("inf")) == "for ever"
