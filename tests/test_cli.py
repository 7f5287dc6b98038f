"""The command line: what the demo shows, with and without rich, and what wrong arguments are told."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from progress_lines import without_progress

import cachekit
from cachekit.cli import demo_work, main
from cachekit.cli.display import PlainDisplay, RichDisplay, display_for

SMALL = ("--modules", "2", "--requests", "60", "--threads", "3", "--processes", "1")
#: Where no figure is looked at.
SMALLEST = ("--modules", "1", "--requests", "20", "--threads", "2", "--processes", "1")
WITHOUT_RICH = "import sys; sys.modules['rich'] = None; from cachekit.cli import main; sys.exit(main())"
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with its output in pipes."""
    return subprocess.run(
        [*_command(code), *arguments], capture_output=True, text=True, timeout=200, env=_environment()
    )


def run_in_terminal(*arguments: str, code: str | None = None) -> tuple[int, str]:
    """Run the command on a terminal; its status, and what the terminal was sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*_command(code), *arguments],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env=_environment() | {"TERM": "xterm-256color", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(theirs)
    received = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end was closed
            break
        if not chunk:
            break
        received += chunk
    os.close(ours)
    return process.wait(), received.decode().replace("\r\n", "\n")


def _command(code: str | None) -> Sequence[str]:
    return (sys.executable, "-c", code) if code else (sys.executable, "-m", "cachekit")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "CACHEKIT_DISABLE"}


def table(text: str, title: str) -> list[list[str]]:
    """The rows of a plain table, its header first, as cells."""
    lines = text.splitlines()
    rows = lines[lines.index(title) + 1 :]
    cells = []
    for row in rows:
        if not row.startswith("  "):
            break
        cells.append(re.split(r"\s{2,}", row.strip()))
    return cells


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.CompletedProcess[str]]:
    """The demo, run once, with its output in pipes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHEKIT_DIR", str(tmp_path_factory.mktemp("demo")))
        yield run("demo", *SMALL)


