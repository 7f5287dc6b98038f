"""A cache directory as a whole: made, checked, taken up or emptied, by one process at a time.

It promises that a directory is in one shape for all who have it open. Whoever opens holds `structure.lock`
for that moment, and then a shared flock on `users` for as long as it stays. What cannot be taken up as it
is (another format version, another limit, damage) is emptied if nobody else is in it; if somebody is,
another limit gives way to theirs, and the rest is a FileFormatError. Nothing is emptied that is not
known to be a cache: a directory in which somebody else's files have names that a cache would use is a
FileFormatError too, and in a cache only files named like a cache's are ever removed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, final
from zlib import crc32

from cachekit.errors import FileFormatError, LockTimeoutError
from cachekit.tiers.file.engine import control_block, fence_tokens
from cachekit.tiers.file.engine.file_ops import FileOps, make_directories, open_or_make, open_ours
from cachekit.tiers.file.engine.format import FORMAT, Geometry

#: The file that everybody who has the directory open keeps open: as long as it is the same, so is all else.
USERS: Final = "users"

_STRUCTURE_LOCK: Final = "structure.lock"
_MANIFEST: Final = "manifest"
_MADE: Final = (_MANIFEST, "tokens", "control", _MANIFEST + ".new")
#: How our files begin, if they are not empty; the first byte of two of them counts the format.
_BEGINNINGS: Final = {
    _MANIFEST: re.compile(rb"[0-9a-f]{8} \{"),
    _MANIFEST + ".new": re.compile(rb"[0-9a-f]{8} \{"),
    "tokens": re.compile(rb".kTOKEN", re.DOTALL),
    "control": re.compile(rb".kCTRL", re.DOTALL),
}
_IN_SHARD: Final = re.compile(r"lock|[0-9a-f]+-[0-9a-f]+\.(segment|index)")


@final
@dataclass(frozen=True)
class Directory:
    """An opened directory.

    Attributes:
        path: where.
        geometry: its shape.
        salt: of its hashes.
        users: the descriptor that says that we are in it.
    """

    path: str
    geometry: Geometry
    salt: bytes
    users: int


def is_cache(path: str) -> bool:
    """Whether somebody made a cache in the directory, sound or not.

    Whoever makes one makes the lock before anything else. If somebody has removed that, the manifest tells,
    whose checksum no other file has.

    Raises:
        OSError: it may not be read.
    """
    return os.path.isfile(f"{path}/{_STRUCTURE_LOCK}") or read_manifest(path)[0] not in (None, -1)


def open_directory(path: str, geometry: Geometry, patience: float, effects: FileOps) -> Directory:
    """Take the directory up, or make it.

    Raises:
        FileFormatError: somebody else uses it in a way that we cannot join, or it is no cache.
        LockTimeoutError: somebody else was opening it all the time.
        OSError: it cannot be made, read or written.
    """
    # Loaded here: importing filelock costs six times what a bare interpreter does.
    from filelock import FileLock, Timeout

    make_directories(path)
    _refuse_foreign(path)  # before there is a lock: that is what tells a cache
    # One object per call, and no singleton: threads and processes exclude each other alike.
    lock = FileLock(
        f"{path}/{_STRUCTURE_LOCK}",
        timeout=patience,
        mode=0o600,
        thread_local=False,
        poll_interval=0.005,
        fallback_to_soft=False,
    )
    try:
        lock.acquire()
    except Timeout as error:
        raise LockTimeoutError(f"{path} was being opened by another process for {patience} s") from error
    try:
        if _lacks_a_part(path):
            # Whoever has it open goes on without, and so could nobody come in until all of them have ended.
            # Without the file that stands for the whole they open it anew, as it is made now.
            with suppress(FileNotFoundError):
                effects.unlink(f"{path}/{USERS}")
        users = open_or_make(f"{path}/{USERS}")
        try:
            found, salt = _enter(path, geometry, users, effects)
        except BaseException:
            os.close(users)
            raise
    finally:
        lock.release()
    return Directory(path, found, salt, users)


def _lacks_a_part(path: str) -> bool:
    """Whether a file that a cache of this format must have is not there."""
    version = read_manifest(path)[0]
    parts = ("tokens", "control") if version == FORMAT else ()
    return version is None or not all(os.path.lexists(f"{path}/{part}") for part in parts)


def _enter(path: str, wanted: Geometry, users: int, effects: FileOps) -> tuple[Geometry, bytes]:
    """The shape and the salt of the directory, which is sound, and which `users` then says we are in."""
    version, found, salt, _ = read_manifest(path)
    sound = (
        version == FORMAT
        and found is not None
        and fence_tokens.is_sound(f"{path}/tokens", found)
        and control_block.is_sound(f"{path}/control", found)
        and not any(entry.is_symlink() for entry in list(os.scandir(path)) if _is_ours(entry.name))
    )
    alone = False
    if not sound or found != wanted:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            pass
    if alone:
        if version is not None:
            what = f"format {version}" if version != FORMAT else "damage" if not sound else "another limit"
            logging.getLogger("cachekit").warning("%s is emptied: it had %s", path, what)
        found, salt = wanted, _make(path, wanted, effects)
    elif not sound or found is None:
        what = "damaged" if version in (None, -1, FORMAT) else f"of format {version}, not {FORMAT}"
        raise FileFormatError(
            f"{path} is in use, and is {what}; end the processes that use it, or choose another directory"
        )
    elif found != wanted:
        logging.getLogger("cachekit").warning(
            "%s is in use with a limit of %d bytes, which stays; %d was asked for",
            path,
            found.limit,
            wanted.limit,
        )
    # From exclusive to shared is not one step, but whoever could come between waits for structure.lock.
    fcntl.flock(users, fcntl.LOCK_SH)
    return found, salt


def _make(path: str, geometry: Geometry, effects: FileOps) -> bytes:
    """Empty the directory of what is ours, and make it anew; the salt of its hashes.

    The manifest goes first and comes last: without it, all the rest counts for nothing.
    """
    for name in _MADE:
        try:
            effects.unlink(f"{path}/{name}")
        except FileNotFoundError:
            pass
    for entry in list(os.scandir(path)):
        if not _is_shard(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            _remove_shard(entry.path, effects)
        else:  # a link, of which nothing is followed
            effects.unlink(entry.path)
    fence_tokens.create(f"{path}/tokens", geometry, effects)
    control_block.create(f"{path}/control", geometry, effects)
    salt = os.urandom(16)
    shape = {"format": FORMAT, "salt": salt.hex(), "made": int(time.time()), "geometry": asdict(geometry)}
    body = json.dumps(shape, sort_keys=True).encode()
    new = f"{path}/{_MANIFEST}.new"
    fd = effects.create(new)
    try:
        effects.pwrite(fd, b"%08x %s\n" % (crc32(body), body), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    effects.replace(new, f"{path}/{_MANIFEST}")
    return salt


def read_manifest(path: str) -> tuple[int | None, Geometry | None, bytes, int]:
    """Format version, shape, salt, and when it was made; a version of None: no manifest, -1: it is damaged.

    The checksum and the name of the version are for all formats to come; the rest belongs to this one.
    """
    try:
        with open(f"{path}/{_MANIFEST}", "rb", opener=open_ours) as file:
            checksum, _, body = file.read(1 << 16).rstrip(b"\n").partition(b" ")
    except FileNotFoundError:
        return None, None, b"", 0
    try:
        if int(checksum, 16) != crc32(body):
            return -1, None, b"", 0
        shape = json.loads(body)
        if shape["format"] != FORMAT:
            return int(shape["format"]), None, b"", 0
        geometry = Geometry(**shape["geometry"])
        salt, made = bytes.fromhex(shape["salt"]), int(shape["made"])
    except (ValueError, KeyError, TypeError):
        return -1, None, b"", 0
    return (FORMAT, geometry, salt, made) if geometry.is_sound() and len(salt) == 16 else (-1, None, b"", 0)


def _refuse_foreign(path: str) -> None:
    """Raise FileFormatError if there is something in our way that no cache has made."""
    names = [name for name in sorted(os.listdir(path)) if _is_ours(name)]
    if not names or is_cache(path):
        return
    # It may still be what is left of one: of a removal that was cut short, or that a writer got into.
    for name in names:
        if _is_foreign(f"{path}/{name}", name):
            raise FileFormatError(
                f"{path} is no cache directory, and holds {name!r}, which a cache would take for its own; "
                f"choose an empty directory, or one that does not exist"
            )


def _is_foreign(path: str, name: str) -> bool:
    """Whether it is somebody else's, although it has a name of ours."""
    try:
        if _is_shard(name):
            return os.path.islink(path) or not all(map(_IN_SHARD.fullmatch, os.listdir(path)))
        with open(path, "rb", opener=open_ours) as file:
            beginning = file.read(16)
    except FileNotFoundError:
        return os.path.islink(path)  # or it has just gone
    except (NotADirectoryError, IsADirectoryError):
        return True
    expected = _BEGINNINGS.get(name)
    return bool(beginning) and (expected is None or not expected.match(beginning))


def _remove_shard(path: str, effects: FileOps) -> None:
    for name in filter(_IN_SHARD.fullmatch, os.listdir(path)):
        effects.unlink(f"{path}/{name}")
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Somebody has put something else into it, and may want it back.


def _is_ours(name: str) -> bool:
    return name in (USERS, _STRUCTURE_LOCK, *_MADE) or _is_shard(name)


def _is_shard(name: str) -> bool:
    return len(name) == 2 and all(letter in "0123456789abcdef" for letter in name)
