"""A cache directory as a whole: made, checked, opened or emptied, by one process at a time.

All processes that have a directory open use it in one format and shape. A process that opens it holds
`structure.lock` during that, and afterwards a shared flock on `users`. If the directory has another format
version, another limit or damage, it is emptied, unless another process uses it. If one does, its limit stays,
and another version or damage is a FileFormatError. Only a cache is emptied. If files that no cache has made
have names that a cache would use, that is a FileFormatError too. In a cache, only files with a cache's names
are removed.

The manifest says whether only this user could write to the directory since it was made. It counts only if it
is a file of this user. When another user gets write permission, the manifest says so before anything is used.
If other users could write once and cannot any more, everything is removed and made again before it is
trusted.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, final
from zlib import crc32

from cachekit.errors import FileFormatError, LockTimeoutError
from cachekit.runtime.interrupts import is_interrupt, raise_interrupt
from cachekit.tiers.file.descriptor import OpenFile
from cachekit.tiers.file.engine import control_block, fence_tokens
from cachekit.tiers.file.engine.file_ops import FileOps, regrow
from cachekit.tiers.file.engine.format import DATA_NAME, FORMAT, Geometry, mebibytes
from cachekit.tiers.file.engine.segments import discard
from cachekit.tiers.file.folder import Folder, ForeignError

#: Every process that uses the directory keeps this file open. If it is another one, so is the directory.
USERS: Final = "users"

_STRUCTURE_LOCK: Final = "structure.lock"
MANIFEST: Final = "manifest"
_MADE: Final = (MANIFEST, fence_tokens.NAME, control_block.NAME, MANIFEST + ".new")
#: How a cache's files begin, if they are not empty. The first byte of two of them is the format version.
_BEGINNINGS: Final = {
    MANIFEST: re.compile(rb"[0-9a-f]{8} \{"),
    MANIFEST + ".new": re.compile(rb"[0-9a-f]{8} \{"),
    "tokens": re.compile(rb".kTOKEN", re.DOTALL),
    "control": re.compile(rb".kCTRL", re.DOTALL),
}
#: The lock files that `cachekit.loading` makes in a cache directory.
_LOCKS: Final = re.compile(r"leases\.lock|lease-[0-9a-f]{2}\.lock|loads-[1-9][0-9]*\.[0-9]{2,}\.lock")
_POLL: Final = 0.005
_LATEST: Final = 1 << 40  # seconds since the epoch, later than any clock says


@final
@dataclass(frozen=True)
class Directory:
    """An opened directory.

    Attributes:
        folder: the directory.
        geometry: its shape.
        salt: of its hashes.
        users: the open file `users`, with a shared flock. It closes itself when it is dropped.
        exposure: why other users may have changed the directory; empty if they never could.
    """

    folder: Folder
    geometry: Geometry
    salt: bytes
    users: OpenFile
    exposure: str


@final
@dataclass(frozen=True)
class Manifest:
    """What the manifest of a directory says.

    Attributes:
        version: of the format; None if there is no manifest, -1 if it is damaged.
        geometry: the shape; None for another version.
        salt: of its hashes.
        made: when, in seconds since the epoch.
        private: whether only this user could write to the directory since then.
    """

    version: int | None
    geometry: Geometry | None = None
    salt: bytes = b""
    made: int = 0
    private: bool = False


def is_cache(folder: Folder) -> bool:
    """Tell whether there is a cache in the directory, sound or not.

    A cache makes the lock file before anything else. If that was removed, the manifest tells, because no
    other file has its checksum.

    Raises:
        OSError: no permission to read it.
    """
    lock = folder.look(_STRUCTURE_LOCK)
    if lock is not None and stat.S_ISREG(lock.st_mode):
        return True
    return read_manifest(folder).version not in (None, -1)


def open_directory(path: str, geometry: Geometry, patience: float, effects: FileOps) -> Directory:
    """Open the directory, or make it.

    Raises:
        FileFormatError: other processes use it in a format or state that this one cannot join, or it holds
            files that no cache has made.
        LockTimeoutError: other processes were opening it all the time.
        OSError: it cannot be made, read or written.
    """
    # Loaded here: importing filelock costs six times what a bare interpreter does.
    from filelock import unlock_descriptor

    folder = Folder.at(path, make=True)
    _refuse_foreign(folder)  # before the lock file is made, by which is_cache() tells a cache
    _refuse_others(folder)
    _replace_locks(folder, patience, effects)
    lock = _lock(folder, patience)
    try:
        if _is_damaged(folder):
            # Processes that have it open go on with that, and no other could open it until they end.
            # Without the file that stands for the whole directory, they open it again, as it is made now.
            _remove_mapped(folder, geometry, effects)
            with suppress(FileNotFoundError):
                effects.unlink(folder, USERS)
        users = folder.open_or_make(USERS)
        try:
            found, salt, exposure = _enter(folder, geometry, users.fd, effects)
        except BaseException:
            users.close()
            raise
    finally:
        # Closing it is not enough: a child that another thread has just forked has the descriptor too.
        unlock_descriptor(lock.fd)
        lock.close()
    return Directory(folder, found, salt, users, exposure)


def _remove_mapped(folder: Folder, wanted: Geometry, effects: FileOps) -> None:
    """Remove the files that processes map for as long as they use the directory.

    One that was cut gets its size back first. Those processes use it once more before they open the directory
    again, and the use of a page that is gone is SIGBUS.
    """
    found = read_manifest(folder).geometry or wanted
    for name, size in (control_block.NAME, found.control_size), (fence_tokens.NAME, found.tokens_size):
        try:
            regrow(folder, name, size, effects, blocks=False)
        except OSError as error:
            if is_interrupt(error):
                raise
            # It is no file of this cache, so no process maps it; or the system has no room for the size.
        _remove(folder, name, effects)


def _lock(folder: Folder, patience: float) -> OpenFile:
    """Return `structure.lock`, locked."""
    from filelock import lock_descriptor

    deadline = time.monotonic() + patience
    while True:
        # Opened for each attempt: the file that another process holds may be removed, and a new one made.
        file = folder.open_or_make(_STRUCTURE_LOCK)
        try:
            if lock_descriptor(file.fd, blocking=False) and os.fstat(file.fd).st_nlink:
                return file
        except BaseException:
            file.close()  # now: a traceback that is kept would keep the lock
            raise
        file.close()
        _pause(folder, deadline, patience)


def _pause(folder: Folder, deadline: float, patience: float) -> None:
    if time.monotonic() >= deadline:
        raise LockTimeoutError(
            f"another process was opening {folder.path} for {patience} s; "
            f"it is stopped, or the disk is very slow"
        )
    time.sleep(_POLL)


def _refuse_others(folder: Folder) -> None:
    """Raise ForeignError for a file of another user who may write here: only that user may remove it."""
    if not folder.exposure:
        return
    for name in filter(_is_ours, folder.names()):
        found = folder.look(name)
        if found is not None and found.st_uid not in folder.owners:
            reason = f"{folder.exposure}, and its {name!r} belongs to user {found.st_uid}"
            raise ForeignError(reason, folder.path)


def _replace_locks(folder: Folder, patience: float, effects: FileOps) -> None:
    """Remove lock files of other users, who could hold them for ever."""
    names = [name for name in folder.names() if name in (_STRUCTURE_LOCK, USERS) or _LOCKS.fullmatch(name)]
    if not any(map(folder.objection, names)):
        return
    deadline = time.monotonic() + patience
    while True:
        try:
            # This locks the directory itself, so that no process removes a file that another one has made
            # since the check.
            fcntl.flock(folder.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            _pause(folder, deadline, patience)
    try:
        for name in names:
            found = folder.look(name)
            is_theirs = found is not None and found.st_uid not in folder.owners
            if folder.objection(name) and not (folder.exposure and is_theirs):
                _remove(folder, name, effects)
    finally:
        fcntl.flock(folder.fd, fcntl.LOCK_UN)


def _is_damaged(folder: Folder) -> bool:
    """Tell whether a file that a cache of this format must have is missing or damaged."""
    manifest = read_manifest(folder)
    found = manifest.geometry
    if found is None:
        return manifest.version in (None, -1)
    return (
        not fence_tokens.is_sound(folder, found)
        or not control_block.is_sound(folder, found, manifest.salt)
        or bool(_foreign(folder, found))
    )


def _enter(folder: Folder, wanted: Geometry, users: int, effects: FileOps) -> tuple[Geometry, bytes, str]:
    """Return the shape and the salt of the directory, after making it sound, and lock `users` for sharing.

    Also return why other users may have changed the directory.
    """
    path, exposure = folder.path, folder.exposure
    manifest = read_manifest(folder)
    found, salt = manifest.geometry, manifest.salt
    foreign = _foreign(folder, wanted if found is None else found)
    sound = (
        manifest.version == FORMAT
        and found is not None
        and fence_tokens.is_sound(folder, found)
        and control_block.is_sound(folder, found, salt)
        and not foreign
    )
    unproven = not exposure and not manifest.private
    alone = False
    if not sound or found != wanted or unproven:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            pass
    if alone:
        why = foreign
        if not why and manifest.version is not None:
            if manifest.version != FORMAT:
                why = f"it had format {manifest.version}"
            elif unproven:
                why = "other users could write to it once, or an earlier version made it"
            else:
                why = "it had another limit" if sound else "it had damage"
        if why:
            logging.getLogger("cachekit").warning("%s is emptied: %s", path, why)
        found, salt = wanted, _make(folder, wanted, effects)
        why = _foreign(folder, wanted)
        if why:
            raise ForeignError(f"{why}, and could not be removed", path)
    elif not sound or found is None:
        version = manifest.version
        what = "damaged" if version in (None, -1, FORMAT) else f"of format {version}, not {FORMAT}"
        raise FileFormatError(
            f"{path} is in use, and is {what}; end the processes that use it, or choose another directory"
        )
    else:
        if found != wanted:
            warn_of_limit(path, found.limit, wanted.limit)
        if exposure and manifest.private:
            _write_manifest(folder, found, salt, manifest.made, effects)
        elif unproven:
            exposure = f"other users could write to {path} once, and it is not emptied while it is in use"
    # From exclusive to shared is not one step, but a process that could come between waits for
    # structure.lock.
    fcntl.flock(users, fcntl.LOCK_SH)
    return found, salt, exposure


def warn_of_limit(path: str, found: int, wanted: int) -> None:
    """Log that a directory in use keeps its limit, in bytes, and not the one that a cache asked for."""
    logging.getLogger("cachekit").warning(
        "%s is in use with max_size_mb=%s, which stays; pass that, or close all caches on it first: "
        "another limit, such as %s, empties it",
        path,
        mebibytes(found),
        mebibytes(wanted),
    )


def _foreign(folder: Folder, geometry: Geometry) -> str:
    """Return what has a name that a cache uses, and is not this user's file; empty if nothing is."""
    for name in filter(_is_ours, folder.names()):
        is_shard = _is_shard(name)
        if is_shard and int(name, 16) >= geometry.shards:
            continue
        objection = folder.objection(name, directory=is_shard)
        if objection:
            return f"its {name!r} {objection}"
    return ""