class TestDemo:
    def test_each_module_is_loaded_once_and_new_processes_load_nothing(
        self, ended: subprocess.CompletedProcess[str]
    ) -> None:
        """One load per module in the cold pass; the processes after it find all of it on the disk."""
        assert (ended.returncode, without_progress(ended.stderr)) == (0, "")
        header, cold, warm = table(ended.stdout, "What the cache did")
        assert header == ["requests", "memory", "file", "loads", "took", "saved", "p50", "p99"]
        assert cold[:2] == ["cold", "60"]
        assert cold[4] == "2"
        assert warm[:2] == ["restart", "60"]
        assert int(warm[3]) > 0
        assert warm[4] == "0"
        assert "2 modules requested, 2 loads in all: one per key." in ended.stdout

    @pytest.mark.soak
    def test_another_host_is_served_by_the_first_ones_work(self, redis_url: str) -> None:
        """Processes with a directory of their own, and the same server, load nothing either."""
        ended = run("demo", *SMALLEST, "--redis", redis_url)
        assert (ended.returncode, without_progress(ended.stderr)) == (0, "")
        header, _, _, other = table(ended.stdout, "What the cache did")
        assert header[1:4] == ["memory", "redis", "file"]
        assert other[:2] == ["other host", "20"]
        assert int(other[3]) > 0
        assert other[4:6] == ["0", "0"]

    def test_a_server_that_is_not_there(self) -> None:
        """It is said before anything is begun, with the address."""
        ended = run("demo", *SMALL, "--redis", "redis://127.0.0.1:1/")
        assert ended.returncode == 1
        assert ended.stderr.startswith("cachekit demo: ")
        assert "127.0.0.1:1" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_it_finds_something_out(self, ended: subprocess.CompletedProcess[str]) -> None:
        """It names real functions of the standard library, the most complex one first."""
        header, *functions = table(ended.stdout, "The most complex functions among them")
        assert header == ["function", "complexity", "lines"]
        complexities = [int(complexity) for _, complexity, _ in functions]
        assert complexities == sorted(complexities, reverse=True)
        assert complexities[-1] > 1

    def test_the_same_seed_asks_the_same(self) -> None:
        """The stream of requests depends on nothing but the arguments."""
        sources = ["a.py", "b.py", "c.py"]
        assert demo_work.request_stream(sources, 50, 7) == demo_work.request_stream(sources, 50, 7)
        assert demo_work.request_stream(sources, 50, 7) != demo_work.request_stream(sources, 50, 8)

    def test_requests_are_skewed(self) -> None:
        """A few modules get most of the requests."""
        sources = [f"{number}.py" for number in range(100)]
        asked = [source for _, source in demo_work.request_stream(sources, 10_000, 1)]
        counts = sorted((asked.count(source) for source in sources), reverse=True)
        assert sum(counts[:10]) > 5_000

    def test_output_that_is_no_terminal_is_plain(self, ended: subprocess.CompletedProcess[str]) -> None:
        """A pipe gets ASCII lines without control sequences, and no more than a screen of them."""
        assert ended.stdout.isascii()
        assert "\x1b" not in ended.stdout
        assert len(ended.stdout.splitlines()) <= 30
        assert max(map(len, ended.stdout.splitlines())) <= 80

    def test_a_terminal_gets_colour_and_a_bar(self) -> None:
        """With rich on a terminal of 80 columns, no figure of the table is cut short."""
        pytest.importorskip("rich")
        status, sent = run_in_terminal("demo", *SMALLEST)
        assert status == 0
        assert COLOUR.search(sent)
        assert "━" in sent
        closing = COLOUR.sub("", sent).partition("What the cache did")[2]
        assert "…" not in closing
        assert "1 module requested, 1 load in all: one per key." in closing

    def test_without_rich_a_terminal_gets_the_lines_of_a_pipe(
        self, ended: subprocess.CompletedProcess[str]
    ) -> None:
        """The demo needs nothing that is not installed with cachekit, and rich changes only the looks."""
        status, sent = run_in_terminal("demo", *SMALL, code=WITHOUT_RICH)
        title = "The most complex functions among them"
        assert status == 0
        assert "\x1b" not in sent
        assert "one per key" in sent
        assert table(sent, title) == table(ended.stdout, title)

    def test_more_modules_than_there_are_is_all_of_them(self) -> None:
        """The number of modules is a limit, as Pythons differ in what they bring."""
        sources = demo_work.library_sources()
        assert len(sources[:1_000_000]) == len(sources) > 50

    @pytest.mark.soak
    def test_a_second_load_of_a_module_is_reported(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The demo does not claim one load per key when that did not happen."""
        forgetful = cachekit.cache_result(store_if=lambda _: False)(demo_work.analyse.__wrapped__)
        monkeypatch.setattr(demo_work, "analyse", forgetful)
        assert main(["demo", *SMALLEST]) == 1
        assert re.search(r"1 module requested, but \d+ loads made!", capsys.readouterr().out)

    def test_disabled_caching_is_refused(self) -> None:
        """With caching switched off there is nothing to show, and it says so."""
        with cachekit.disabled(), pytest.raises(SystemExit, match="CACHEKIT_DISABLE"):
            main(["demo", *SMALL])

    def test_a_python_without_sources_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
    ) -> None:
        """A Python that came without the library's source is told so, with the place."""
        monkeypatch.setattr(demo_work, "_STDLIB", tmp_path)
        with pytest.raises(SystemExit, match="no source of the standard library in"):
            main(["demo", *SMALL])

    def test_a_process_that_dies_ends_it(self) -> None:
        """However early it is killed: with one line, and not in waiting for it."""
        process = subprocess.Popen(
            [*_command(None), "demo", "--modules", "1", "--requests", "100000", "--processes", "2"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(),
        )  # fmt: skip
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            process.kill()
            process.communicate()
            pytest.skip("this system does not tell a process's children")
        deadline = time.monotonic() + 60
        spawned: list[int] = []
        while not spawned and process.poll() is None and time.monotonic() < deadline:
            for child in map(int, children.read_text().split()):
                with contextlib.suppress(OSError):
                    if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                        spawned.append(child)
            time.sleep(0.001)  # between two looks
        os.kill(spawned[0], signal.SIGKILL)
        _, complaint = process.communicate(timeout=200)
        assert (process.returncode, without_progress(complaint)) == (
            1,
            "cachekit demo: one of its processes died\n",
        )

    @pytest.mark.soak
    def test_interrupting_it_is_no_traceback(self) -> None:
        """Ctrl-C ends all threads, with one word and the status that shells expect."""
        process = subprocess.Popen(
            [*_command(None), "demo", "--modules", "1", "--requests", "1000000"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(),
        )  # fmt: skip
        assert process.stdout is not None
        assert "questions about" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=200)
        assert (process.returncode, without_progress(complaint)) == (130, "interrupted\n")

    @pytest.mark.parametrize("moment", ["cold ", "restart "])
    def test_sigterm_leaves_nothing_behind(self, tmp_path: Path, moment: str) -> None:
        """Neither directories nor processes; the exit status is that of SIGTERM."""
        arguments = ["--modules", "40", "--requests", "200000" if moment == "restart " else "1000"]
        process = subprocess.Popen(
            [*_command(None), "demo", *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=_environment() | {"TMPDIR": str(tmp_path)},
        )  # fmt: skip
        assert process.stderr is not None
        while not process.stderr.readline().startswith(moment):
            pass
        assert list(tmp_path.iterdir()), "it is at work"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # as `timeout` does
        # Children have the pipe as well: its end is the end of all.
        assert "Traceback" not in process.communicate(timeout=200)[1]
        assert process.returncode == -signal.SIGTERM
        assert list(tmp_path.iterdir()) == []

    def test_a_reader_that_leaves_is_no_error(self) -> None:
        """`cachekit demo | head -1` ends quietly."""
        process = subprocess.Popen(
            [*_command(None), "demo", *SMALLEST],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(),
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
        process.stderr.close()
        assert (process.wait(50), complaint) == (0, "")

    def test_durations_have_a_unit_that_suits_them(self, subtests: pytest.Subtests) -> None:
        """From parts of a microsecond to minutes."""
        rows: list[tuple[float, str]] = [
            (0.0, "0.0 us"),
            (4e-7, "0.4 us"),
            (2.5e-6, "2.5 us"),
            (0.0125, "12.5 ms"),
            (3.25, "3.2 s"),
            (414.0, "6.9 min"),
        ]
        for seconds, text in rows:
            with subtests.test(seconds=seconds):
                assert demo_work.duration(seconds) == text


class TestArguments:
    def test_a_wrong_argument_is_told_what_would_be_right(
        self, subtests: pytest.Subtests, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Status 2, the usage, and a message that names the argument."""
        rows: list[tuple[tuple[str, ...], str]] = [
            ((), "the following arguments are required: COMMAND"),
            (("fly",), "invalid choice: 'fly'"),
            (("demo", "--modules", "0"), "argument --modules: must be at least 1, not 0"),
            (("demo", "--requests", "-5"), "argument --requests: must be at least 1, not -5"),
            (("demo", "--threads", "many"), "argument --threads: must be a whole number, not 'many'"),
            (("demo", "--processes", "0"), "argument --processes: must be at least 1, not 0"),
            (("demo", "--threads", "1000"), "argument --threads: must be at most 256, not 1000"),
            (("demo", "--seed", "1.5"), "argument --seed: must be a whole number, not '1.5'"),
            (("demo", "--speed", "1"), "unrecognized arguments: --speed 1"),
        ]
        for arguments, complaint in rows:
            with subtests.test(arguments=arguments):
                with pytest.raises(SystemExit) as ended:
                    main(arguments)
                assert ended.value.code == 2
                said = capsys.readouterr()
                assert said.out == ""
                assert complaint in said.err
                assert "usage: cachekit" in said.err

    def test_an_argument_that_is_wrong_whatever_is_there(
        self, subtests: pytest.Subtests, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Status 2 and one line, also where a command finds out by itself."""
        url, other = "redis://host:port", "http://host"
        rows: list[tuple[tuple[str, ...], str]] = [
            (("demo", "--redis", "foo"), "argument --redis: url must begin with redis://"),
            (("demo", "--redis", other), "argument --redis: url must begin with redis://"),
            (("demo", "--redis", url), "argument --redis: the port of url must be a number"),
            *[((name, other), "must be a path, not the URL") for name in ("inspect", "verify", "purge")],
            *[((name, ""), "must not be empty; write . for") for name in ("inspect", "verify", "top")],
            (("purge", "--yes", ""), "must not be empty; write . for the current directory"),
            (("verify", "--repair", ""), "must not be empty; write . for the current directory"),
            (("verify", "--repair", other), "must be a path, not the URL"),
            *[((name, other), "must be a path, not the URL") for name in ("top", "metrics", "dashboard")],
            *[((name, url), "the port of url must be") for name in ("top", "metrics", "dashboard")],
            *[
                ((name, str(tmp_path), "--prefix", "x"), "--prefix names caches on a server")
                for name in ("top", "metrics", "dashboard")
            ],
            (("dashboard", "--host", "0.0.0.0"), "or add --insecure-bind"),
            (("metrics", "--grafana", "--alerts"), "--alerts: not allowed with argument --grafana"),
        ]
        for arguments, complaint in rows:
            with subtests.test(arguments=arguments):
                pytest.importorskip("uvicorn")
                pytest.importorskip("prometheus_client")
                try:
                    status: object = main(arguments)
                except SystemExit as ended:
                    status = ended.code
                said = capsys.readouterr()
                assert (status, said.out) == (2, "")
                assert complaint in said.err

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`cachekit --version` is that of the package."""
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"cachekit {cachekit.__version__}\n"

    def test_help_names_the_commands(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`cachekit --help` says what there is."""
        with pytest.raises(SystemExit) as ended:
            main(["--help"])
        assert ended.value.code == 0
        assert "demo" in capsys.readouterr().out


class TestDisplay:
    def test_a_file_gets_plain_lines(self) -> None:
        """What is no terminal is written to without rich, whether or not that is installed."""
        assert isinstance(display_for(io.StringIO()), PlainDisplay)

    def test_a_dumb_terminal_gets_plain_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An editor's shell window cannot move a bar."""
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(display_for(_Terminal()), PlainDisplay)

    def test_a_terminal_gets_rich(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where it can move, it does."""
        pytest.importorskip("rich")
        monkeypatch.setenv("TERM", "xterm")
        assert isinstance(display_for(_Terminal()), RichDisplay)

    def test_plain_progress_is_a_line_per_quarter(self) -> None:
        """However often it is told, each quarter is one line."""
        stream = io.StringIO()
        with PlainDisplay(stream).progress("cold", 8, "things") as report:
            for done in (0, 1, 2, 2, 3, 7, 8, 8):
                report(done)
        shares = [line.split()[1] for line in stream.getvalue().splitlines()]
        assert shares == ["25", "75", "100"]

    def test_progress_is_no_part_of_the_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What reads the output of a command would take it for a result."""
        display = display_for(sys.stdout)
        with display.progress("cold", 1, "things") as report:
            report(1)
        display.line("result")
        said = capsys.readouterr()
        assert said.out == "result\n"
        assert said.err.startswith("cold  100 %")

    def test_progress_without_stderr(self) -> None:
        """It is dropped, as other output without a destination."""
        command = [sys.executable, "-m", "cachekit", "replay", "-", "--sizes", "1"]
        closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
        ended = subprocess.run(closed, input=b"a\na\n", stdout=subprocess.PIPE, timeout=200)
        assert ended.returncode == 0
        assert b"100 %" not in ended.stdout
        assert b"Advice" in ended.stdout

    def test_a_plain_table_is_aligned(self) -> None:
        """Text to the left, figures to the right."""
        stream = io.StringIO()
        PlainDisplay(stream).table("Fruit", ("name", "number"), [("apple", "5"), ("fig", "1,000")])
        assert stream.getvalue().splitlines() == [
            "Fruit",
            "  name   number",
            "  apple       5",
            "  fig     1,000",
        ]

    def test_a_narrow_terminal_gets_every_figure(self) -> None:
        """Lines run over rather than lose their ends; text stands as it is."""
        console = pytest.importorskip("rich.console")
        stream = _Terminal()
        display = RichDisplay(console.Console(file=stream, width=20, force_terminal=True))
        display.table("Fruit", ("name", "number", "weight"), [("pomegranate", "1,000,000", "12.5 KiB")])
        display.line("look into /a/directory/named/:cat:/[bold]/ for it")
        sent = COLOUR.sub("", stream.getvalue())
        assert "pomegranate  1,000,000  12.5 KiB" in sent
        assert "look into /a/directory/named/:cat:/[bold]/ for it\n" in sent


class TestOutput:
    """Where the output goes may be closed, full, or know few characters."""

    def test_none_at_all(self, tmp_path: Path) -> None:
        """A closed stdout, as some supervisors give: the work is done, and the status says how."""
        (tmp_path / "log").write_text("a\na\n")
        ended = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *_command(None), "replay", str(tmp_path / "log")],
            stderr=subprocess.PIPE, text=True, timeout=200,
        )  # fmt: skip
        assert (ended.returncode, without_progress(ended.stderr)) == (0, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
    def test_no_room(self, tmp_path: Path) -> None:
        """It is said, in one line, and is a failure."""
        with cachekit.FileCache(tmp_path, 1):
            pass
        for name, *more in (["inspect"], ["inspect", "--json"], ["top", "--once"]):
            with open("/dev/full", "w") as full:
                ended = subprocess.run(
                    [*_command(None), name, str(tmp_path), *more],
                    stdout=full, stderr=subprocess.PIPE, text=True, timeout=200,
                )  # fmt: skip
            assert ended.returncode == 1
            assert without_progress(ended.stderr) == f"cachekit {name}: [Errno 28] No space left on device\n"

    def test_a_reader_that_leaves(self, tmp_path: Path) -> None:
        """That is no error of any command, however short its output, and of none while it reads a log."""
        (tmp_path / "log").write_text("a\na\n")
        with cachekit.FileCache(tmp_path / "cache", 1):
            pass
        for arguments in (["replay", "log"], ["inspect", "cache", "--json"], ["verify", "cache"]):
            read, write = os.pipe()
            os.close(read)
            ended = subprocess.run(
                [*_command(None), *arguments],
                cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=200,
            )  # fmt: skip
            os.close(write)
            assert (ended.returncode, without_progress(ended.stderr)) == (0, "")

    def test_characters_that_it_does_not_have(self, tmp_path: Path) -> None:
        """They are escaped, in keys and in paths."""
        directory = os.fsdecode(os.fsencode(tmp_path) + b"/d\xff")
        with cachekit.FileCache(directory, 1) as cache:
            cache.set_value("\N{SNOWMAN}", 1)
        for encoding, key in (("ascii", r"\u2603"), ("utf-8", "\N{SNOWMAN}")):
            ended = subprocess.run(
                [*_command(None), "inspect", directory, "--keys", "."],
                capture_output=True, timeout=200, env=_environment() | {"PYTHONIOENCODING": encoding},
            )  # fmt: skip
            assert (ended.returncode, without_progress(ended.stderr.decode())) == (0, "")
            assert key in ended.stdout.decode()
            assert r"/d\udcff" in ended.stdout.decode()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "url", ["redis:/:hunter2@h", "redis//:hunter2@h", "redis://app:hunter2/0", "redis://h#hunter2"]
)
def test_a_mistyped_url_is_not_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A password is in no line, also where it cannot be told from a path or a port."""
    for command in (["inspect", url], ["purge", url], ["replay", url], ["cassette", "show", url]):
        try:
            status: object = main(command)
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr().err
        assert (status, "hunter2" in said) == (2, False)
        assert "not the URL" in said


def test_no_login_is_shown(
    subtests: pytest.Subtests, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL in the place of a path is refused, and its password is in no line."""
    url = "redis://app:hunter2@cache:6379/0"
    commands = [
        ["inspect", url], ["verify", url], ["purge", url], ["doctor", "--dir", url],
        ["top", "--once", f"x{url}"], ["replay", url], ["cassette", "show", url],
        ["cassette", "prune", url], ["metrics", f"x{url}"],
        ["dashboard", f"x{url}"], ["demo", url], [url], ["top", "--interval", url],
    ]  # fmt: skip
    for command in commands:
        with subtests.test(command=command):
            with contextlib.suppress(SystemExit):
                assert main(command) in (1, 2)
            said = capsys.readouterr()
            assert said.out + said.err
            assert "hunter2" not in said.out + said.err
    monkeypatch.setenv("CACHEKIT_NAMESPACE", url)
    monkeypatch.setenv("CACHEKIT_DISABLE", url)
    main(["doctor"])
    assert "hunter2" not in capsys.readouterr().out
