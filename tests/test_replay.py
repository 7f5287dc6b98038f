"""`cachekit replay`: what it reads, what it counts, what it advises, and what wrong input is told."""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from naive_policies import NAIVE
from progress_lines import without_progress
from traces import made_up

from cachekit import CacheStrategy
from cachekit.cli import main, replay, requests, simulation
from cachekit.cli.display import PlainDisplay
from cachekit.cli.replay import NAMES, Plan, advice
from cachekit.cli.simulation import OPTIMUM, Curves
from cachekit.tiers.file.engine.file_ops import FileOps

_FLIPPED = bytearray(gzip.compress(b"".join(b"%d\n" % (number * number) for number in range(5000)), mtime=0))
for _at in range(100, 140):
    _FLIPPED[_at] ^= 0x5A


def shown(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints."""
    assert main(["replay", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def table(text: str) -> dict[str, list[str]]:
    """The rows of the table, by their first cell; the sizes under an empty one."""
    lines = text.split("(* is the best policy)\n")[1].split("\n\n")[0].splitlines()
    rows = [re.split(r"\s+", line.strip()) for line in lines if line.startswith("  ")]
    return {"": rows[0], **{row[0]: row[1:] for row in rows[1:]}}


def keys_of(path: Path, column: str | None = None) -> list[int]:
    return list(requests.read_log(path, column, lambda done: None))


def optimum(keys: Sequence[str], capacity: int) -> int:
    """Belady's, by searching for each next use."""
    held: set[str] = set()
    hits = 0
    for index, key in enumerate(keys):
        if key in held:
            hits += 1
            continue
        if len(held) == capacity:
            rest = keys[index + 1 :]
            held.remove(max(held, key=lambda one: rest.index(one) if one in rest else len(keys)))
        held.add(key)
    return hits


class TestLogs:
    """Every format gives the same stream for the same keys."""

    KEYS = ("a", "b", "a", "c,d", "\N{LATIN SMALL LETTER U WITH DIAERESIS}", "a")

    def test_lines(self, tmp_path: Path) -> None:
        """One key a line, whatever ends it; empty lines are no requests; gzip is recognised by content."""
        plain, windows, packed = tmp_path / "log", tmp_path / "log.txt", tmp_path / "log.gz"
        plain.write_text("\n".join(self.KEYS) + "\n\n")
        windows.write_bytes("\r\n".join(self.KEYS).encode())
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        keys = keys_of(plain)
        assert [keys.index(key) for key in keys] == [0, 1, 0, 3, 4, 0]
        assert keys_of(windows) == keys_of(packed) == keys

    def test_csv(self, tmp_path: Path) -> None:
        """A column by the name in the first line, or by number; quotes are understood."""
        named, bare, lines = tmp_path / "named.csv", tmp_path / "bare.csv.gz", tmp_path / "log"
        rows = [f'{number},"{key}"' for number, key in enumerate(self.KEYS)]
        named.write_text("\n".join(["time,key", *rows]))
        bare.write_bytes(gzip.compress("\n".join(rows).encode()))
        lines.write_text("\n".join(self.KEYS))
        assert keys_of(named, "key") == keys_of(bare, "2") == keys_of(lines)

    @pytest.mark.parametrize("packed", [False, True])
    def test_numbers(self, tmp_path: Path, packed: bool) -> None:
        """Little-endian 32-bit numbers, of which no two become one."""
        path = tmp_path / ("log.u32.gz" if packed else "log.u32")
        numbers = array("I", [*range(70_000), 2**32 - 1, 0])
        if sys.byteorder == "big":
            numbers.byteswap()
        path.write_bytes(gzip.compress(numbers.tobytes()) if packed else numbers.tobytes())
        keys = keys_of(path)
        assert len(keys) == 70_002
        assert len(set(keys)) == 70_001
        assert keys[-1] == keys[0]
        assert max(keys) < 2**64

    def test_what_cannot_be_read(self, subtests: pytest.Subtests, tmp_path: Path) -> None:
        """The command ends with a sentence that says what is wrong."""
        rows: list[tuple[str, bytes, str | None, str]] = [
            ("log.u32", b"abcde", None, "must have whole 32-bit numbers"),
            ("log.csv", b"time,key\n1,a\n", "name", "the column must be one of time, key of .*, not 'name'"),
            ("log.csv", b"", "name", "log.csv is empty: its first line must name the columns"),
            ("log.csv", b"\n", "name", "log.csv is empty: its first line must name the columns"),
            ("log.csv", b"1,a\n1\n", "2", "line 2 of .* has 1 columns, and no column 2"),
            ("log.csv", b"1,a\n", "0", "and no column 0"),
            ("log.gz", b"\x1f\x8b nonsense", None, "compress"),
            ("log.gz", gzip.compress(b"a\n" * 99, mtime=0)[:-9], None, "ended before"),
            ("log.gz", bytes(_FLIPPED), None, "log.gz is damaged: .*decompressing"),
            ("log.csv", b"k\n" + b"a" * 200_000, "k", "line 2 of .*log.csv must be CSV: field larger than"),
            ("log", b"", None, "must have at least one request"),
        ]
        for name, content, column, words in rows:
            with subtests.test(words=words):
                path = tmp_path / name
                path.write_bytes(content)
                with pytest.raises(SystemExit, match=f"(?i)cachekit replay: .*{words}"):
                    main(["replay", str(path), *(["--column", column] if column else [])])

    def test_csv_from_a_spreadsheet(self, tmp_path: Path) -> None:
        """A byte order mark before the first name is no part of it."""
        path = tmp_path / "log.csv"
        path.write_text("key,n\na,1\nb,2\n", "utf-8-sig")
        assert keys_of(path, "key") == keys_of(path, "1")[1:]

    @pytest.mark.parametrize("packed", [False, True])
    def test_a_pipe(self, tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]) -> None:
        """What cannot be read twice is read once."""
        path = tmp_path / "pipe"
        os.mkfifo(path)
        content = "".join(f"{key}\n" for key in self.KEYS).encode()

        def write() -> None:
            path.write_bytes(gzip.compress(content) if packed else content)

        with ThreadPoolExecutor(1) as thread:
            written = thread.submit(write)
            assert "6 requests for 4 distinct keys" in shown(path, "--sizes", "2", capsys=capsys)
            written.result()

    def test_standard_input(self) -> None:
        """Goes by its usual name."""
        command = [sys.executable, "-m", "cachekit", "replay", "-", "--sizes", "2"]
        lines = "".join(f"{key}\n" for key in self.KEYS)
        ran = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
        assert "6 requests for 4 distinct keys" in ran.stdout

    def test_a_log_that_grows(self, tmp_path: Path) -> None:
        """Progress ends at the whole."""
        path = tmp_path / "log"
        path.write_text("a\n")
        seen: list[int] = []
        report = replay._offset(seen.append, 0, 2)
        for done in (0, 2, 900):
            report(done)
        assert seen == [0, 2, 2]

    def test_a_disk_without_room_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The blocks of the mapped file are asked for before anything is stored in them."""

        def full(fd: int, size: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(FileOps, "allocate", full)
        path = tmp_path / "log"
        path.write_text("a\n")
        assert main(["replay", str(path)]) == 1
        assert (
            without_progress(capsys.readouterr().err)
            == "cachekit replay: [Errno 28] No space left on device\n"
        )

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        """Its name is in the message, and no number of an error."""
        for path, why in ((tmp_path / "nowhere", "No such file or directory"), (tmp_path, "Is a directory")):
            with pytest.raises(SystemExit, match=f"^cachekit replay: {path} cannot be read: {why}$"):
                main(["replay", str(path)])

    def test_many_distinct_keys_are_estimated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond the limit of the set the number is right to a few percent, and memory stays bounded."""
        monkeypatch.setattr(requests, "_SET", 1000)
        stream = requests.Requests(tmp_path / "stream")
        stream.append(requests._number(b"%d" % number) for number in range(50_000))
        assert len(stream._seen) <= 1000
        assert 45_000 < stream.distinct < 55_000

    def test_a_sample_of_the_keys(self, tmp_path: Path) -> None:
        """All requests for a key or none; ratios come out about the same, for a smaller cache."""
        keys = [requests._number(key.encode()) for key in made_up(40_000)]
        whole, some = requests.Requests(tmp_path / "a"), requests.Requests(tmp_path / "b", 0.25)
        whole.append(keys)
        some.append(keys)
        assert {key for chunk in some.chunks() for key in chunk} == {key for key in keys if key < 2**62}
        assert some.unsampled == whole.number == 40_000
        ratios = [
            stream.hit_ratio(simulation.simulate(CacheStrategy.LRU, size, stream, lambda done: None))
            for stream, size in ((whole, 400), (some, 100))
        ]
        assert abs(ratios[0] - ratios[1]) < 0.06, ratios

    def test_a_sample_with_nothing_in_it(self, tmp_path: Path) -> None:
        """There were requests, and it says so."""
        path = tmp_path / "log"
        path.write_text("a\n")
        with pytest.raises(SystemExit, match="none of the 1 requests is in a sample of 1e-12 of the keys"):
            main(["replay", str(path), "--sample", "1e-12"])

    def test_a_sample_without_the_favourite_is_made_up_for(self, tmp_path: Path) -> None:
        """A key that is asked for all the time, and is not in the sample, is one that any cache answers."""
        some = requests.Requests(tmp_path / "some", 0.25)
        favourite, others = 2**64 - 1, range(100)
        some.append(key for other in others for key in (favourite, favourite, favourite, other))
        assert (some.unsampled, some.number) == (400, 100)
        assert some.hit_ratio(0) == 0.0
        some.append([favourite] * 400)
        assert some.hit_ratio(0) == 0.5
        assert some.hit_ratio(50) == 0.75


