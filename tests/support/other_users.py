"""Another user, whom root plays: what he leaves in a cache directory, and who sees it."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from forking import in_fork

from cachekit import FileCache, TierUnavailableError
from cachekit.serialization.pickle_codec import PickleCodec
from cachekit.tiers.file.engine.engine import Engine

OTHER = 12_345  # a user that is not this one
SECRET = "0123456789abcdef"
KINDS = [
    "structure.lock", "users", "manifest", "tokens", "control", "00", "00/lock", "00/*.index", "00/*.segment",
]  # fmt: skip

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")


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
def place(reachable: Path) -> Path:
    """A directory in which others may write."""
    path = reachable / "cache"
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


def put_link(path: Path) -> None:
    """Put a symbolic link there."""
    path.symlink_to("/etc/hostname")


def put_socket(path: Path) -> None:
    """Put a socket there."""
    # By a short name: that of a socket has a limit.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def put_device(path: Path) -> None:
    """Put a device there."""
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
