"""Who may write in a directory decides what is read from it; network file systems are refused."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest
from forking import in_fork

from cachekit import CacheEntry, FileCache, SerializationError, TierUnavailableError
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.tiers.file import permissions
from cachekit.tiers.file.permissions import exposure, network_file_system

OTHER = 12_345  # a user that is not this one

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


class Unlisted:
    """A class that is on no allow-list."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unlisted)

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def tmp_path(reachable: Path) -> Path:
    return reachable


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of this user's own, below directories that are too."""
    path = tmp_path / "above" / "cache"
    path.mkdir(parents=True)
    path.chmod(0o700)
    path.parent.chmod(0o755)
    assert exposure(str(path)) == ""
    return path


def test_a_new_directory_is_this_users_own(tmp_path: Path) -> None:
    """Whatever the umask says."""
    before = os.umask(0)
    try:
        with FileCache(tmp_path / "new", 1) as cache:
            cache.set_value("k", Unlisted())
            assert cache.get_value("k") == Unlisted()
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert modes == {0}, "nobody else may read or write a file of ours"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o772])
def test_who_may_write(place: Path, mode: int) -> None:
    """Everybody, or a group, whichever: in the directory, or above it."""
    place.chmod(mode)
    assert str(place) in exposure(str(place))
    place.chmod(0o700)
    place.parent.chmod(mode)
    assert str(place.parent) in exposure(str(place))
    assert "in its place" in exposure(str(place))
    place.parent.chmod(mode | 0o1000)
    assert exposure(str(place)) == "", "in a sticky directory only the owner renames"


@as_root
def test_whose_it_is(place: Path) -> None:
    """Another user's directory, another user's directory above it, another user's entry in /tmp's kind."""
    os.chown(place, OTHER, -1)
    assert exposure(str(place)) == f"{place} belongs to user {OTHER}"
    place.parent.chmod(0o1777)
    assert f"user {OTHER}" in exposure(str(place)) or "everybody" in exposure(str(place))
    os.chown(place, 0, -1)
    assert exposure(str(place)) == ""
    os.chown(place.parent, OTHER, -1)
    assert str(place.parent) in exposure(str(place)), "whom a sticky directory belongs to renames there too"
    os.chown(place.parent, 0, -1)
    place.parent.chmod(0o755)
    os.chown(place.parent, OTHER, -1)
    assert str(place.parent) in exposure(str(place))

    def as_other() -> None:
        os.setuid(OTHER)
        assert exposure(str(place)) == "", "root's is as good as one's own"

    place.chmod(0o755)
    os.chown(place.parent, OTHER, -1)
    assert in_fork(as_other)() == 0


def test_links_are_followed_to_where_they_lead(place: Path, tmp_path: Path) -> None:
    """Every directory on the way counts: those of the link, and those of what it names."""
    link = tmp_path / "links" / "cache"
    link.parent.mkdir()
    link.parent.chmod(0o755)
    link.symlink_to("../above/../above/cache")
    assert exposure(str(link)) == ""
    link.parent.chmod(0o777)
    assert str(link.parent) in exposure(str(link))
    link.parent.chmod(0o755)
    place.parent.chmod(0o777)
    assert str(place.parent) in exposure(str(link))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic"):
        exposure(str(tmp_path / "loop"))


