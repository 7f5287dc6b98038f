"""A lease or slot that cannot be made: the load goes on without it, and the file tier stays in use."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cachekit import FileCache, IntelligentCache, LoadOptions, TierUnavailableError
from cachekit.loading import process_lease, slots
from cachekit.testing.processes import in_processes

OPTIONS = LoadOptions(lease="process", max_concurrent_loads=3, lease_timeout=30)


@contextmanager
def no_inodes(disk: Path) -> Iterator[None]:
    found = os.statvfs(disk)
    used = found.f_files - found.f_ffree
    subprocess.run(["mount", "-o", f"remount,nr_inodes={used}", disk], check=True)
    with pytest.raises(OSError, match="No space"):
        (disk / "new").touch()
    yield
    subprocess.run(["mount", "-o", f"remount,nr_inodes={found.f_files}", disk], check=True)


def test_no_inode(disk: Path) -> None:
    file = FileCache(disk / "d", 1)
    with IntelligentCache(file_cache=file, load=OPTIONS) as cache:
        cache.set("before", 0)
        with no_inodes(disk):
            for number in range(300):
                assert cache.get_or_set(f"k{number}", lambda: "loaded") == "loaded"
                assert file.get_value(f"k{number}") == "loaded", "the tier was given up"
        assert not list((disk / "d").glob("l*.lock"))


def test_no_descriptor(tmp_path: Path) -> None:
    def work(_: int) -> list[object]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        file = FileCache(tmp_path, 1)
        with IntelligentCache(file_cache=file, load=OPTIONS) as cache:
            cache.set("before", 0)
            assert file.get_value("before") == 0  # what the tier needs is open
            held = []
            with suppress(OSError):
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            found = [
                (cache.get_or_set(f"k{number}", lambda: "loaded"), file.get_value(f"k{number}"))
                for number in range(100)
            ]
            for fd in held:
                os.close(fd)
            return [*set(found), len(list(tmp_path.glob("l*.lock")))]

    assert in_processes(1, work) == [[("loaded", "loaded"), 0]]


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOLCK, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("strict", [False, True])
def test_whatever_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, strict: bool
) -> None:
    """A strict cache says so; none gives up the tier."""

    def refuse(path: str, flags: int = 0) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(process_lease, "open_lock", refuse)
    monkeypatch.setattr(slots, "open_lock", refuse)
    file = FileCache(tmp_path, 1)
    with IntelligentCache(file_cache=file, load=OPTIONS, strict=strict) as cache:
        for key in ("j", "k"):
            if strict:
                with pytest.raises(TierUnavailableError, match="no lease could be taken"):
                    cache.get_or_set(key, lambda: 1)
                cache.set(key, 1)
            else:
                assert cache.get_or_set(key, lambda: 1) == 1
            assert file.get_value(key) == 1
