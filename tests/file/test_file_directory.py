"""A cache's directory among other things: what is not ours stays, and is in nobody's way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cachekit import FileCache, FileFormatError, TierUnavailableError
from cachekit.tiers.file.engine import engine
from cachekit.tiers.file.engine.directory import Directory, open_directory
from cachekit.tiers.file.paths import directory_of


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


@pytest.mark.parametrize("part", ["manifest", "tokens", "control"])
def test_a_part_that_is_removed_while_a_process_is_in(tmp_path: Path, part: str) -> None:
    """Others open it all the same, and the one that is in it sees what they write, from then on."""
    path = tmp_path / "c"
    with FileCache(path, 1, cleanup_interval=None) as cache:
        cache.set_value("k", "old")
        (path / part).unlink()
        code = f"from cachekit import FileCache; FileCache({str(path)!r}, 1).set_value('k', 'new')"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
        assert cache.set_value("other", 2)
        assert cache.get_value("k") in (None, "new")
        code = f"from cachekit import FileCache; print(FileCache({str(path)!r}, 1).get_value('other'))"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
        assert ended.stdout == b"2\n"


def test_a_lock_that_is_removed_keeps_nobody_out(tmp_path: Path) -> None:
    """So who has it does not write: whoever came since has another one. Then all have the same again."""
    with FileCache(tmp_path / "c", 1, cleanup_interval=None) as cache:
        cache.set_value("k", "old")
        (tmp_path / "c" / "00" / "lock").unlink()
        with pytest.raises(TierUnavailableError, match="removed"):
            cache.set_value("k", "new")
        assert cache.set_value("k", "new")
        assert cache.get_value("k") == "new"


def test_a_shard_that_is_removed_fails_one_call(tmp_path: Path) -> None:
    """Whoever meets that has the directory opened anew, and so have readers at once."""
    with FileCache(tmp_path / "c", 1, cleanup_interval=None) as cache:
        keys = [f"k{number}" for number in range(100)]
        for key in keys:
            cache.set_value(key, b"x" * 1000)
        shutil.rmtree(tmp_path / "c" / "00")
        with pytest.raises(TierUnavailableError):
            cache.set_value("k0", 1)
        assert [key for key in keys if cache.get_value(key) is not None] == []
        assert cache.set_value("k0", 1)


def test_a_directory_that_is_replaced_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody is making the new one, whose files have not got their size: that is an outage."""
    path = tmp_path / "c"
    for part in ("tokens", "control"):

        def replaced(*arguments: Any, part: str = part) -> Directory:
            opened = open_directory(*arguments)
            (path / part).write_bytes(b"")
            return opened

        monkeypatch.setattr(engine, "open_directory", replaced)
        with pytest.raises(TierUnavailableError):
            FileCache(path, 1)
        monkeypatch.undo()
        with FileCache(path, 1, cleanup_interval=None) as cache:
            assert cache.set_value("k", 1)