def test_a_shared_directory_gets_the_allow_list(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a secret only listed classes go in and out; the log says why, and what to do."""
    place.chmod(0o777)
    with FileCache(place, 1) as cache:
        assert "allow-list" in caplog.text
        assert "secret" in caplog.text
        cache.set_value("k", {"plain": (1, None)})
        assert cache.get_value("k") == {"plain": (1, None)}
        with pytest.raises(SerializationError, match="Unlisted"):
            cache.set_value("k", Unlisted())
    caplog.clear()
    with FileCache(place, 1, allow=[Unlisted], namespace="listed") as cache:
        cache.set_value("k", Unlisted())
        assert cache.get_value("k") == Unlisted()
    caplog.clear()
    with FileCache(place, 1, secret="s" * 16, namespace="signed") as cache:
        cache.set_value("k", Unlisted())
        assert cache.get_value("k") == Unlisted()
    with FileCache(place, 1, codec="json", namespace="plain") as cache:
        cache.set_value("k", [1])
    assert caplog.text == "", "what unpickles nothing, or only what is signed, has nothing to fear"


def test_a_poisoned_directory_runs_nothing(place: Path, tmp_path: Path) -> None:
    """What somebody else stored, as if by us, is a miss: by the allow-list, or by the signature."""

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    poisoned = pickle.dumps(Payload())
    place.chmod(0o777)
    with FileCache(place, 1) as cache:
        cache._store.engine().put("k", poisoned, flags=PickleCodec.code)
        assert cache.get_value("k") is None
        assert cache.get("k") is None
        assert cache.get_stats().errors == 2
        with FileCache(place, 1, secret="s" * 16) as signed:
            assert signed.get_value("k") is None
        assert not (tmp_path / "ran").exists()
        assert cache.set_if("k", CacheEntry("k", 1), cache.fence("k")) is True
        # The same in a directory of one's own is believed: so the payload was a real one.
    place.chmod(0o700)
    with FileCache(place, 1) as cache:
        cache._store.engine().put("k", poisoned, flags=PickleCodec.code)
        assert cache.get_value("k", "miss") is None
        assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["tokens", "control", "manifest", "00/*.index", "00/*.segment", "00"])
def test_links_in_the_directory_are_not_followed(
    place: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even to what was there before: it is a miss, and the target stays as it was."""
    caplog.set_level(logging.CRITICAL, logger="cachekit")
    with FileCache(place, 1) as cache:
        for number in range(100):
            cache.set_value(f"k{number}", number)
    (part,) = place.glob(kind)
    elsewhere = tmp_path / "elsewhere"
    part.rename(elsewhere)
    part.symlink_to(elsewhere)
    before = _bytes_of(elsewhere)
    with FileCache(place, 1) as cache:
        assert all(cache.get_value(f"k{number}") is None for number in range(100))
        for number in range(2000):
            cache.set_value(f"new{number % 300}", number)
        assert cache.get_value("new299") == 1799
        cache.invalidate_by_pattern("new1")
        cache.clear()
    assert _bytes_of(elsewhere) == before


@pytest.mark.parametrize("kind", ["users", "structure.lock", "00/lock"])
def test_locks_that_are_links_are_not_followed(place: Path, tmp_path: Path, kind: str) -> None:
    """They would have us lock, or make, a file elsewhere: they are replaced, or refused."""
    with FileCache(place, 1) as cache:
        cache.set_value("k", 1)
    (place / kind).unlink()
    (place / kind).symlink_to(tmp_path / "elsewhere")
    if kind == "00/lock":
        with pytest.raises(TierUnavailableError, match="symbolic links"), FileCache(place, 1) as cache:
            cache.set_value("k", 1)
    else:
        with FileCache(place, 1) as cache:
            cache.set_value("k", 1)
        assert not (place / kind).is_symlink()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("kind", ["00/*.segment", "00/*.index", "tokens", "manifest"])
def test_a_pipe_in_the_directory_stops_nobody(
    place: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening it for reading would wait for a writer for ever."""
    caplog.set_level(logging.CRITICAL, logger="cachekit")
    with FileCache(place, 1) as cache:
        cache.set_value("k", 1)
    (part,) = place.glob(kind)
    part.unlink()
    os.mkfifo(part)
    try:
        with FileCache(place, 1) as cache:
            assert cache.get_value("k") is None
    except TierUnavailableError:
        pass


def _bytes_of(path: Path) -> list[bytes]:
    return [path.read_bytes()] if path.is_file() else [file.read_bytes() for file in sorted(path.iterdir())]


MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:40 / /net rw,relatime shared:5 - nfs4 server:/x rw
23 22 8:2 / /net/local rw - xfs /dev/sdb1 rw
24 21 0:41 / /with\\040space rw - fuse.sshfs host:/ rw
25 21 0:42 / /twice rw - tmpfs tmpfs rw
26 21 0:43 / /twice rw - cifs //server/share rw
"""


def test_network_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the mount that the path is on, whatever is above and below it."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(permissions, "_MOUNTS", str(mounts))
    kinds = {path: network_file_system(path) for path in (
        "/net", "/net/a/b", "/network", "/net/local/a", "/with space/x", "/twice/x", "/", str(tmp_path)
    )}  # fmt: skip
    assert kinds == {
        "/net": "nfs4", "/net/a/b": "nfs4", "/network": "", "/net/local/a": "", "/with space/x": "fuse.sshfs",
        "/twice/x": "cifs", "/": "", str(tmp_path): "",
    }  # fmt: skip
    monkeypatch.setattr(permissions, "_MOUNTS", str(tmp_path / "none"))
    assert network_file_system("/net") == ""


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made there, and unless told otherwise."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n22 21 0:4 / {tmp_path} rw - nfs s:/ rw\n")
    monkeypatch.setattr(permissions, "_MOUNTS", str(mounts))
    with pytest.raises(TierUnavailableError, match="allow_network_fs=True") as caught:
        FileCache(tmp_path / "cache", 1)
    assert "nfs" in str(caught.value)
    assert not (tmp_path / "cache").exists()
    with FileCache(tmp_path / "cache", 1, allow_network_fs=True) as cache:
        cache.set_value("k", 1)
        with pickle.loads(pickle.dumps(cache)) as copy:
            assert copy.get_value("k") == 1
    with pytest.raises(TypeError, match="allow_network_fs"):
        FileCache(tmp_path / "cache", 1, allow_network_fs="yes")  # type: ignore[arg-type]


@as_root
def test_another_users_directory(place: Path, tmp_path: Path) -> None:
    """One that may not be entered is unavailable, with the path; nothing else happens."""
    FileCache(tmp_path / "before", 1).close()  # loads what the other user may not be able to load
    for above in list(place.parents)[:4]:
        above.chmod(0o755)

    def as_other() -> None:
        os.setuid(OTHER)
        with pytest.raises(TierUnavailableError, match="Permission denied") as caught:
            FileCache(place, 1)
        assert str(place) in str(caught.value)

    assert in_fork(as_other)() == 0