class TestCounts:
    """Hit ratios are those of the models, whatever the stream is cut into."""

    @pytest.mark.parametrize("part", [1 << 21, 300])
    def test_policies_and_the_optimum(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Also where next uses are found in shares, as for a stream that does not fit in memory."""
        monkeypatch.setattr(simulation, "_PART", part)
        monkeypatch.setattr(requests, "_CHUNK", 256)
        keys = made_up(2000)
        log = tmp_path / "log"
        log.write_text("\n".join(keys))
        rows = table(shown(log, "--sizes", "5,60", "--policies", "lru,fifo,sieve,s3-fifo,lfu", capsys=capsys))
        assert rows[""] == ["5", "60"]
        for index, size in enumerate([5, 60]):
            for strategy in replay.parse_policies("lru,fifo,sieve,s3-fifo,lfu"):
                model = NAIVE[strategy](size)
                held: set[str] = set()
                hits = 0
                for key in keys:
                    if key in held:
                        hits += 1
                        model.hit(key)
                        continue
                    if len(held) == size:
                        held.remove(model.evict(key))
                    model.insert(key, 1.0)
                    held.add(key)
                assert rows[NAMES[strategy]][index].lstrip("*") == f"{hits / 20:.2f}", strategy
            assert rows[OPTIMUM][index] == f"{optimum(keys, size) / 20:.2f}"
            policies = {name: row[index] for name, row in rows.items() if name not in {"", OPTIMUM}}
            top = max(policies.values(), key=lambda cell: float(cell.lstrip("*"))).lstrip("*")
            assert {cell for cell in policies.values() if "*" in cell} == {f"*{top}"}

    def test_the_file_tier(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """It has a row: nothing where there is too little room, all hits where there is plenty; no advice."""
        keys = [f"k{number % 1500}" for number in range(4500)]
        (tmp_path / "log").write_text("\n".join(keys))
        text = shown(
            tmp_path / "log", "--sizes", "10,1100,4000", "--policies", "lru", "--file-tier", capsys=capsys
        )
        rows = table(text.replace("file tier", "file-tier"))
        none, some, everything = rows["file-tier"]
        assert (none, everything) == ("-", "66.67")
        assert "-: the file tier needs at least 1.0 MiB, which are 1,024 entries of 1 KiB" in text
        assert 0 <= float(some) < 66.67
        assert rows[OPTIMUM][2] == "66.67"
        assert "Advice: MemoryCache(4000)" in text

    def test_a_sample_for_the_file_tier(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The note names entries of the whole cache, and the advice a size that was asked for."""
        (tmp_path / "log").write_text("\n".join(f"k{number % 1500}" for number in range(4500)))
        sizes = ["--sizes", "10,4000", "--policies", "lru", "--file-tier", "--sample", "0.5"]
        text = shown(tmp_path / "log", *sizes, capsys=capsys)
        assert table(text.replace("file tier", "file-tier"))["file-tier"][0] == "-"
        assert "-: the file tier needs at least 1.0 MiB, which are 2,048 entries of 1 KiB" in text
        assert "Advice: MemoryCache(4000)" in text

    def test_two_logs_are_one_stream(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """In the order in which they are named; the sum of requests, and keys in both counted once."""
        (tmp_path / "1").write_text("a\nb\n")
        (tmp_path / "2").write_text("b\na\n")
        text = shown(tmp_path / "1", tmp_path / "2", "--sizes", "1", "--policies", "lru", capsys=capsys)
        assert "4 requests for 2 distinct keys" in text
        assert table(text)["LRU"] == ["*25.00"]

    def test_sizes_may_be_percentages(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Of the distinct keys, at least 1, ascending, and none twice."""
        (tmp_path / "log").write_text("\n".join(f"k{number}" for number in range(200)))
        text = shown(tmp_path / "log", "--sizes", "10%,20,0.1%,3", "--policies", "fifo", capsys=capsys)
        assert table(text)[""] == ["1", "3", "20"]

    def test_every_policy_is_replayed_by_default(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """All but TTL and COST_AWARE, of which a log says nothing, and ADAPTIVE; and the optimum."""
        (tmp_path / "log").write_text("\n".join(made_up(1000)))
        rows = table(shown(tmp_path / "log", capsys=capsys))
        assert list(rows) == ["", *NAMES.values(), OPTIMUM]
        assert set(NAMES) == set(CacheStrategy) - {
            CacheStrategy.TTL, CacheStrategy.COST_AWARE, CacheStrategy.ADAPTIVE,
        }  # fmt: skip
        assert len(rows[""]) >= 5


def curves(sizes: Sequence[int], **ratios: Sequence[float]) -> Curves:
    names = {strategy.name: name for strategy, name in NAMES.items()} | {"optimum": OPTIMUM}
    return Curves(sizes, {names[name]: percent for name, percent in ratios.items()})


class TestAdvice:
    """The rules, on curves that were drawn by hand."""

    def test_the_size_where_more_room_stops_paying(self) -> None:
        """The first after which a doubling gives less than a point."""
        lines = advice(curves([10, 20, 80, 160], LRU=[0.3, 0.5, 0.6, 0.605], optimum=[0.7] * 4))
        assert lines[0] == "Advice: MemoryCache(80)"
        assert (
            lines[1] == "Size: up to 80 entries, twice the size gives about 5.0 points; beyond 80 only 0.5."
        )
        assert lines[3] == "No policy can serve more than 70.00 % at this size."

    def test_a_cliff_is_looked_beyond(self) -> None:
        """A loop gives nothing until all of it fits; the size where it does is the one."""
        lines = advice(curves([10, 20, 80, 160], LRU=[0.0, 0.001, 0.6, 0.6], optimum=[0.7] * 4))
        assert lines[0] == "Advice: MemoryCache(80)"

    def test_the_largest_if_it_still_pays(self) -> None:
        """And it says that a larger one may be worth it."""
        lines = advice(curves([10, 20], LRU=[0.3, 0.5], optimum=[0.7] * 2))
        assert lines[0] == "Advice: MemoryCache(20)"
        assert "it was the largest one simulated" in lines[1]

    def test_a_size_beyond_which_nothing_is_left(self) -> None:
        """Where a cache of all keys serves hardly more, that is said instead."""
        found = curves([10, 100], LRU=[0.8540, 0.9738], optimum=[0.9, 0.974])
        lines = advice(found, distinct=128, most=0.9744)
        assert lines[0] == "Advice: MemoryCache(100)"
        assert lines[1] == (
            "Size: up to 100 entries, twice the size gives about 3.6 points; no size serves more than "
            "97.44 %, which 128 entries reach."
        )
        whole = advice(curves([128], LRU=[0.9744], optimum=[0.9744]), distinct=128, most=0.9744)
        assert whole[1] == "Size: it holds all 128 distinct keys."
        more = advice(curves([10, 20], LRU=[0.3, 0.5], optimum=[0.7] * 2), distinct=90, most=0.9)
        assert "a larger one may be worth its memory: 90 entries serve 90.00 %" in more[1]
        less = advice(curves([10, 90], LRU=[0.895, 0.9], optimum=[0.9] * 2), distinct=90, most=0.9)
        assert less[1] == "Size: beyond 10 only 0.2."

    def test_the_log_says_what_any_size_reaches(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """All requests but the first ones of the keys."""
        (tmp_path / "log").write_text("a\nb\n" + "a\nb\n" * 99)
        text = shown(tmp_path / "log", "--sizes", "2", "--policies", "lru", capsys=capsys)
        assert "Size: it holds all 2 distinct keys." in text

    def test_a_policy_that_saves_loads(self) -> None:
        """Fewer loads than LRU by two percent or more; of two that are alike the cheaper one."""
        lines = advice(
            curves([100], LRU=[0.5], SIEVE=[0.6], S3_FIFO=[0.6005], W_TINYLFU=[0.601], optimum=[0.8])
        )
        assert lines[0] == "Advice: MemoryCache(100, CacheStrategy.SIEVE)"
        assert "SIEVE serves 60.00 %, LRU 50.00 %, so 20.0 % of the loads are saved" in lines[2]
        assert "S3-FIFO and W-TinyLFU would do as well and cost more" in lines[2]

    def test_lru_if_others_save_next_to_nothing(self) -> None:
        """Its hits are the cheapest."""
        lines = advice(curves([100], LRU=[0.5], S3_FIFO=[0.505], optimum=[0.8]))
        assert lines[0] == "Advice: MemoryCache(100)"
        assert "S3-FIFO would save 1.0 % of the loads, too few to matter" in lines[2]

    def test_requests_that_any_cache_answers(self) -> None:
        """Ratios of 0 and of 1 are no problem."""
        assert advice(curves([1], LRU=[1.0], FIFO=[1.0], optimum=[1.0]))[0] == "Advice: MemoryCache(1)"
        assert advice(curves([1, 2], LRU=[0.0, 0.0], LFU=[0.0, 0.0], optimum=[0.0, 0.0]))


class TestPicture:
    """`--plot`, with and without matplotlib."""

    def test_it_is_drawn(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A picture of the kind that its name says; the lines are in it by name."""
        pytest.importorskip("matplotlib")
        (tmp_path / "log").write_text("\n".join(made_up(500)))
        picture = tmp_path / "curves.svg"
        text = shown(tmp_path / "log", "--plot", picture, "--policies", "lru,sieve", capsys=capsys)
        assert f"The chart is in {picture}." in text
        drawn = picture.read_text()
        assert drawn.lstrip().startswith("<?xml")
        assert all(f"<!-- {name} -->" in drawn for name in ("LRU", "SIEVE", "optimum", "hit ratio (%)"))

    def test_where_none_can_be_drawn(
        self, subtests: pytest.Subtests, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It says so before the work, not after."""
        rows: list[tuple[str, str]] = [
            ("picture", "must end in one of"),
            ("picture.txt", r"\.png"),
            ("none/picture.png", "must be in an existing directory"),
        ]
        for name, words in rows:
            with subtests.test(name=name):
                pytest.importorskip("matplotlib")
                command = ["replay", str(tmp_path / "no log"), "--plot", str(tmp_path / name)]
                if "directory" in words:
                    with pytest.raises(SystemExit, match=words):
                        main(command)
                    continue
                with pytest.raises(SystemExit, match=r"^2$"):
                    main(command)
                assert re.search(f"cachekit replay: .*{words}", capsys.readouterr().err)

    def test_without_matplotlib(self, tmp_path: Path) -> None:
        """The error names the extra; without --plot nothing asks for it."""
        log = tmp_path / "log"
        log.write_text("a\n")
        code = "import sys; sys.modules['matplotlib'] = None; from cachekit.cli import main; sys.exit(main())"
        plain = subprocess.run([sys.executable, "-c", code, "replay", log], capture_output=True, text=True)
        assert plain.returncode == 0, plain.stderr
        ended = subprocess.run(
            [sys.executable, "-c", code, "replay", log, "--plot", "x.png"], capture_output=True, text=True
        )
        assert ended.returncode == 1
        assert ended.stderr == (
            "cachekit replay: --plot needs matplotlib: pip install 'cachekit-tiered[plot]'\n"
        )


class TestArguments:
    """Wrong arguments end with status 2 and say what would be right."""

    def test_refused(self, subtests: pytest.Subtests, capsys: pytest.CaptureFixture[str]) -> None:
        """Before any file is read."""
        rows: list[tuple[list[str], str]] = [
            (["--sizes", "many"], "a size must be a number of entries or a percentage, not 'many'"),
            (["--sizes", "0"], "a size must be more than 0, not '0'"),
            (["--sizes", "nan%"], "a size must be more than 0, not 'nan%'"),
            (["--sizes", "1" + 400 * "0"], "a size must be a number of entries or"),
            (["--sizes", ","], "sizes must not be empty"),
            (["--policies", "lru,best"], "a policy must be one of lru, fifo, sieve"),
            (["--policies", ""], "policies must not be empty"),
            (["--sample", "2"], "must be more than 0 and at most 1, not '2'"),
        ]
        for arguments, words in rows:
            with subtests.test(arguments=arguments):
                with pytest.raises(SystemExit) as ended:
                    main(["replay", "log", *arguments])
                assert ended.value.code == 2
                assert words in capsys.readouterr().err

    def test_no_file_is_left_behind_by_sigterm(self, tmp_path: Path) -> None:
        """The exit status is that of SIGTERM."""
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "cachekit", "replay", "-"],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"TMPDIR": str(scratch)},
        )  # fmt: skip
        while process.poll() is None and not list(scratch.iterdir()):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=200)[1] == b""
        assert process.returncode == -signal.SIGTERM
        assert list(scratch.iterdir()) == []

    def test_no_file_is_left_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if the work ends by an error."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
        (tmp_path / "scratch").mkdir()
        (tmp_path / "log").write_text("a\nb\n")
        everything = Plan([tmp_path / "log"], None, ((1, False),), replay.POLICIES, 1.0, None)
        assert replay.run(everything, PlainDisplay(io.StringIO())) == 0
        with pytest.raises(SystemExit):
            replay.run(everything._replace(column="nowhere"), PlainDisplay(io.StringIO()))
        assert list((tmp_path / "scratch").iterdir()) == []
