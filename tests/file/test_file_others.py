"""What another user did to a cache directory while he could write in it: none of it is used, or runs.

The tests that need a second user are run by root, who plays both.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from zlib import crc32

import pytest
from forking import in_fork

from cachekit import FileCache, FileFormatError, TierUnavailableError
from cachekit.cli import main
from cachekit.loading.process_lease import ProcessLeases
from cachekit.loading.slots import LoadSlots
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.tiers.file import permissions
from cachekit.tiers.file.descriptor import OpenFile
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.folder import Folder
from cachekit.tiers.file.permissions import exposure

OTHER = 12_345  # a user that is not this one
SECRET = "0123456789abcdef"
KINDS = [
    "structure.lock", "users", "manifest", "tokens", "control", "00", "00/lock", "00/*.index", "00/*.segment",
]  # fmt: skip

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")
pytestmark = pytest.mark.timeout(60)


class Unlisted:
    """A class that is on no allow-list."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unlisted)

    __hash__ = None  # type: ignore[assignment]


class Payload:
    """What makes a directory when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self._ran = ran

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._ran),)


@pytest.fixture
def tmp_path(reachable: Path) -> Path:
    return reachable


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory in which others may write."""
    path = tmp_path / "cache"
    path.mkdir()
    path.chmod(0o777)
    return path


def poison(place: Path, ran: Path) -> None:
    """Store what runs when it is read without limits, as if it were a value."""
    with Engine(place, 1 << 20) as engine:
        engine.put("k", pickle.dumps(Payload(ran)), flags=PickleCodec.code)


def as_other(work: Callable[[], object]) -> None:
    """Do it as another user, who hides nothing."""

    def other() -> None:
        logging.getLogger("cachekit").setLevel(logging.CRITICAL)
        os.setgroups([])
        os.setgid(OTHER)
        os.setuid(OTHER)
        os.umask(0)
        work()

    assert in_fork(other)() == 0


def is_trusted(place: Path) -> bool:
    """Whether values of any class go in and out."""
    with FileCache(place, 1) as cache:
        try:
            cache.set_value("trusted", Unlisted())
        except Exception:
            return False
        return bool(cache.get_value("trusted") == Unlisted())


def unavailable_if(expected: bool, match: str) -> AbstractContextManager[object]:
    """Expect TierUnavailableError, or nothing."""
    return pytest.raises(TierUnavailableError, match=match) if expected else nullcontext()


def owners_in(place: Path) -> set[int]:
    """Who owns what is in the directory."""
    return {path.lstat().st_uid for path in place.rglob("*")}


