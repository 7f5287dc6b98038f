"""Links, pipes and other things in the place of files, in directories and among the locks of loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from other_users import KINDS, OTHER, SECRET, as_other, as_root, put_device, put_link, put_socket

from cachekit import FileCache, FileFormatError, TierUnavailableError
from cachekit.cli import main
from cachekit.loading.process_lease import ProcessLeases
from cachekit.loading.slots import LoadSlots
from cachekit.tiers.file import permissions
from cachekit.tiers.file.descriptor import OpenFile
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.folder import Folder

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("thing", [put_link, os.mkfifo, put_socket, put_device, os.mkdir])
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_no_regular_file(place: Path, kind: str, thing: Callable[[Path], object], mode: int) -> None:
    """In the place of any file of ours: a miss, or TierUnavailableError, and never a wait."""
    if thing is put_device and os.geteuid():
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
def test_a_link_in_the_place_of_a_shard(place: Path, reachable: Path, secret: str | None) -> None:
    """Put there after the directory was opened: nothing behind it is removed, read or made."""
    precious = reachable / "precious"
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
    place: Path, reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was looked at is the one that is used, whatever has its name by then."""
    place.chmod(0o700)
    moved, trap = reachable / "moved", reachable / "trap"
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


def test_another_directory_under_the_same_number(place: Path, reachable: Path) -> None:
    """A hard link to the file by which a process knows what it has open leads to no other directory."""
    with FileCache(reachable / "own", 1, cleanup_interval=None) as own:
        own.set_value("k", "own")
        FileCache(place, 1).close()
        (place / "users").unlink()
        os.link(reachable / "own" / "users", place / "users")
        with FileCache(place, 1, cleanup_interval=None) as cache:
            assert cache.get_value("k") is None


@pytest.mark.parametrize("thing", [put_link, os.mkfifo, os.mkdir])
def test_locks_of_loads(reachable: Path, thing: Callable[[Path], object]) -> None:
    """Neither leases nor slots lock, or make, what was put there."""
    names = ["leases.lock", "loads-1.00.lock"]
    for name in names:
        thing(reachable / name)
    with pytest.raises(TierUnavailableError):
        ProcessLeases(reachable).try_acquire("k")
    with pytest.raises(TierUnavailableError):
        LoadSlots("loads-1", 1, reachable).try_acquire()
    assert sorted(os.listdir(reachable)) == names


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
def test_locks_of_loads_of_another_user(reachable: Path) -> None:
    """He could hold them for ever, also where root could open them."""
    for name in ("leases.lock", "loads-1.00.lock"):
        (reachable / name).touch()
        os.chown(reachable / name, OTHER, OTHER)
    with pytest.raises(TierUnavailableError, match="another user's"):
        ProcessLeases(reachable).try_acquire("k")
    with pytest.raises(TierUnavailableError, match="another user's"):
        LoadSlots("loads-1", 1, reachable).try_acquire()


def test_no_descriptor_stays_open(reachable: Path) -> None:
    """Those of the directories go with the cache, and with one that could not be opened."""
    (reachable / "no").mkdir()
    (reachable / "no" / "manifest").write_bytes(b"mine")

    def use() -> None:
        with FileCache(reachable / "cache", 1) as cache:
            cache.set_value("k", 1)
        with pytest.raises(Exception, match="no cache directory"):
            FileCache(reachable / "no", 1)
        folder = Folder.at(str(reachable / "cache"))
        assert main(["verify", str(reachable / "cache")]) == 0
        assert folder.fd >= 0

    use()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        use()
    assert sorted(os.listdir("/proc/self/fd")) == before
