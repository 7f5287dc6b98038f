"""What another user did to a cache directory while he could write in it: none of it is used, or runs.

The tests that need a second user are run by root, who plays both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest
from other_users import (
    KINDS,
    OTHER,
    SECRET,
    Unlisted,
    as_other,
    as_root,
    is_trusted,
    owners_in,
    poison,
    unavailable_if,
)

from cachekit import FileCache, TierUnavailableError

pytestmark = pytest.mark.timeout(60)


@as_root
@pytest.mark.parametrize("opened", [False, True])
def test_what_another_user_made_there_goes(
    place: Path, reachable: Path, opened: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With the mode of the directory alone the log's advice would have his pickle read."""
    ran = reachable / "ran"

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
    place: Path, reachable: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what is our own by now: files that were copied, renamed or put back there."""
    poison(place, reachable / "ran")
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
    assert not (reachable / "ran").exists()
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
    place: Path, reachable: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One from before others could write, beside what was made since."""
    place.chmod(0o700)
    assert is_trusted(place)
    place.chmod(0o777)
    (place / "manifest").rename(place / "aside")
    poison(place, reachable / "ran")
    (place / "aside").rename(place / "manifest")
    place.chmod(0o700)
    with FileCache(place, 1) as cache:
        assert cache.get_value("k", "miss") == "miss"
    assert "is emptied: it had damage" in caplog.text, "its control file is of another manifest"
    assert not (reachable / "ran").exists()


@as_root
def test_a_manifest_that_another_user_wrote_vouches_for_nothing(place: Path, reachable: Path) -> None:
    """It says that no other user could write there, ever."""
    poison(place, reachable / "ran")
    body = (place / "manifest").read_bytes().partition(b" ")[2]
    body = json.dumps(json.loads(body) | {"private": True}, sort_keys=True).encode()
    (place / "manifest").write_bytes(b"%08x %s\n" % (crc32(body), body))
    os.chown(place / "manifest", OTHER, OTHER)
    place.chmod(0o700)
    with FileCache(place, 1) as cache:
        assert cache.get_value("k", "miss") == "miss"
    assert not (reachable / "ran").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["mode", "hard link"])
def test_a_file_that_others_may_open_or_name(place: Path, reachable: Path, kind: str, how: str) -> None:
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
        os.link(part, reachable / "other")
    number = part.stat().st_ino
    kept = os.open(part, os.O_RDONLY)  # or the number of the file is used again
    with unavailable_if(kind == "00/lock", "00/lock"), FileCache(place, 1) as cache:
        cache.set_value("k", "new")
        assert cache.get_value("k") == "new"
        (part,) = place.glob(kind)
        assert part.stat().st_ino != number or part.is_dir()
        assert not part.stat().st_mode & 0o077
    os.close(kept)