# -- after the mode is mended -------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("opened", [False, True])
def test_what_another_user_made_there_goes(
    place: Path, tmp_path: Path, opened: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With the mode of the directory alone the log's advice would have his pickle read."""
    ran = tmp_path / "ran"

    def attack() -> None:
        poison(place, ran)
        for path in place.rglob("*"):
            path.chmod(0o777 if opened else 0o700 if path.is_dir() else 0o600)

    as_other(attack)
    with pytest.raises(TierUnavailableError, match=f"everybody may write .* belongs to user {OTHER}; remove"):
        FileCache(place, 1)
    assert OTHER in owners_in(place), "it is not ours to remove as long as others may write there"
    place.chmod(0o755)
    with FileCache(place, 1) as cache:
        assert cache.get_value("k", "miss") == "miss"
        cache.set_value("k", Unlisted())
        assert cache.get_value("k") == Unlisted()
    assert f"belongs to user {OTHER}" in caplog.text
    assert "is emptied" in caplog.text
    assert not ran.exists()
    assert owners_in(place) == {0}
    assert is_trusted(place)


@as_root
def test_a_shard_of_another_user_that_cannot_be_emptied(place: Path) -> None:
    """It has files in it that no cache made: they stay, and the error says what is in the way."""

    def attack() -> None:
        (place / "00").mkdir()
        (place / "00" / "theirs").touch()

    as_other(attack)
    (place / "structure.lock").touch(0o600)
    place.chmod(0o700)
    with pytest.raises(
        TierUnavailableError, match=f"its '00' belongs to user {OTHER}, and could not be removed"
    ):
        FileCache(place, 1)
    assert os.listdir(place / "00") == ["theirs"]


@as_root
@pytest.mark.parametrize("kind", KINDS)
def test_one_file_of_another_user(place: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever it is: it is not read, locked or written, and the rest works."""
    place.chmod(0o700)
    with FileCache(place, 1) as cache:
        cache.set_value("k", "old")
    (part,) = place.glob(kind)
    os.chown(part, OTHER, OTHER)
    before = None if part.is_dir() else part.read_bytes()
    with part.open("rb") if before is not None else open(os.devnull, "rb") as kept:
        # In a shard of our own only this user or root can have put it there.
        with unavailable_if(kind == "00/lock", f"belongs to user {OTHER}"), FileCache(place, 1) as cache:
            assert cache.get_value("k") in (None, "old")
            cache.set_value("k", "new")
            assert cache.get_value("k") == "new"
        if before is not None:
            assert kept.read() == before
    if kind != "00/lock":
        assert owners_in(place) == {0}


@as_root
@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_shard_of_another_user_where_he_may_write(place: Path, secret: str | None) -> None:
    """One that comes after the directory was opened: its keys are unavailable, and nothing is written."""
    with FileCache(place, 1, secret=secret, cleanup_interval=None) as cache:

        def attack() -> None:
            (place / "00").mkdir()
            (place / "00" / "1-1.segment").write_bytes(b"theirs")

        as_other(attack)
        with pytest.raises(TierUnavailableError, match=f"00 belongs to user {OTHER}"):
            cache.set_value("k", 1)
        assert sorted(os.listdir(place / "00")) == ["1-1.segment"]
        assert (place / "00" / "1-1.segment").read_bytes() == b"theirs"


def test_a_directory_that_others_could_write_is_emptied_first(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what is our own by now: files that were copied, renamed or put back there."""
    poison(place, tmp_path / "ran")
    with FileCache(place, 1) as cache:
        cache.set_value("plain", 1)
        assert cache.get_value("k", "miss") == "miss"
    for name in ("leases.lock", "loads-2.00.lock", "lease-0a.lock", "leases.lock.mine", "loads-x.lock"):
        (place / name).touch(0o600)
    before = {path: path.stat().st_ino for path in place.rglob("*") if path.is_file()}
    kept = [os.open(path, os.O_RDONLY) for path in before]  # or numbers of files are used again
    place.chmod(0o755)
    caplog.clear()
    with FileCache(place, 1) as cache:
        assert cache.get_value("plain") is None
        assert cache.get_value("k", "miss") == "miss"
        assert "is emptied: other users could write to it once" in caplog.text
        caplog.clear()
        cache.set_value("k", Unlisted())
        assert cache.get_value("k") == Unlisted()
    after = {path: path.stat().st_ino for path in place.rglob("*") if path.is_file()}
    same = {path.name for path in before if after.get(path) == before[path]}
    assert same == {"structure.lock", "users", "leases.lock.mine", "loads-x.lock"}, (
        "our own locks say nothing"
    )
    assert not (tmp_path / "ran").exists()
    with FileCache(place, 1) as cache:
        assert cache.get_value("k") == Unlisted(), "once is enough"
    assert caplog.text == ""
    for fd in kept:
        os.close(fd)


def test_use_by_who_may_not_trust_it_ends_the_trust(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory of one's own that was used while others could write in it."""
    place.chmod(0o700)
    assert is_trusted(place)
    place.chmod(0o777)
    with FileCache(place, 1) as cache:
        assert "allow-list" in caplog.text
        assert cache.get_value("trusted", "miss") == "miss"
        cache.set_value("plain", 1)
        place.chmod(0o700)
        # One process or several: it is one engine here, and another in a process of its own.
        assert not is_trusted(place)
        code = f"from cachekit import FileCache; FileCache({str(place)!r}, 1)"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
        assert "it is not emptied while it is in use; classes" in ended.stderr
        assert cache.get_value("plain") == 1
    with FileCache(place, 1) as cache:
        assert cache.get_value("plain") is None
    assert is_trusted(place)


def test_a_manifest_that_is_put_back_vouches_for_nothing(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One from before others could write, beside what was made since."""
    place.chmod(0o700)
    assert is_trusted(place)
    place.chmod(0o777)
    (place / "manifest").rename(place / "aside")
    poison(place, tmp_path / "ran")
    (place / "aside").rename(place / "manifest")
    place.chmod(0o700)
    with FileCache(place, 1) as cache:
        assert cache.get_value("k", "miss") == "miss"
    assert "is emptied: it had damage" in caplog.text, "its control file is of another manifest"
    assert not (tmp_path / "ran").exists()


@as_root
def test_a_manifest_that_another_user_wrote_vouches_for_nothing(place: Path, tmp_path: Path) -> None:
    """It says that no other user could write there, ever."""
    poison(place, tmp_path / "ran")
    body = (place / "manifest").read_bytes().partition(b" ")[2]
    body = json.dumps(json.loads(body) | {"private": True}, sort_keys=True).encode()
    (place / "manifest").write_bytes(b"%08x %s\n" % (crc32(body), body))
    os.chown(place / "manifest", OTHER, OTHER)
    place.chmod(0o700)
    with FileCache(place, 1) as cache:
        assert cache.get_value("k", "miss") == "miss"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["mode", "hard link"])
def test_a_file_that_others_may_open_or_name(place: Path, tmp_path: Path, kind: str, how: str) -> None:
    """Others may have it open, or write in it by its other name: it is not used again."""
    place.chmod(0o700)
    with FileCache(place, 1) as cache:
        cache.set_value("k", "old")
    (part,) = place.glob(kind)
    if how == "mode":
        part.chmod(0o777 if part.is_dir() else 0o640)
    elif part.is_dir():
        pytest.skip("directories have one name")
    else:
        os.link(part, tmp_path / "other")
    number = part.stat().st_ino
    kept = os.open(part, os.O_RDONLY)  # or the number of the file is used again
    with unavailable_if(kind == "00/lock", "00/lock"), FileCache(place, 1) as cache:
        cache.set_value("k", "new")
        assert cache.get_value("k") == "new"
        (part,) = place.glob(kind)
        assert part.stat().st_ino != number or part.is_dir()
        assert not part.stat().st_mode & 0o077
    os.close(kept)


# -- links, pipes, and other things in the place of files ---------------------------------------------------


def _put_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def _put_socket(path: Path) -> None:
    # By a short name: that of a socket has a limit.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _put_device(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("thing", [_put_link, os.mkfifo, _put_socket, _put_device, os.mkdir])
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_no_regular_file(place: Path, kind: str, thing: Callable[[Path], object], mode: int) -> None:
    """In the place of any file of ours: a miss, or TierUnavailableError, and never a wait."""
    if thing is _put_device and os.geteuid():
        pytest.skip("only root can make devices")
    if thing is os.mkdir and kind == "00":
        pytest.skip("that is what it should be")
    place.chmod(mode)
    with FileCache(place, 1) as cache:
        cache.set_value("k", 1)
    (part,) = place.glob(kind)
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    thing(part)
    try:
        with FileCache(place, 1) as cache:
            assert cache.get_value("k") in (None, 1)
            cache.set_value("k", 2)
            assert cache.get_value("k") == 2
            cache.clear()
    except TierUnavailableError:
        assert kind == "00/lock" or thing is os.mkdir


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_link_in_the_place_of_a_shard(place: Path, tmp_path: Path, secret: str | None) -> None:
    """Put there after the directory was opened: nothing behind it is removed, read or made."""
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("1-1.segment", "1-1.index", "users.segment", "000.index", "lock"):
        (precious / name).write_bytes(b"precious")
    with FileCache(place, 1, secret=secret, cleanup_interval=None) as cache:
        (place / "00").symlink_to(precious)
        with pytest.raises(TierUnavailableError, match="00 is no directory"):
            cache.set_value("k", 1)
        with pytest.raises(TierUnavailableError, match="00 is no directory"):
            cache.clear()
    assert main(["purge", "--yes", str(place)]) == 0
    assert {path.read_bytes() for path in precious.iterdir()} == {b"precious"}
    assert len(list(precious.iterdir())) == 5
    assert not (place / "00").is_symlink(), "of the directory itself, the link is removed"


def test_a_directory_that_is_exchanged_while_it_is_opened(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was looked at is the one that is used, whatever has its name by then."""
    place.chmod(0o700)
    moved, trap = tmp_path / "moved", tmp_path / "trap"
    trap.mkdir(0o777)
    real = permissions._step

    def exchange(here: OpenFile, name: str, make: bool) -> OpenFile | None:
        step = real(here, name, make)
        if name == place.name and not moved.exists():
            place.rename(moved)
            place.symlink_to(trap)
        return step

    monkeypatch.setattr(permissions, "_step", exchange)
    Engine(place, 1 << 20).close()
    assert list(trap.iterdir()) == []
    assert (moved / "manifest").is_file()


def test_only_names_of_ours_are_removed(place: Path) -> None:
    """Not what begins or ends like them: when a shard begins again, when all is emptied, and by purge."""
    place.chmod(0o700)
    others = [
        "users.segment", "000.index", "0-1.segment", "01-1.index", "1-1.segment.bak", "1-1.SEGMENT",
        "1-.index",
        "1-1-1.segment", "1-123456789.segment", "\n1-1.segment", "1-1.segment\n", "lock.bak",
    ]  # fmt: skip
    with FileCache(place, 1) as cache:
        cache.set_value("k", 1)
        for name in others:
            (place / "00" / name).touch()
        (place / "00" / "7-7.segment").touch()
        (place / "00" / "7-8.segment").mkdir()
        cache.clear()
    assert not (place / "00" / "7-7.segment").exists()
    left = {*others, "7-8.segment"}
    assert left <= set(os.listdir(place / "00"))
    FileCache(place, 2).close()
    assert set(os.listdir(place / "00")) == left
    assert main(["purge", "--yes", str(place)]) == 0
    assert left <= set(os.listdir(place / "00"))


@as_root
def test_another_users_lock_makes_no_cache(place: Path) -> None:
    """Or one file of theirs would have files of one's own emptied away, that have a cache's names."""
    (place / "manifest").write_bytes(b"mine")
    (place / "de").mkdir()
    (place / "de" / "messages.po").write_bytes(b"mine")

    def attack() -> None:
        for name in ("structure.lock", "tokens"):
            (place / name).write_bytes(b"theirs")

    as_other(attack)
    for mode in (0o777, 0o700):
        place.chmod(mode)
        with pytest.raises(FileFormatError, match="is no cache directory, and holds 'de'"):
            FileCache(place, 1)
        assert sorted(os.listdir(place)) == ["de", "manifest", "structure.lock", "tokens"]


def test_another_directory_under_the_same_number(place: Path, tmp_path: Path) -> None:
    """A hard link to the file by which a process knows what it has open leads to no other directory."""
    with FileCache(tmp_path / "own", 1, cleanup_interval=None) as own:
        own.set_value("k", "own")
        FileCache(place, 1).close()
        (place / "users").unlink()
        os.link(tmp_path / "own" / "users", place / "users")
        with FileCache(place, 1, cleanup_interval=None) as cache:
            assert cache.get_value("k") is None


# -- who may write -------------------------------------------------------------------------------------------


def _acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _with_user(user: int, mask: int) -> bytes:
    none = (1 << 32) - 1
    return _acl((1, 7, none), (2, 7, user), (4, 0, none), (16, mask, none), (32, 0, none))


def _set_acl(path: Path, kind: str, acl: bytes) -> None:
    if not hasattr(os, "setxattr"):
        pytest.skip("no extended attributes here")
    try:
        os.setxattr(path, f"system.posix_acl_{kind}", acl)
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")


def test_an_acl_that_lets_another_user_write(place: Path) -> None:
    """Its mask is what the mode shows for the group; without that he may not write either."""
    place.chmod(0o700)
    assert exposure(str(place)) == ""
    _set_acl(place, "access", _with_user(OTHER, 7))
    assert exposure(str(place)) == f"group {place.stat().st_gid} may write to {place}"
    assert not is_trusted(place)
    place.chmod(0o750)
    assert exposure(str(place)) == ""
    assert is_trusted(place)


@as_root
def test_a_default_acl_opens_no_file_of_ours(place: Path, tmp_path: Path) -> None:
    """What is made under one is for its owner alone all the same."""
    place.chmod(0o755)
    _set_acl(place, "default", _with_user(OTHER, 7))
    assert is_trusted(place)

    def attack() -> None:
        for path in [place, *place.rglob("*"), place / "00"]:
            for mode in (os.R_OK, os.W_OK):
                assert path == place or not os.access(path, mode)
        with pytest.raises(PermissionError):
            os.listdir(place / "00")

    as_other(attack)


@as_root
def test_a_group_is_never_a_private_one(place: Path) -> None:
    """Not 0, which containers give to any user, nor one that has this user's name and no members."""
    for gid in (0, OTHER):
        os.chown(place, 0, gid)
        place.chmod(0o770)
        assert exposure(str(place)) == f"group {gid} may write to {place}"
        assert not is_trusted(place)
    place.chmod(0o2755)
    assert is_trusted(place)


def test_a_umask_that_lets_the_group_write(tmp_path: Path) -> None:
    """What is made by us is for this user alone; what a user makes so is the group's as well."""
    before = os.umask(0o002)
    try:
        assert is_trusted(tmp_path / "a" / "cache")
        (tmp_path / "b").mkdir()
        assert not is_trusted(tmp_path / "b" / "cache")
    finally:
        os.umask(before)


@as_root
def test_the_commands_as_root_on_another_users_directory(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What only looks works; what would change it says whose it is."""

    def fill() -> None:
        with FileCache(place, 1) as cache:
            cache.set_value("k", 1)

    as_other(fill)
    assert main(["inspect", str(place), "--keys", "k"]) == 0
    assert main(["verify", str(place)]) == 0
    before = owners_in(place)
    assert main(["purge", "--yes", str(place)]) == 1
    assert f"belongs to user {OTHER}" in capsys.readouterr().err
    assert owners_in(place) == before == {OTHER}


# -- locks of loads, and what stays open ---------------------------------------------------------------------


@pytest.mark.parametrize("thing", [_put_link, os.mkfifo, os.mkdir])
def test_locks_of_loads(tmp_path: Path, thing: Callable[[Path], object]) -> None:
    """Neither leases nor slots lock, or make, what was put there."""
    names = ["leases.lock", "loads-1.00.lock"]
    for name in names:
        thing(tmp_path / name)
    with pytest.raises(TierUnavailableError):
        ProcessLeases(tmp_path).try_acquire("k")
    with pytest.raises(TierUnavailableError):
        LoadSlots("loads-1", 1, tmp_path).try_acquire()
    assert sorted(os.listdir(tmp_path)) == names


@as_root
def test_locks_of_loads_that_another_user_left(place: Path) -> None:
    """He may hold them, and goes on to: with the directory one's own again there are others."""
    names = ("leases.lock", "loads-1.00.lock")
    for mode in (0o777, 0o700):
        place.chmod(0o777)

        def attack() -> None:
            for name in names:
                (place / name).touch()

        as_other(attack)
        place.chmod(mode)
        FileCache(place, 1).close()
        assert {(place / name).exists() for name in names} == {mode == 0o777}


@as_root
def test_locks_of_loads_of_another_user(tmp_path: Path) -> None:
    """He could hold them for ever, also where root could open them."""
    for name in ("leases.lock", "loads-1.00.lock"):
        (tmp_path / name).touch()
        os.chown(tmp_path / name, OTHER, OTHER)
    with pytest.raises(TierUnavailableError, match="another user's"):
        ProcessLeases(tmp_path).try_acquire("k")
    with pytest.raises(TierUnavailableError, match="another user's"):
        LoadSlots("loads-1", 1, tmp_path).try_acquire()


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """Those of the directories go with the cache, and with one that could not be opened."""
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "manifest").write_bytes(b"mine")

    def use() -> None:
        with FileCache(tmp_path / "cache", 1) as cache:
            cache.set_value("k", 1)
        with pytest.raises(Exception, match="no cache directory"):
            FileCache(tmp_path / "no", 1)
        folder = Folder.at(str(tmp_path / "cache"))
        assert main(["verify", str(tmp_path / "cache")]) == 0
        assert folder.fd >= 0

    use()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        use()
    assert sorted(os.listdir("/proc/self/fd")) == before