def _make(folder: Folder, geometry: Geometry, effects: FileOps) -> bytes:
    """Remove the cache's files from the directory, and make new ones; return the salt of its hashes.

    The manifest is removed first and made last: without it, no other file counts.
    """
    for name in _MADE:
        _remove(folder, name, effects)
    for name in folder.names():
        if _is_shard(name):
            _remove_shard(folder, name, effects)
        elif _LOCKS.fullmatch(name) and not folder.exposure:
            _remove(folder, name, effects)  # not where other users may have it open
    fence_tokens.create(folder, geometry, effects)
    salt = os.urandom(16)
    control_block.create(folder, geometry, salt, effects)
    _write_manifest(folder, geometry, salt, int(time.time()), effects)
    return salt


def _write_manifest(folder: Folder, geometry: Geometry, salt: bytes, made: int, effects: FileOps) -> None:
    shape = {
        "format": FORMAT,
        "salt": salt.hex(),
        "made": made,
        "geometry": asdict(geometry),
        "private": not folder.exposure,
    }
    body = json.dumps(shape, sort_keys=True).encode()
    new = f"{MANIFEST}.new"
    _remove(folder, new, effects)
    fd = effects.create(folder, new)
    try:
        effects.pwrite(fd, b"%08x %s\n" % (crc32(body), body), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    effects.replace(folder, new, MANIFEST)


def read_manifest(folder: Folder) -> Manifest:
    """Return what the manifest says.

    All later formats keep the checksum and the field `format`. The other fields belong to this format.
    """
    try:
        with open(MANIFEST, "rb", opener=folder.open) as file:
            checksum, _, body = file.read(1 << 16).rstrip(b"\n").partition(b" ")
    except FileNotFoundError:
        return Manifest(None)
    try:
        if int(checksum, 16) != crc32(body):
            return Manifest(-1)
        shape = json.loads(body)
        if shape["format"] != FORMAT:
            return Manifest(int(shape["format"]))
        geometry = Geometry(**shape["geometry"])
        salt, made = bytes.fromhex(shape["salt"]), int(shape["made"])
        private = shape.get("private") is True
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Manifest(-1)
    sound = geometry.is_sound() and len(salt) == 16 and 0 <= made < _LATEST
    return Manifest(FORMAT, geometry, salt, made, private) if sound else Manifest(-1)


def _refuse_foreign(folder: Folder) -> None:
    """Raise FileFormatError if a name that a cache uses is taken by what no cache has made."""
    names = [name for name in folder.names() if _is_ours(name)]
    lock = folder.look(_STRUCTURE_LOCK)
    # A lock file of another user tells nothing about this user's files. That user's files belong to a cache.
    is_theirs = lock is not None and lock.st_uid not in folder.owners
    if not names or (is_cache(folder) and not is_theirs):
        return
    # These may be the rest of a cache: of a removal that was interrupted, or that a writer ran into.
    for name in names:
        found = folder.look(name)
        if is_theirs and found is not None and found.st_uid not in folder.owners:
            continue
        if _is_foreign(folder, name):
            raise FileFormatError(
                f"{folder.path} is no cache directory, and holds {name!r}, a name that a cache uses; "
                f"choose an empty directory, or one that does not exist"
            )


def _is_foreign(folder: Folder, name: str) -> bool:
    """Tell whether no cache has made it, although it has a name that a cache uses."""
    try:
        if _is_shard(name):
            return not all(map(_is_in_shard, Folder(name, folder).names()))
        with open(name, "rb", opener=folder.open) as file:
            beginning = file.read(16)
    except FileNotFoundError:
        return folder.look(name) is not None  # None: removed just now
    except PermissionError:
        return True
    expected = _BEGINNINGS.get(name)
    return bool(beginning) and (expected is None or not expected.match(beginning))


def _remove_shard(folder: Folder, name: str, effects: FileOps) -> None:
    """Remove a cache's files from the directory of a shard, and the directory if it is then empty."""
    found = folder.look(name)
    if found is None or not stat.S_ISDIR(found.st_mode):
        _remove(folder, name, effects)
        return
    shard = Folder(name, folder)
    shard.strict = False  # another user may have put it there
    try:
        for one in filter(_is_in_shard, shard.names()):
            if one.endswith(".segment"):
                discard(shard, one, None, effects)
            else:
                _remove(shard, one, effects)
        os.rmdir(name, dir_fd=folder.fd)
    except PermissionError:
        pass  # only its owner may change it; if the cache needs the name, `_enter` raises
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # It holds files that no cache has made, which stay.


def _remove(folder: Folder, name: str, effects: FileOps) -> None:
    try:
        effects.unlink(folder, name)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder.fd)
        except OSError as error:  # it is not empty, and what it holds is no cache's
            raise_interrupt(error)


def _is_ours(name: str) -> bool:
    return name in (USERS, _STRUCTURE_LOCK, *_MADE) or _is_shard(name)


def _is_shard(name: str) -> bool:
    return len(name) == 2 and all(letter in "0123456789abcdef" for letter in name)


def _is_in_shard(name: str) -> bool:
    return name == "lock" or DATA_NAME.fullmatch(name) is not None
