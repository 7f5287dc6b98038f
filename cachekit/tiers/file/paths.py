"""Where a cache directory is: what was named, or the user's place for caches, and the namespace in it."""

from __future__ import annotations

import os
import re
from hashlib import blake2b
from typing import Final

# As they are in file names; two letters or digits could be the name of a shard. In lower case, because two
# cases are one to some file systems; and not ending as the others do, in a digest.
_PLAIN: Final = re.compile(r"(?!.*[0-9a-f]{24}$)[a-z0-9_][a-z0-9_.-]{2,63}")
_TAKEN: Final = frozenset(
    {"tokens", "control", "manifest", "manifest.new", "users", "structure.lock", "default"}
)
_READABLE: Final = 40


def directory_of(cache_dir: str | os.PathLike[str] | None, namespace: str) -> str:
    """The absolute path of the directory that a cache uses; nothing is made or looked at.

    Args:
        cache_dir: with `~` for the home directory; None is `cachekit` in the user's cache directory, as
            the system has it (`$XDG_CACHE_HOME`, `~/.cache`, `~/Library/Caches`).
        namespace: a directory in it; with an empty one, what was named itself, or `default` in the
            user's cache directory.

    Raises:
        TypeError: `cache_dir` is no path of str.
        ValueError: it is empty, has a NUL in it, or begins with `~` and the name of nobody.
    """
    if cache_dir is None:
        # Loaded here: whoever names a directory needs none of it.
        from platformdirs import user_cache_dir

        return os.path.join(user_cache_dir("cachekit", appauthor=False), _name(namespace) or "default")
    path = cache_dir if isinstance(cache_dir, str) else _fspath(cache_dir)
    if not path or "\0" in path:
        raise ValueError(
            f"cache_dir must be the path of a directory, not {cache_dir!r}; leave it out for the user's own"
        )
    home = os.path.expanduser(path)
    if home.startswith("~"):
        user = home.split(os.sep)[0]
        raise ValueError(
            f"cache_dir is {path!r}, but {user} has no home directory here; write ./{path} if it is no user's"
        )
    return os.path.join(os.path.abspath(home), _name(namespace)).rstrip(os.sep) or os.sep


def _fspath(cache_dir: object) -> str:
    path = os.fspath(cache_dir) if isinstance(cache_dir, os.PathLike) else None
    if not isinstance(path, str):
        raise TypeError(
            f"cache_dir must be a str or a path, such as pathlib.Path, or None, not {cache_dir!r} "
            f"of type {type(cache_dir).__name__}"
        )
    return path


def _name(namespace: str) -> str:
    """The namespace as a file name, readable, and for no two namespaces the same."""
    if not namespace or (_PLAIN.fullmatch(namespace) and namespace not in _TAKEN):
        return namespace
    digest = blake2b(namespace.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", namespace)[-_READABLE:].strip("_.-")
    return f"{readable}-{digest}" if readable else digest
