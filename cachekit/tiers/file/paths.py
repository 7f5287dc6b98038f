"""The path of a cache directory: a given one, or the user's cache directory, and the namespace in it."""

from __future__ import annotations

import os
import re
from hashlib import blake2b
from typing import Final

from cachekit.errors import TierUnavailableError
from cachekit.model.display import safe_repr, shown_url, typed_repr
from cachekit.runtime.program import tests_directory

# Namespaces that are file names as they are. Two letters or digits could be the name of a shard. Only lower
# case, because some file systems ignore case. Not with a digest at the end, as the names of other namespaces
# have.
_PLAIN: Final = re.compile(r"(?!.*[0-9a-f]{24}$)[a-z0-9_][a-z0-9_.-]{2,63}")
_TAKEN: Final = frozenset(
    {"tokens", "control", "manifest", "manifest.new", "users", "structure.lock", "default", "figures"}
)
_READABLE: Final = 40


def directory_of(cache_dir: str | os.PathLike[str] | None, namespace: str) -> str:
    """Return the absolute path of the directory that a cache uses. The file system is not accessed.

    Args:
        cache_dir: a path; `~` is the home directory. None is `cachekit` in the user's cache directory, as the
            system defines it (`$XDG_CACHE_HOME`, `~/.cache`, `~/Library/Caches`), or the temporary directory
            of a run of tests.
        namespace: a directory in it. An empty one is the path itself, or `default` in the user's cache
            directory.

    Raises:
        TypeError: `cache_dir` is not a path of str.
        TierUnavailableError: the user has no home directory, and `cache_dir` is None; or the path is relative
            to a working directory that was removed.
        ValueError: it is empty, has a NUL in it, or begins with `~` and the name of a user who does not
        exist.
    """
    if cache_dir is None:
        return os.path.join(_base(), _name(namespace) or "default")
    path = cache_dir if isinstance(cache_dir, str) else _fspath(cache_dir)
    if not path or "\0" in path:
        raise ValueError(
            f"cache_dir must be the path of a directory, not {safe_repr(cache_dir)}; "
            f"leave it out for the user's cache directory"
        )
    if "://" in path:
        raise ValueError(
            f"cache_dir must be the path of a directory, not the URL {shown_url(path)}; "
            f"a server is a tier of its own, RedisCache(url=...)"
        )
    home = os.path.expanduser(path)
    if home.startswith("~"):
        user = home.split(os.sep)[0]
        raise ValueError(
            f"cache_dir is {path!r}, but {user} has no home directory here; "
            f"write ./{path} if {user} is a file name"
        )
    try:
        absolute = os.path.abspath(home)
    except FileNotFoundError as error:
        raise TierUnavailableError(
            f"the cache directory {path!r} is relative to the working directory, which was removed; give an "
            f"absolute path"
        ) from error
    return os.path.join(absolute, _name(namespace)).rstrip(os.sep) or os.sep


def _base() -> str:
    made = tests_directory()
    if made is not None:
        return made
    # Imported here: a cache with a given directory does not need it.
    from platformdirs import user_cache_dir

    try:
        return user_cache_dir("cachekit", appauthor=False)
    except RuntimeError as error:
        raise TierUnavailableError(
            "this user has no home directory, so there is no default cache directory; pass cache_dir, or set "
            "CACHEKIT_DIR for the default cache"
        ) from error


def _fspath(cache_dir: object) -> str:
    path = os.fspath(cache_dir) if isinstance(cache_dir, os.PathLike) else None
    if not isinstance(path, str):
        raise TypeError(
            f"cache_dir must be a str or a path, such as pathlib.Path, or None, not {typed_repr(cache_dir)}"
        )
    return path


def _name(namespace: str) -> str:
    """Return a readable file name for the namespace; no two namespaces have the same one."""
    if not namespace or (_PLAIN.fullmatch(namespace) and namespace not in _TAKEN):
        return namespace
    digest = blake2b(namespace.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", namespace)[-_READABLE:].strip("_.-")
    return f"{readable}-{digest}" if readable else digest
