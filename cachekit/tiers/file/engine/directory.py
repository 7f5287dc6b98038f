"""A cache directory as a whole: made, checked, taken up or emptied, by one process at a time.

It promises that a directory is in one shape for all who have it open. Whoever opens holds `structure.lock`
for that moment, and then a shared flock on `users` for as long as it stays. What cannot be taken up as it
is (another format version, another limit, damage) is emptied if no other process is in it; if one is,
another limit gives way to theirs, and the rest is a FileFormatError. Nothing is emptied that is not
known to be a cache: a directory in which somebody else's files have names that a cache would use is a
FileFormatError too, and in a cache only files named like a cache's are ever removed.

Its manifest says whether only this user could write in it ever since it was made, and counts only as a file
of ours. Where that ends, the manifest says so before anything is used. Where others could write once and
cannot any more, all is removed, and made again, before anything is trusted.
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
from cachekit.tiers.file.engine import control_block, fence_tokens
from cachekit.tiers.file.engine.file_ops import FileOps
from cachekit.tiers.file.engine.format import DATA_NAME, FORMAT, Geometry
from cachekit.tiers.file.folder import Folder, ForeignError

#: The file that everybody who has the directory open keeps open: as long as it is the same, so is all else.
USERS: Final = "users"

_STRUCTURE_LOCK: Final = "structure.lock"
_MANIFEST: Final = "manifest"
_MADE: Final = (_MANIFEST, fence_tokens.NAME, control_block.NAME, _MANIFEST + ".new")
#: How our files begin, if they are not empty; the first byte of two of them counts the format.
_BEGINNINGS: Final = {
    _MANIFEST: re.compile(rb"[0-9a-f]{8} \{"),
    _MANIFEST + ".new": re.compile(rb"[0-9a-f]{8} \{"),
    "tokens": re.compile(rb".kTOKEN", re.DOTALL),
    "control": re.compile(rb".kCTRL", re.DOTALL),
}
#: What `cachekit.locks` makes in a cache directory.
_LOCKS: Final = re.compile(r"leases\.lock|lease-[0-9a-f]{2}\.lock|loads-[1-9][0-9]*\.[0-9]{2,}\.lock")
_POLL: Final = 0.005


@final
@dataclass(frozen=True)
class Directory:
    """An opened directory.

    Attributes:
        folder: it itself.
        geometry: its shape.
        salt: of its hashes.
        users: the descriptor that says that we are in it.
        exposure: why others may have changed what is in it; empty if they never could.
    """

    folder: Folder
    geometry: Geometry
    salt: bytes
    users: int
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
        private: whether only this user could write in the directory ever since.
    """

    version: int | None
    geometry: Geometry | None = None
    salt: bytes = b""
    made: int = 0
    private: bool = False


def is_cache(folder: Folder) -> bool:
    """Whether somebody made a cache in the directory, sound or not.

    Whoever makes one makes the lock before anything else. If somebody has removed that, the manifest tells,
    whose checksum no other file has.

    Raises:
        OSError: it may not be read.
    """
    lock = folder.look(_STRUCTURE_LOCK)
    if lock is not None and stat.S_ISREG(lock.st_mode):
        return True
    return read_manifest(folder).version not in (None, -1)


def open_directory(path: str, geometry: Geometry, patience: float, effects: FileOps) -> Directory:
    """Take the directory up, or make it.

    Raises:
        FileFormatError: somebody else uses it in a way that we cannot join, or it is no cache.
        LockTimeoutError: somebody else was opening it all the time.
        OSError: it cannot be made, read or written.
    """
    # Loaded here: importing filelock costs six times what a bare interpreter does.
    from filelock import unlock_descriptor

    folder = Folder.at(path, make=True)
    _refuse_foreign(folder)  # before there is a lock: that is what tells a cache
    _refuse_others(folder)
    _replace_locks(folder, patience, effects)
    lock = _lock(folder, patience)
    try:
        if _lacks_a_part(folder):
            # Whoever has it open goes on without, and so could nobody come in until all of them have ended.
            # Without the file that stands for the whole they open it anew, as it is made now.
            with suppress(FileNotFoundError):
                effects.unlink(folder, USERS)
        users = folder.open_or_make(USERS)
        try:
            found, salt, exposure = _enter(folder, geometry, users, effects)
        except BaseException:
            os.close(users)
            raise
    finally:
        # Not by closing it alone: a child that another thread has just forked has it too.
        unlock_descriptor(lock)
        os.close(lock)
    return Directory(folder, found, salt, users, exposure)


