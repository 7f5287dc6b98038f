"""Damage of every kind x every operation, each in a fresh copy of one directory, in a process of its own."""

from __future__ import annotations

import functools
import io
import logging
import os
import random
import resource
import select
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import inside

from cachekit import FileCache, FileFormatError, IntelligentCache, MemoryCache, TierUnavailableError, cli
from cachekit.testing.processes import fork
from cachekit.tiers.file.engine.control_block import NEW, TABLE
from cachekit.tiers.file.engine.format import PAGE

MIB: Final = 1
EVERYTHING: Final = (1 << 64) - 1
MEMORY: Final = 256 << 20  # bytes that an operation may take: the limit of the directory is 1 MiB
LONGEST: Final = (
    30.0  # seconds after which an operation counts as hung, on a machine that does other work too
)
PROCESSOR: Final = 1.0  # seconds of the processor that an operation may take

#: What each key holds.
EXPECTED: Final[dict[str, Any]] = {
    **{f"k{number}": f"value {number} " * (1 + number % 9) for number in range(60)},
    "large": "L" * 100_000,
    "tagged": "with a tag",
    "dropped": None,
    "deleted": None,
    "expired": None,
    "never": None,
}


class Damage(NamedTuple):
    """One fault."""

    name: str
    apply: Callable[[Path], None]


class Case(NamedTuple):
    """One fault, before or after the directory is opened, and one operation."""

    damage: Damage
    opened: bool
    operation: str


def fill(path: Path) -> None:
    """Make the directory, with everything in it."""
    with FileCache(path, MIB, cleanup_interval=None) as cache:
        for key, value in EXPECTED.items():
            if value is not None:
                cache.set_value(key, value, tags={"kept"} if key == "tagged" else None)
        cache.set_value("dropped", "dropped", tags={"gone"})
        cache.invalidate_by_tags({"gone"})
        cache.set_value("deleted", "deleted")
        cache.delete("deleted")
        words = inside.shard(inside.engine(cache)).words
        for number in range(700):
            if not words[NEW]:  # until the index is being replaced
                cache.set_value(f"more{number}", number)
        assert words[NEW]


