"""Systems that lack something: one warning, and memory serves alone. FileCache is refused in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: A program of two lines, and one that asks for the file tier itself.
PROGRAM = """
import os, sys
from cachekit import FileCache, TierUnavailableError, cache_result

@cache_result
def answer(question):
    print("working")
    return question.upper()

print(answer("why"), answer("why"))
try:
    with FileCache(sys.argv[1] or None) as cache:
        cache.set_value("k", 1)
        print("served", cache.get_value("k"))
except TierUnavailableError as error:
    print("refused:", error)
"""
IS_ROOT = os.getuid() == 0

#: Lets no file be locked, as a file system without locks does.
WITHOUT_LOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

static int refused(void) { errno = ENOLCK; return -1; }

static int passed_on(const char *name, int fd, int how, void *argument) {
    if (how == F_SETLK || how == F_SETLKW || how == F_OFD_SETLK || how == F_OFD_SETLKW) return refused();
    int (*next)(int, int, ...) = (int (*)(int, int, ...)) dlsym(RTLD_NEXT, name);
    return next(fd, how, argument);
}

#define PASSES_ON(name) int name(int fd, int how, ...) { \
    va_list list; va_start(list, how); void *argument = va_arg(list, void *); va_end(list); \
    return passed_on(#name, fd, how, argument); }

int flock(int fd, int how) { return refused(); }
int lockf(int fd, int how, off_t size) { return refused(); }
int lockf64(int fd, int how, off64_t size) { return refused(); }
PASSES_ON(fcntl)
PASSES_ON(fcntl64)
"""


def run(
    *before: str,
    directory: Path | str = "",
    remove: tuple[str, ...] = (),
    setup: str = "",
    **variables: str,
) -> tuple[list[str], list[str]]:
    """Return what the program prints, and what it warns of.

    Args:
        before: a command that runs the program's.
        directory: of the file tier; the user's cache directory without one.
        remove: variables that the program does not have.
        setup: code that it runs first.
        variables: those that it has besides.
    """
    environment = {name: value for name, value in os.environ.items() if name not in remove} | variables
    ended = subprocess.run(
        [*before, sys.executable, "-c", setup + PROGRAM, str(directory)],
        capture_output=True, text=True, timeout=200, env=environment, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines(), ended.stderr.splitlines()


def assert_memory_alone(said: tuple[list[str], list[str]], reason: str) -> None:
    """Check the warning, the answers from memory, and the refusal."""
    answers, warnings = said
    assert answers[:2] == ["working", "WHY WHY"]
    assert answers[2].startswith("refused: ")
    assert reason in answers[2]
    assert len(answers) == 3
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith("file tier disabled")
    assert reason in warnings[0]


def another_user() -> list[str]:
    """Return a command that runs another as user 12345: without an entry, reading all, writing nothing."""
    if not IS_ROOT:
        pytest.skip("only root can become another user")
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")
    # The interpreter may lie where only root can read. This user may read it, and write nothing.
    command = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    command += [f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("setpriv is not allowed here")
    return command


def test_a_file_system_without_locks(tmp_path: Path, own_directory: Path) -> None:
    """As some network file systems and containers have it."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler, or no LD_PRELOAD")
    (tmp_path / "without_locks.c").write_text(WITHOUT_LOCKS)
    shim = str(tmp_path / "without_locks.so")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", shim, str(tmp_path / "without_locks.c"), "-ldl"], check=True
    )
    said = run(directory=tmp_path / "cache", LD_PRELOAD=shim)
    assert_memory_alone(said, "No locks available")


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_that_may_only_be_read(tmp_path: Path, there: bool) -> None:
    """Whether a cache is in it already or not."""
    home = tmp_path / "home"
    home.mkdir()
    if there:
        run(directory=home / "tier", CACHEKIT_DIR=str(home), CACHEKIT_NAMESPACE="shop")
    before = another_user() if IS_ROOT else []
    for path in [home, *home.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        said = run(*before, directory=home / "tier", CACHEKIT_DIR=str(home), CACHEKIT_NAMESPACE="shop")
    finally:
        for path in [home, *home.rglob("*")]:
            path.chmod(0o755)
    assert_memory_alone(said, "Permission denied")


@pytest.mark.parametrize("home", [None, "", "/nonexistent", "relative"])
def test_a_user_without_home_and_entry(home: str | None) -> None:
    """As in a container that runs under any number."""
    remove = ["CACHEKIT_DIR", "CACHEKIT_TESTS_DIR", "XDG_CACHE_HOME", "PYTEST_CURRENT_TEST", "PYTEST_VERSION"]
    if home is None:
        said = run(*another_user(), remove=(*remove, "HOME"))
    else:
        said = run(*another_user(), remove=tuple(remove), HOME=home)
    assert_memory_alone(said, "Permission denied" if home == "/nonexistent" else "no home directory")


def test_a_relative_path_without_working_directory(tmp_path: Path) -> None:
    """The directory was removed, so the path leads nowhere."""
    place = tmp_path / "gone"
    place.mkdir()
    setup = f"import os; os.chdir({str(place)!r}); os.rmdir({str(place)!r})\n"
    said = run(directory="some", setup=setup, CACHEKIT_DIR="other", CACHEKIT_NAMESPACE="shop")
    assert_memory_alone(said, "relative to the working directory, which was removed")


def test_a_system_without_shared_memory(tmp_path: Path) -> None:
    """Nothing of cachekit is in /dev/shm."""
    if not IS_ROOT or shutil.which("unshare") is None:
        pytest.skip("only root can hide /dev/shm")
    hidden = 'mount -t tmpfs -o ro none /dev/shm && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", hidden, "sh"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    assert run(*before, directory=tmp_path / "cache") == (["working", "WHY WHY", "served 1"], [])


@pytest.mark.parametrize("most", [32, 64])
def test_few_descriptors(tmp_path: Path, most: int) -> None:
    """All tiers work, slower; half of the descriptors stay for the program."""
    setup = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))\n"
    count = f"""
import gc
from cachekit import get_default_cache
for number in range(600):
    get_default_cache().set(f"k{{number}}", bytes(20_000))
assert get_default_cache().get("k599") == bytes(20_000)
used = len(os.listdir("/dev/fd"))
print("few" if used <= {most} // 2 else used)
"""
    ended = subprocess.run(
        [sys.executable, "-c", setup + PROGRAM + count, str(tmp_path / "cache")],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert (ended.stderr, ended.stdout.splitlines()) == ("", ["working", "WHY WHY", "served 1", "few"])