def _lock(folder: Folder, patience: float) -> int:
    """The descriptor of `structure.lock`, which we hold."""
    from filelock import lock_descriptor

    deadline = time.monotonic() + patience
    while True:
        # Opened for each attempt: the one that others hold may be removed, and another one made.
        fd = folder.open_or_make(_STRUCTURE_LOCK)
        try:
            if lock_descriptor(fd, blocking=False) and os.fstat(fd).st_nlink:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        _pause(folder, deadline, patience)


def _pause(folder: Folder, deadline: float, patience: float) -> None:
    if time.monotonic() >= deadline:
        raise LockTimeoutError(f"{folder.path} was being opened by another process for {patience} s")
    time.sleep(_POLL)


def _refuse_others(folder: Folder) -> None:
    """Raise ForeignError for a file of another user, where they may write: it is theirs to remove."""
    if not folder.exposure:
        return
    for name in filter(_is_ours, folder.names()):
        found = folder.look(name)
        if found is not None and found.st_uid not in folder.owners:
            reason = f"{folder.exposure}, and its {name!r} belongs to user {found.st_uid}"
            raise ForeignError(reason, folder.path)


def _replace_locks(folder: Folder, patience: float, effects: FileOps) -> None:
    """Remove locks that are none of ours: others would hold them, and keep us out, for ever."""
    names = [name for name in folder.names() if name in (_STRUCTURE_LOCK, USERS) or _LOCKS.fullmatch(name)]
    if not any(map(folder.objection, names)):
        return
    deadline = time.monotonic() + patience
    while True:
        try:
            # What is locked here is the directory itself, so that no process removes what another one has
            # made since it looked.
            fcntl.flock(folder.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            _pause(folder, deadline, patience)
    try:
        for name in names:
            found = folder.look(name)
            is_theirs = found is not None and found.st_uid not in folder.owners
            if folder.objection(name) and not (folder.exposure and is_theirs):
                effects.unlink(folder, name)
    finally:
        fcntl.flock(folder.fd, fcntl.LOCK_UN)


def _lacks_a_part(folder: Folder) -> bool:
    """Whether a file that a cache of this format must have is not there."""
    version = read_manifest(folder).version
    parts = (fence_tokens.NAME, control_block.NAME) if version == FORMAT else ()
    return version is None or not all(folder.look(part) for part in parts)


def _enter(folder: Folder, wanted: Geometry, users: int, effects: FileOps) -> tuple[Geometry, bytes, str]:
    """The shape and the salt of the directory, which is sound, and which `users` then says we are in.

    And why others may have changed what is in it.
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
                why = "others could write in it once, or an earlier version made it"
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
            logging.getLogger("cachekit").warning(
                "%s is in use with a limit of %d bytes, which stays; %d was asked for",
                path,
                found.limit,
                wanted.limit,
            )
        if exposure and manifest.private:
            _write_manifest(folder, found, salt, manifest.made, effects)
        elif unproven:
            exposure = f"others could write in {path} once, and it is not emptied while it is in use"
    # From exclusive to shared is not one step, but whoever could come between waits for structure.lock.
    fcntl.flock(users, fcntl.LOCK_SH)
    return found, salt, exposure


def _foreign(folder: Folder, geometry: Geometry) -> str:
    """What in the directory has a name that we use, and is none of ours; empty if nothing has."""
    for name in filter(_is_ours, folder.names()):
        is_shard = _is_shard(name)
        if is_shard and int(name, 16) >= geometry.shards:
            continue
        objection = folder.objection(name, directory=is_shard)
        if objection:
            return f"its {name!r} {objection}"
    return ""


def _make(folder: Folder, geometry: Geometry, effects: FileOps) -> bytes:
    """Empty the directory of what is ours, and make it anew; the salt of its hashes.

    The manifest goes first and comes last: without it, all the rest counts for nothing.
    """
    for name in _MADE:
        with suppress(FileNotFoundError):
            effects.unlink(folder, name)
    for name in folder.names():
        if _is_shard(name):
            _remove_shard(folder, name, effects)
        elif _LOCKS.fullmatch(name) and not folder.exposure:
            _remove(folder, name, effects)  # others may have it open
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
    new = f"{_MANIFEST}.new"
    with suppress(FileNotFoundError):
        effects.unlink(folder, new)
    fd = effects.create(folder, new)
    try:
        effects.pwrite(fd, b"%08x %s\n" % (crc32(body), body), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    effects.replace(folder, new, _MANIFEST)


def read_manifest(folder: Folder) -> Manifest:
    """What the manifest says.

    The checksum and the name of the version are for all formats to come; the rest belongs to this one.
    """
    try:
        with open(_MANIFEST, "rb", opener=folder.open) as file:
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
    except (ValueError, KeyError, TypeError):
        return Manifest(-1)
    sound = geometry.is_sound() and len(salt) == 16
    return Manifest(FORMAT, geometry, salt, made, private) if sound else Manifest(-1)


def _refuse_foreign(folder: Folder) -> None:
    """Raise FileFormatError if there is something in our way that no cache has made."""
    names = [name for name in folder.names() if _is_ours(name)]
    lock = folder.look(_STRUCTURE_LOCK)
    # A lock that another user made says nothing of what is this user's, but all of what is that other user's.
    is_theirs = lock is not None and lock.st_uid not in folder.owners
    if not names or (is_cache(folder) and not is_theirs):
        return
    # It may still be what is left of one: of a removal that was cut short, or that a writer got into.
    for name in names:
        found = folder.look(name)
        if is_theirs and found is not None and found.st_uid not in folder.owners:
            continue
        if _is_foreign(folder, name):
            raise FileFormatError(
                f"{folder.path} is no cache directory, and holds {name!r}, which a cache would take for its "
                f"own; choose an empty directory, or one that does not exist"
            )


def _is_foreign(folder: Folder, name: str) -> bool:
    """Whether it is somebody else's, although it has a name of ours."""
    try:
        if _is_shard(name):
            return not all(map(_is_in_shard, Folder(name, folder).names()))
        with open(name, "rb", opener=folder.open) as file:
            beginning = file.read(16)
    except FileNotFoundError:
        return folder.look(name) is not None  # or it has just gone
    except PermissionError:
        return True
    expected = _BEGINNINGS.get(name)
    return bool(beginning) and (expected is None or not expected.match(beginning))


def _remove_shard(folder: Folder, name: str, effects: FileOps) -> None:
    """Remove what is ours in the directory of a shard, and the directory if that was all."""
    found = folder.look(name)
    if found is None or not stat.S_ISDIR(found.st_mode):
        _remove(folder, name, effects)
        return
    shard = Folder(name, folder)
    shard.strict = False  # of another user, perhaps, who put it there when he could
    try:
        for one in filter(_is_in_shard, shard.names()):
            _remove(shard, one, effects)
        os.rmdir(name, dir_fd=folder.fd)
    except PermissionError:
        pass  # it is that user's alone: if it is in our way, `_enter` says so
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Somebody has put something else into it, and may want it back.


def _remove(folder: Folder, name: str, effects: FileOps) -> None:
    with suppress(FileNotFoundError, IsADirectoryError):
        effects.unlink(folder, name)


def _is_ours(name: str) -> bool:
    return name in (USERS, _STRUCTURE_LOCK, *_MADE) or _is_shard(name)


def _is_shard(name: str) -> bool:
    return len(name) == 2 and all(letter in "0123456789abcdef" for letter in name)


def _is_in_shard(name: str) -> bool:
    return name == "lock" or DATA_NAME.fullmatch(name) is not None