class Template:
    """A directory that is copied for each case."""

    def __init__(self, path: Path) -> None:
        fill(path)
        self._files = {
            str(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }
        names = list(self._files)
        self.index, self.new = sorted(
            (name for name in names if name.endswith(".index")), key=lambda name: len(self._files[name])
        )
        segments = sorted(
            (name for name in names if name.endswith(".segment")), key=lambda name: len(self._files[name])
        )
        self.segment, self.large = segments[0], segments[-1]

    def copy(self, path: Path) -> None:
        """Make it again."""
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        for name, content in self._files.items():
            (path / name).parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path / name, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(descriptor, content)
            os.close(descriptor)

    # -- what is damaged --------------------------------------------------------------------------------

    def _words(self) -> Iterator[tuple[str, int]]:
        """The words that mean something: file and offset."""
        control = self._files["control"]
        for at in range(3):
            yield "control", 8 * at
        used = sum(1 for at in range(TABLE, TABLE + 60, 3) if _word(control, PAGE + 8 * at))
        for at in range(TABLE + 3 * (used + 1)):
            yield "control", PAGE + 8 * at
        for at in (*range(4), 8, 8 + 40, 8 + 8000):
            yield "tokens", 8 * at
        index = self._files[self.index]
        capacity = (len(index) - 64) // 17
        slots = [at for at in range(capacity) if _word(index, 64 + 16 * at)]
        live = [at for at in slots if _word(index, 64 + 16 * at + 8)]
        for at in range(4):
            yield self.index, 8 * at
        for slot in (*live[:3], slots[0], next(at for at in range(capacity) if at not in slots)):
            yield self.index, 64 + 16 * slot
            yield self.index, 64 + 16 * slot + 8
        yield self.index, 64 + 16 * capacity
        for at in (0, 1, 2, 8, 9, 8 + 2 * (live[0] & -2)):
            yield self.new, 8 * at
        segment = self._files[self.segment]
        record = next(at for at in range(0, len(segment), 32) if _word(segment, at))
        for at in range(10):
            yield self.segment, record + 8 * at
            yield self.large, 8 * at
        yield self.large, 50_000
        for at in range(0, 64, 16):
            yield "manifest", at

    def word_damages(self, chance: random.Random) -> list[Damage]:
        """Each of these words set to 0, all ones, random, and values near its own and other bounds."""
        found = []
        for name, offset in self._words():
            before = _word(self._files[name], offset)
            for what, value in (
                ("0", 0),
                ("ones", EVERYTHING),
                ("random", chance.getrandbits(64)),
                ("+1", before + 1 & EVERYTHING),
                ("-1", before - 1 & EVERYTHING),
                ("top", before ^ 1 << 63),
                ("32 bits", (1 << 32) - 1),
            ):
                if value != before:
                    content = value.to_bytes(8, "little")
                    kind = "new-index" if name == self.new else _kind(name)
                    found.append(Damage(f"{kind}+{offset}={what}", partial(_store, name, offset, content)))
        return found

    def file_damages(self) -> list[Damage]:
        """Every file cut, grown, emptied, and replaced by everything that is no file."""
        found = []
        lock = str(Path(self.index).parent / "lock")
        for name in (
            "control", "tokens", "manifest", "users", "structure.lock",
            lock, self.index, self.new, self.segment, self.large,
        ):  # fmt: skip
            size = len(self._files[name])
            kind = "new-index" if name == self.new else _kind(name)
            sizes = {"cut to 0": 0, "cut to half": size // 2, "cut by one": size - 1}
            grown = {"grown by one": size + 1, "grown by a gigabyte": size + (1 << 30)}
            for what, length in ((sizes if size else {}) | grown).items():
                found.append(Damage(f"{kind} {what}", partial(_resize, name, length)))
            for how, make in REPLACEMENTS.items():
                found.append(Damage(f"{kind} {how}", partial(_replace, name, make)))
        shard = str(Path(self.index).parent)
        for kind, make in REPLACEMENTS.items():
            found.append(Damage(f"shard {kind}", partial(_replace, shard, make)))
        found.append(Damage("directory removed", shutil.rmtree))
        return found


def _word(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 8], "little")


def _kind(name: str) -> str:
    base = os.path.basename(name)
    return base.rpartition(".")[2] if base.endswith((".index", ".segment")) else base


def _store(name: str, offset: int, content: bytes, path: Path) -> None:
    with open(path / name, "r+b") as file:
        file.seek(offset)
        file.write(content)


def _resize(name: str, size: int, path: Path) -> None:
    os.truncate(path / name, size)


def _replace(name: str, make: Callable[[Path], None], path: Path) -> None:
    shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()
    make(path / name)


def _socket(path: Path) -> None:
    # The name of a socket may not be long.
    above = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{above}/{path.name}")
    os.close(above)


def _hard_link(path: Path) -> None:
    other = path.parent / "other"
    other.write_bytes(b"another file " * 1000)
    os.link(other, path)


REPLACEMENTS: Final[dict[str, Callable[[Path], None]]] = {
    "removed": lambda path: None,
    "emptied": lambda path: path.touch(0o600),
    "a link": lambda path: path.symlink_to("/etc/hostname"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a socket": _socket,
    "a pipe": os.mkfifo,
    "a directory": lambda path: path.mkdir(0o700),
    "a hard link": _hard_link,
}


# -- what is done -------------------------------------------------------------------------------------------


def _right(key: str, value: Any) -> str:
    if value is None:
        return "miss"
    return "hit" if value == EXPECTED[key] else f"wrong: {key} holds {value!r:.60}"


def _get(cache: IntelligentCache, path: Path) -> str:
    return _worst(_right(key, cache.get(key)) for key in EXPECTED)


def _worst(outcomes: Iterator[str]) -> str:
    found = Counter(outcomes)
    return next((one for one in found if one.startswith("wrong")), "hit" if found["hit"] else "miss")


def _get_or_set(cache: IntelligentCache, path: Path) -> str:
    for key in ("k3", "never", "large"):
        value = cache.get_or_set(key, partial(_load, key))
        if value != (EXPECTED[key] or "loaded"):
            return f"wrong: {key} was loaded as {value!r:.60}"
    cache.delete("never")
    return "done"


def _load(key: str) -> Any:
    return EXPECTED[key] or "loaded"


def _get_many(cache: IntelligentCache, path: Path) -> str:
    return _worst(_right(key, value) for key, value in cache.get_many(list(EXPECTED)).items())


def _set(cache: IntelligentCache, path: Path) -> str:
    for key in ("k1", "k2", "large"):
        cache.set(key, EXPECTED[key])
    for number in range(40):
        cache.set(f"new{number}", number)
        if cache.get(f"new{number}") not in (number, None):
            return "wrong: a new value"
        cache.delete(f"new{number}")
    return "done"


def _set_many(cache: IntelligentCache, path: Path) -> str:
    cache.set_many({f"k{number}": EXPECTED[f"k{number}"] for number in range(60)})
    return _get(cache, path)


def _delete(cache: IntelligentCache, path: Path) -> str:
    for key in ("k1", "large", "never"):
        cache.delete(key)
        if cache.get(key) is not None:
            return f"wrong: {key} was deleted"
    return "done"


def _delete_many(cache: IntelligentCache, path: Path) -> str:
    keys = [f"k{number}" for number in range(0, 60, 2)]
    cache.delete_many(keys)
    return "wrong: they were deleted" if cache.get_many(keys) else "done"


def _by_tags(cache: IntelligentCache, path: Path) -> str:
    cache.invalidate_by_tags({"kept"})
    return "done" if cache.get("tagged") is None else "wrong: it was invalidated"


def _by_pattern(cache: IntelligentCache, path: Path) -> str:
    cache.invalidate_by_pattern("k1")
    return "done"


def _keys(cache: IntelligentCache, path: Path) -> str:
    known = {key for key, value in EXPECTED.items() if value is not None}
    others = {key for key in list(_files(cache).keys()) if not key.startswith("more")} - known
    return f"wrong: {sorted(others)[:3]} are listed" if others else "done"


def _files(cache: IntelligentCache) -> FileCache:
    tier = cache.file_cache
    assert isinstance(tier, FileCache)
    return tier


def _clear(cache: IntelligentCache, path: Path) -> str:
    cache.clear()
    return "done" if cache.get("k1") is None else "wrong: it was cleared"


def _command(*arguments: str) -> Callable[[IntelligentCache, Path], str]:
    def call(cache: IntelligentCache, path: Path) -> str:
        command(path, *arguments)
        return "done"

    return call


def command(path: Path, *arguments: str) -> tuple[int, str]:
    """Run a command of cachekit on the directory; return its status and what it printed."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with redirect_stdout(out), redirect_stderr(out):
        status = cli.main([arguments[0], str(path), *arguments[1:]])
    out.seek(0)
    return status, out.read()


def _call(name: str, *arguments: Any) -> Callable[[IntelligentCache, Path], str]:
    def call(cache: IntelligentCache, path: Path) -> str:
        getattr(_files(cache), name)(*arguments)
        return "done"

    return call


def _size(cache: IntelligentCache, path: Path) -> str:
    size, taken = len(_files(cache)), _files(cache).memory_usage()
    return (
        "done" if 0 <= size <= 1 << 20 and 0 <= taken <= 2 << 20 else f"wrong: {size} entries, {taken} bytes"
    )


OPERATIONS: Final[dict[str, Callable[[IntelligentCache, Path], str]]] = {
    "get": _get,
    "set": _set,
    "get_or_set": _get_or_set,
    "get_many": _get_many,
    "set_many": _set_many,
    "delete": _delete,
    "delete_many": _delete_many,
    "invalidate_by_tags": _by_tags,
    "invalidate_by_pattern": _by_pattern,
    "keys": _keys,
    "size": _size,
    "touch": _call("touch", "k1", 60),
    "remove_expired": _call("remove_expired"),
    "stats": _call("get_stats"),
    "clear": _clear,
    "close": _call("close"),
    "inspect": _command("inspect", "--json"),
    "verify": _command("verify"),
    "purge": _command("purge", "--yes"),
}


# -- one case -----------------------------------------------------------------------------------------------


def _opened(path: Path) -> IntelligentCache:
    files = FileCache(path, MIB, cleanup_interval=None)
    return IntelligentCache(None, None, files, default_ttl=None, strict=True)


def outcome_of(case: Case, template: Template, path: Path) -> str:
    """Damage a copy of the template, do the operation, repair the directory, and use it."""
    template.copy(path)
    outcome = "done"
    cache = None
    try:
        if case.opened:
            cache = _opened(path)
            _get(cache, path)
            cache.set("k0", EXPECTED["k0"])
        case.damage.apply(path)
        started = time.process_time()
        try:
            if cache is None:
                cache = _opened(path)
            else:
                inside.look_again(_files(cache))
            outcome = OPERATIONS[case.operation](cache, path)
        except (TierUnavailableError, FileFormatError) as error:
            outcome = (
                "unavailable" if isinstance(error, TierUnavailableError) or cache is None else repr(error)
            )
        taken = time.process_time() - started
        if taken > PROCESSOR:
            return f"slow: {taken:.1f} s of the processor"
        if outcome.startswith("wrong"):
            return outcome
        return _mended(path, cache, case.operation, outcome)
    except Exception as error:
        return f"other: {error!r:.150}"
    finally:
        if cache is not None:
            cache.close()


def _mended(path: Path, cache: IntelligentCache | None, operation: str, outcome: str) -> str:
    """Return the outcome, or what is wrong after the repair."""
    if not path.exists():
        return outcome
    status, said = command(path, "verify", "--repair")
    if not status:
        status, said = command(path, "verify")
    if status:
        return f"not mended: {said[-150:]!r}"
    users = [FileCache(path, MIB, cleanup_interval=None)]
    if cache is not None and operation != "close":
        inside.look_again(_files(cache))
        inside.end_outage(cache)  # or what was missed, such as a `clear`, takes effect in the middle of this
        users.append(_files(cache))
    try:
        for one in users:
            try:
                one.set_value("k1", EXPECTED["k1"])
            except TierUnavailableError:
                pass  # it finds that a part was removed, and opens the directory again
            seen = _worst(_right(key, one.get_value(key)) for key in EXPECTED)
            one.set_value("k1", EXPECTED["k1"])
            if seen.startswith("wrong"):
                return f"{seen}, after the repair"
            if one.get_value("k1") != EXPECTED["k1"]:
                return "wrong: a value that was set after the repair is not found"
            one.delete("k1")
    finally:
        users[0].close()
    return outcome


class Judged(NamedTuple):
    """What came of a case."""

    case: Case
    outcome: str


def run(cases: list[Case], template: Template, path: Path) -> Iterator[Judged]:
    """Run each case in a forked process, which goes on with the next; a new one if it was killed or hung."""
    at = 0
    while at < len(cases):
        mine, theirs = os.pipe()
        child = fork()
        if not child:
            os.close(mine)
            _serve(cases[at:], template, path, theirs)
        os.close(theirs)
        with os.fdopen(mine) as lines:
            while at < len(cases):
                ready = select.select([lines], [], [], LONGEST)[0]
                line = lines.readline() if ready else ""
                if not line:
                    break
                yield Judged(cases[at], line.rstrip("\n"))
                at += 1
        if at < len(cases):
            os.kill(child, signal.SIGKILL if not ready else 0)
        status = os.waitpid(child, 0)[1]
        if at < len(cases):
            yield Judged(cases[at], "hung" if not ready else f"killed: {signal.Signals(status & 127).name}")
            at += 1


def _serve(cases: list[Case], template: Template, path: Path, answers: int) -> None:
    """Run the cases. What they have in common is made once, or a case takes half as long again."""
    try:
        cli._parser = functools.cache(cli._parser)
        kept = IntelligentCache(MemoryCache())  # so that the thread of upkeep goes on between two cases
        assert kept.get("k") is None
        logging.getLogger("cachekit").setLevel(logging.CRITICAL)
        used = resource.getpagesize() * int(Path("/proc/self/statm").read_text("ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, -1))
        for case in cases:
            outcome = outcome_of(case, template, path)
            os.write(answers, outcome.replace("\n", " ").encode() + b"\n")
    finally:
        os._exit(0)


def is_good(outcome: str) -> bool:
    """Tell whether it is a hit, a miss, done, or unavailable."""
    return outcome in ("hit", "miss", "done", "unavailable")


def table(judged: list[Judged]) -> str:
    """Return how many cases of each kind came out how."""
    kinds = ("hit", "miss", "done", "unavailable", "others")
    rows: dict[str, Counter[str]] = {}
    for case, outcome in judged:
        where = case.damage.name.split("+")[0].split(" ")[0]
        kind = "words of " if "=" in case.damage.name else "files: "
        row = rows.setdefault(kind + where, Counter())
        row[outcome if is_good(outcome) else "others"] += 1
    lines = [f"{'damage':<26}{'cases':>8}" + "".join([f"{kind:>13}" for kind in kinds])]
    total: Counter[str] = Counter()
    for name, row in sorted(rows.items()):
        total += row
        lines.append(f"{name:<26}{row.total():>8}" + "".join([f"{row[kind]:>13}" for kind in kinds]))
    lines.append(f"{'all':<26}{total.total():>8}" + "".join([f"{total[kind]:>13}" for kind in kinds]))
    return "\n".join(lines)
