"""A cache's directory among other things: what is not ours stays, and is in nobody's way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cachekit import FileCache, FileFormatError, TierUnavailableError
from cachekit.tiers.file.location import directory_of


def everything_in(path: Path) -> dict[str, bytes | None]:
    """The names below a directory, and what the files hold."""
    return {
        str(one.relative_to(path)): one.read_bytes() if one.is_file() else None for one in path.rglob("*")
    }


@pytest.mark.parametrize(
    "name", ["de/messages.po", "fa/x.segment", "manifest", "tokens", "control", "manifest.new", "users", "0a"]
)
def test_a_directory_that_is_no_cache_is_not_emptied(tmp_path: Path, name: str) -> None:
    """A directory of translations has a "de", and a project a "manifest": neither is touched."""
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_bytes(b"precious")
    (tmp_path / "other").write_bytes(b"too")
    before = everything_in(tmp_path)
    with pytest.raises(FileFormatError, match="is no cache directory, and holds"):
        FileCache(tmp_path, 1)
    assert everything_in(tmp_path) == before


def test_other_files_beside_a_cache_stay(tmp_path: Path) -> None:
    """Also below a name that a shard might have, when the directory is emptied for another limit."""
    for name in ("README", "deep/README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"precious")
    with FileCache(tmp_path, 1) as cache:
        cache.set_value("key", "value")
    for name in ("00", "de"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "mine").write_bytes(b"precious")
    with FileCache(tmp_path, 2) as cache:
        assert cache.get_value("key") is None
        cache.set_value("key", "value")
        assert cache.get_value("key") == "value"
    for name in ("README", "deep/README", "00/mine", "de/mine"):
        assert (tmp_path / name).read_bytes() == b"precious"


@pytest.mark.parametrize("removed", ["structure.lock", "users", "manifest"])
def test_a_cache_without_one_of_its_files_is_still_a_cache(tmp_path: Path, removed: str) -> None:
    """What is left of one is taken up or made anew, and not taken for somebody else's."""
    with FileCache(tmp_path, 1) as cache:
        cache.set_value("key", "value")
    (tmp_path / removed).unlink()
    with FileCache(tmp_path, 1) as cache:
        assert cache.get_value("key") == (None if removed == "manifest" else "value")


@pytest.mark.parametrize(
    "removed", [["structure.lock", "manifest"], ["structure.lock", "manifest", "users", "tokens", "control"]]
)
def test_what_a_removal_left_is_made_anew(tmp_path: Path, removed: list[str]) -> None:
    """One that was cut short, or that a process got into which made its lock anew."""
    with FileCache(tmp_path, 1) as cache:
        cache.set_value("key", "value")
    for name in removed:
        (tmp_path / name).unlink()
    with FileCache(tmp_path, 1) as cache:
        assert cache.get_value("key") is None
        assert cache.set_value("key", "value")


def test_a_link_that_is_not_ours_is_no_damage(tmp_path: Path) -> None:
    """What somebody links to from beside a cache is none of its files."""
    with FileCache(tmp_path, 1) as cache:
        cache.set_value("key", "value")
    (tmp_path / "latest").symlink_to(tmp_path / "nowhere")
    with FileCache(tmp_path, 1) as cache:
        assert cache.get_value("key") == "value"


def test_directories_above_are_made_for_this_user_alone_too(tmp_path: Path) -> None:
    """Or, under a umask that lets everybody write, somebody could put another cache in its place."""
    before = os.umask(0)
    try:
        FileCache(tmp_path / "a" / "b", 1, namespace="program").close()
    finally:
        os.umask(before)
    for path in ("a", "a/b", "a/b/program"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("path", ["/proc/nowhere/cache", "/dev/null/cache", "{}/file/cache", "{}/link/cache"])
def test_where_no_directory_can_be_made(tmp_path: Path, path: str) -> None:
    """Says so at once."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TierUnavailableError, match="cannot be used"):
        FileCache(path.format(tmp_path), 1)


def test_no_two_namespaces_share_a_directory() -> None:
    """Neither where letters of both cases are one to the file system, nor if one is spelled like a digest."""
    odd = os.path.basename(directory_of("/x", "a b!"))
    names = ["a b!", odd, "Abc", "abc", "ABC", "users", "de"]
    found = {directory_of("/x", name).lower() for name in names}
    assert len(found) == len(names)
    assert directory_of("/x", "my.program-2_x") == "/x/my.program-2_x"
