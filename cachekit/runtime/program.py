"""The program that this process belongs to: a script, a module, or the shells of one directory.

The program names the directory of the default cache and its keys on a server. A process hands it down to the
processes that it starts, in an environment variable: workers of a pool belong to the program that made the
pool, whatever module they run. A run of tests hands down its temporary directory likewise.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

#: The environment variables that a process sets for those that it starts.
PROGRAM = "CACHEKIT_PROGRAM"
TESTS_DIRECTORY = "CACHEKIT_TESTS_DIR"

_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_NO_LIBRARY = frozenset({"__main__", "__mp_main__", "builtins"})


def _directory_at_start() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


# At import, because a program may change its directory at any time.
_directory = _directory_at_start()
_making = allocate_lock()


def program() -> str | None:
    """Return what tells this program from others, and hand it down to the processes that this one starts.

    It is "module:" and a name for a module that runs with -m, "script:" and the resolved path for a script,
    "tool:", a name and the working directory for an installed tool that runs code of a project, such as
    uvicorn, and "shell:" and the working directory without a main module. None if it would be the working
    directory, which no longer exists.
    """
    inherited = os.environ.get(PROGRAM)
    if inherited:
        return inherited
    mine = _described(sys.modules.get("__main__"))
    if mine is not None:
        os.environ[PROGRAM] = mine
    return mine


def program_name() -> str | None:
    """Return a readable name of this program, which can be part of a path; None if `program` is None.

    It is the module's name, the script's name with a digest of its path, or the name of an installed tool,
    or "interactive" for a shell, with a digest of the working directory.
    """
    described = program()
    if described is None:
        return None
    kind, _, rest = described.partition(":")
    if kind == "module":
        return rest
    if kind == "script":
        readable, place = os.path.splitext(os.path.basename(rest))[0], rest
    elif kind == "tool":
        readable, _, place = rest.partition(":")
    else:
        readable, place = "interactive", rest
    from hashlib import blake2b  # only a program without a name of its own needs it

    return f"{readable[:40]}-{blake2b(os.fsencode(place), digest_size=6).hexdigest()}"


def real_module(name: str | None) -> str | None:
    """Return the name of a module, as it is in the parent of a process that was spawned."""
    return "__main__" if name == "__mp_main__" else name


def shell() -> str:
    """Return a name for the main module of a shell: functions of the shells of one directory share it."""
    return f"shell:{_directory}"


def tests_directory() -> str | None:
    """Return a temporary directory if pytest or unittest runs this program, or None.

    The process that makes it removes it at its end, so that tests leave no values for the next run. Each
    worker of pytest-xdist has its own, so that its tests do not see the values of another worker's.
    """
    inherited = os.environ.get(TESTS_DIRECTORY)
    if inherited:
        return _of_worker(inherited)
    if not _runs_tests():
        return None
    with _making:  # another thread may be making one
        made = os.environ.get(TESTS_DIRECTORY)
        if made is None:
            import atexit  # only tests need these
            import tempfile

            made = os.environ[TESTS_DIRECTORY] = tempfile.mkdtemp(prefix="cachekit-tests-")
            atexit.register(_remove, made, os.getpid())
    return made


def _of_worker(inherited: str) -> str:
    """Return the directory of this worker in the one that its controller made, and hand it down."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if not worker or os.path.basename(inherited) in {worker, ""} or os.sep in worker:
        return inherited
    mine = os.path.join(inherited, worker)
    try:
        os.makedirs(mine, mode=0o700, exist_ok=True)
    except OSError:  # of another user; opening it says so
        return inherited
    os.environ[TESTS_DIRECTORY] = mine
    return mine


def _runs_tests() -> bool:
    if "PYTEST_VERSION" in os.environ or "PYTEST_CURRENT_TEST" in os.environ:
        return True
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "unittest.__main__"


def _remove(directory: str, maker: int) -> None:
    if os.getpid() == maker:  # and not a forked child of it
        import shutil

        shutil.rmtree(directory, ignore_errors=True)


def _described(main: ModuleType | None) -> str | None:
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    resolved = None if path is None else os.path.realpath(path)
    # The spec of a directory or an archive that is run as a program is named `__main__` only.
    if spec is not None and spec.name != "__main__":
        name = str(spec.name).removesuffix(".__main__")
        if resolved is None or not _is_installed(resolved):
            return f"module:{name}"
    elif resolved is None:
        return None if _directory is None else f"shell:{_directory}"
    elif not _is_installed(resolved):
        return f"script:{resolved}"
    else:
        name = os.path.splitext(os.path.basename(resolved))[0]
    return None if _directory is None else f"tool:{name}:{_directory}"


def is_standard(module: str | None) -> bool:
    """Return whether what Python code of this module defines comes with Python.

    A program may have a module of such a name, as `test` or `profile`. Its file tells them apart. Code that
    is executed without a name says that it is of `builtins`, which has nothing that Python code defines.
    """
    name = module or ""
    top = name.partition(".")[0]
    if top not in sys.stdlib_module_names or top in _NO_LIBRARY:
        return False
    file = getattr(sys.modules.get(name, sys.modules.get(top)), "__file__", None)
    return file is None or (file.startswith(_STANDARD_LIBRARY) and "site-packages" not in file)


def _is_installed(path: str) -> bool:
    """Return whether the file came with Python or with a package, and so is not the user's program."""
    directory = os.path.dirname(path)
    if directory == os.path.realpath(os.path.dirname(sys.executable or os.sep)):
        return True
    if "site-packages" in path or "dist-packages" in path:
        return True
    return directory.startswith(os.path.realpath(os.path.dirname(os.__file__)))
