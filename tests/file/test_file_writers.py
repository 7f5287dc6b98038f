"""Who may write in a cache directory: modes, groups, ACLs, root."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from other_users import OTHER, as_other, as_root, is_trusted, owners_in

from cachekit import FileCache
from cachekit.cli import main
from cachekit.tiers.file.permissions import exposure

pytestmark = pytest.mark.timeout(60)


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
def test_a_default_acl_opens_no_file_of_ours(place: Path, reachable: Path) -> None:
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


def test_a_umask_that_lets_the_group_write(reachable: Path) -> None:
    """What is made by us is for this user alone; what a user makes so is the group's as well."""
    before = os.umask(0o002)
    try:
        assert is_trusted(reachable / "a" / "cache")
        (reachable / "b").mkdir()
        assert not is_trusted(reachable / "b" / "cache")
    finally:
        os.umask(before)


@as_root
def test_the_commands_as_root_on_another_users_directory(
    place: Path, reachable: Path, capsys: pytest.CaptureFixture[str]
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
