"""`cachekit doctor`: what this installation has, and what keeps a cache from working here.

It stores one value in a directory of its own and under a key of its own on the server, and removes both. No
value of a program is read. Neither secrets nor passwords are shown.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import cachekit
from cachekit.cache import config
from cachekit.cache.intelligent import IntelligentCache
from cachekit.cli.directory import geometry_of, may_hold_cache, size
from cachekit.cli.display import Display
from cachekit.errors import CacheError, TierUnavailableError
from cachekit.model.display import safe_repr, without_login
from cachekit.model.types import MISSING, CacheLevel
from cachekit.runtime.machine import memory_bytes
from cachekit.serialization.signing import secrets_from_environment
from cachekit.tiers.base import DirectoryTier, ServerTier
from cachekit.tiers.file.front import FileCache
from cachekit.tiers.file.paths import directory_of
from cachekit.tiers.file.permissions import network_file_system, open_path, remedy_for

Status: TypeAlias = Literal["ok", "warning", "problem"]

_DISTRIBUTION: Final = "cachekit-tiered"
#: Extras of those who develop cachekit, beside those whose names begin with "test".
_FURTHER: Final = ("bench", "browser", "docs", "lint", "release")
_VARIABLES: Final = frozenset(
    {
        "CACHEKIT_DIR", "CACHEKIT_DISABLE", "CACHEKIT_MAX_SIZE_MB", "CACHEKIT_MEMORY_MB",
        "CACHEKIT_NAMESPACE", "CACHEKIT_PROGRAM", "CACHEKIT_REDIS_URL", "CACHEKIT_SECRET",
        "CACHEKIT_SHOW_KEYS", "CACHEKIT_TESTS_DIR",
    }
)  # fmt: skip
#: Variables whose values are not shown.
_SECRET: Final = frozenset({"CACHEKIT_SECRET", "CACHEKIT_REDIS_URL"})
_REQUIREMENT: Final = re.compile(r'([A-Za-z0-9_.-]+).*?extra == ["\']([a-z0-9-]+)["\']')
_PROBE: Final = "x" * 100_000  # a value that needs room for more than one block
_NAMED: Final = 20  # the most caches that are listed
_PATIENCE: Final = 2.0  # seconds for each answer of the server
_GOOD_POLICIES: Final = ("allkeys-", "volatile-")


class Plan(NamedTuple):
    """The options of the command."""

    directory: str | None  #: the directory of caches; None for the default one
    server: str | None  #: the URL of a server; None for that of the environment
    as_json: bool


class Finding(NamedTuple):
    """One line of the report."""

    part: str
    name: str
    value: str
    status: Status = "ok"
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return its fields by name."""
        return self._asdict()


def run(plan: Plan, display: Display) -> int:
    """Show the findings; return 1 if one of them is a problem, and 0 otherwise."""
    logger = logging.getLogger("cachekit")
    was_off, logger.disabled = logger.disabled, True  # what it would say is in the report
    try:
        findings = list(_findings(plan))
    finally:
        logger.disabled = was_off
    if plan.as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        _show(findings, display)
    return int(any(finding.status == "problem" for finding in findings))


def _show(findings: list[Finding], display: Display) -> None:
    part = ""
    for finding in findings:
        if finding.part != part:
            part = finding.part
            display.line()
            display.line(part)
        mark = "" if finding.status == "ok" else f"{finding.status}: "
        display.line(f"  {mark}{finding.name}: {finding.value}")
        if finding.remedy:
            display.line(f"      {finding.remedy}")
    counts = [(sum(finding.status == what for finding in findings), what) for what in ("problem", "warning")]
    display.line()
    display.line(", ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts) + ".")


def _findings(plan: Plan) -> Iterator[Finding]:
    yield from _installation()
    yield from _environment()
    yield from _memory()
    yield from _files(plan.directory)
    yield from _server(plan.server)


# -- the installation -----------------------------------------------------------------------------------


def _installation() -> Iterator[Finding]:
    part = "Installation"
    yield Finding(part, "cachekit", f"{cachekit.__version__} in {os.path.dirname(cachekit.__file__)}")
    others = set(metadata.packages_distributions().get("cachekit", ())) - {_DISTRIBUTION}
    if others:
        other = min(others)
        yield Finding(
            part, "another package", f"{other} is installed too, and claims the same folder", "problem",
            f"pip uninstall {other}, then pip install --force-reinstall {_DISTRIBUTION}",
        )  # fmt: skip
    yield Finding(
        part, "Python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"
    )
    for name in ("redis", "filelock", "portalocker", "platformdirs"):
        version = _version(name)
        if version is None:
            yield Finding(part, name, "not installed", "problem", f"pip install {name}")
        else:
            yield Finding(part, name, version)
    absent = []
    for extra, needed in _extras().items():
        versions = {name: _version(name) for name in needed}
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            absent.append(extra)
        else:
            yield Finding(part, f"extra {extra}", ", ".join(f"{name} {versions[name]}" for name in needed))
    if absent:
        how = f"pip install '{_DISTRIBUTION}[{absent[0]}]' adds one"
        yield Finding(part, "extras that are not installed", f"{', '.join(absent)} ({how})")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, list[str]]:
    """Return the distributions that each extra needs under this Python."""
    try:
        requirements = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # it runs from a checkout
        return {}
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        if found is None or found[2] in _FURTHER or found[2].startswith("test"):
            continue
        before = re.search(r'python_version < "3\.(\d+)"', requirement)
        if before is None or sys.version_info < (3, int(before[1])):
            extras.setdefault(found[2], []).append(found[1])
    return extras


# -- the environment ------------------------------------------------------------------------------------


def _environment() -> Iterator[Finding]:
    part = "Environment"
    given = sorted(name for name in os.environ if name.startswith("CACHEKIT_"))
    for name in given:
        if name not in _VARIABLES:
            import difflib

            close = difflib.get_close_matches(name, _VARIABLES, 1)
            remedy = f"did you mean {close[0]}?" if close else "unset it"
            yield Finding(part, name, "no such variable; it has no effect", "warning", remedy)
        elif name == "CACHEKIT_DISABLE":
            yield Finding(
                part,
                name,
                safe_repr(os.environ[name]),
                "warning",
                "unset it, or cached functions store nothing",
            )
        else:
            yield Finding(part, name, "set" if name in _SECRET else without_login(os.environ[name]))
    for name, read in (
        ("CACHEKIT_NAMESPACE", config.namespace),
        ("CACHEKIT_MAX_SIZE_MB", config.max_size_mb),
        ("CACHEKIT_SECRET", secrets_from_environment),
    ):
        try:
            read()
        except ValueError as error:
            yield Finding(part, name, "cannot be used", "problem", str(error))
    if not given:
        yield Finding(part, "variables", "none is set, so all is at its default")


def _memory() -> Iterator[Finding]:
    part = "Memory"
    machine = memory_bytes()
    yield Finding(part, "this process may use", "unknown" if machine is None else size(machine))
    try:
        limit = config.memory_cache().max_bytes
    except ValueError as error:
        yield Finding(part, "CACHEKIT_MEMORY_MB", "cannot be used", "problem", str(error))
        return
    too_much = machine is not None and limit is not None and limit > machine // 2
    yield Finding(
        part, "the memory tier of the default cache", "no limit" if limit is None else f"up to {size(limit)}",
        "warning" if too_much else "ok",
        "it may take more than half of the memory; set CACHEKIT_MEMORY_MB lower" if too_much else "",
    )  # fmt: skip


# -- files ----------------------------------------------------------------------------------------------


def _files(directory: str | None) -> Iterator[Finding]:
    part = "Files"
    given = os.environ.get("CACHEKIT_DIR") if directory is None else directory
    try:
        base = directory_of(given, "any")
    except (ValueError, TierUnavailableError) as error:
        yield Finding(part, "directory", "there is none", "problem", str(error))
        return
    base = os.path.dirname(base)
    made = _missing(base)
    try:
        opened, exposure = open_path(base, make=True)
        opened.close()
    except OSError as error:
        yield Finding(
            part, "directory", f"{base} cannot be opened: {error.strerror}", "problem",
            f"{remedy_for(error)}, or set CACHEKIT_DIR to another directory",
        )  # fmt: skip
        return
    try:
        yield Finding(part, "directory", base + (" (the first cache will make it)" if made else ""))
        yield from _place(part, base, exposure)
        yield from _try_files(part, base)
    finally:
        for path in made:
            with suppress(OSError):  # a program has put a cache there
                os.rmdir(path)


def _missing(path: str) -> list[str]:
    """Return the directories of a path that do not exist, the deepest first."""
    missing = []
    while not os.path.lexists(path) and path != os.path.dirname(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def _place(part: str, base: str, exposure: str) -> Iterator[Finding]:
    if exposure:
        yield Finding(
            part, "trusted", f"no: {exposure}", "warning",
            "chmod go-w it, or set CACHEKIT_SECRET; until then, it keeps plain values only",
        )  # fmt: skip
    else:
        yield Finding(part, "trusted", "yes, no other user can write there")
    network = network_file_system(base)
    if network:
        yield Finding(
            part, "file system", network, "warning",
            "hosts do not see each other's changes there; set CACHEKIT_DIR to a local directory",
        )  # fmt: skip
    else:
        yield Finding(part, "file system", "local")
    yield from _caches(part, base)
    try:
        limit = config.max_size_mb() << 20
    except ValueError:
        return  # reported with the environment
    free = shutil.disk_usage(base).free
    short = free < limit
    yield Finding(
        part, "limit of each", f"{size(limit)}; {size(free)} are free", "warning" if short else "ok",
        "free some space, or set CACHEKIT_MAX_SIZE_MB lower" if short else "",
    )  # fmt: skip


def _caches(part: str, base: str) -> Iterator[Finding]:
    if may_hold_cache(base):
        shape = geometry_of(base)
        limit = "" if shape is None else f" of its limit, {size(shape.limit)}"
        yield Finding(part, "this is one cache", f"it takes {size(_taken(base))}{limit}")
        return
    taken = {path: _taken(path) for path in sorted(_directories(base)) if may_hold_cache(path)}
    yield Finding(part, "caches in it", f"{len(taken)}, which take {size(sum(taken.values()))}")
    largest = sorted(taken, key=taken.__getitem__, reverse=True)[:_NAMED]
    for path in largest:
        yield Finding(part, f"cache {os.path.basename(path)}", size(taken[path]))
    if len(taken) > _NAMED:
        yield Finding(part, "smaller caches", f"{len(taken) - _NAMED}, which are not listed")


def _directories(base: str) -> list[str]:
    with os.scandir(base) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _taken(path: str) -> int:
    blocks = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # a process has removed it
                blocks += os.lstat(os.path.join(folder, name)).st_blocks
    return blocks * 512


def _try_files(part: str, base: str) -> Iterator[Finding]:
    try:
        place = tempfile.mkdtemp(prefix="doctor-", dir=base)
    except OSError as error:
        yield Finding(
            part, "writable", f"no: {error.strerror}", "problem",
            f"{remedy_for(error)}, or set CACHEKIT_DIR to another directory",
        )  # fmt: skip
        return
    try:
        with FileCache(place, 1, cleanup_interval=None) as tier:
            yield from _try_tier(part, None, tier)
    except CacheError as error:
        yield Finding(part, "usable", f"no: {error}", "problem", "set CACHEKIT_DIR to another directory")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _try_tier(part: str, redis: ServerTier | None, file: DirectoryTier | None) -> Iterator[Finding]:
    """Store, read and remove a value as a cache does, and ask for the cache's health."""
    level = CacheLevel.REDIS if redis is not None else CacheLevel.FILE
    with IntelligentCache(None, redis, file, close_tiers=False) as cache:
        started = time.perf_counter()
        with _explained(part) as failures:
            stored = cache.set("doctor", _PROBE, ttl=60, cache_level=level)
            kept = stored and cache.get("doctor", MISSING, cache_level=level) == _PROBE
            cache.delete("doctor", cache_level=level)
            took = (time.perf_counter() - started) * 1000
        yield from failures
        health = cache.health()
        for reason in health.reasons:
            yield Finding(part, "health", reason.message, "problem", reason.remedy)
        if failures or health.reasons:
            return
        yield Finding(part, "health", health.status)
        if kept:
            yield Finding(part, "a value of 100 kB", f"stored, read and removed in {took:.1f} ms")
        else:
            yield Finding(
                part, "a value of 100 kB", "was not kept", "problem",
                "look at the space that is free, and at what else the directory or server refuses",
            )  # fmt: skip


@contextmanager
def _explained(part: str) -> Iterator[list[Finding]]:
    failures: list[Finding] = []
    try:
        yield failures
    except (CacheError, OSError) as error:
        failures.append(Finding(part, "a value of 100 kB", f"failed: {error}", "problem"))


# -- the server -----------------------------------------------------------------------------------------


def _server(given: str | None) -> Iterator[Finding]:
    part = "Server"
    url = os.environ.get("CACHEKIT_REDIS_URL") if given is None else given
    if url is None:
        yield Finding(part, "CACHEKIT_REDIS_URL", "not set, so hosts share nothing")
        return
    from cachekit.tiers.redis.tier import RedisCache, server_info

    prefix = f"cachekit:doctor:{os.urandom(6).hex()}:"
    try:
        named = RedisCache(url=url, key_prefix=prefix, timeout=_PATIENCE)
    except ValueError as error:
        yield Finding(part, "url", "cannot be used", "problem", str(error))
        return
    with named:
        yield Finding(part, "address", repr(named).partition(" on ")[2].partition(", key_prefix")[0])
        try:
            started = time.perf_counter()
            named.ping()
            first = time.perf_counter()
            named.ping()
        except CacheError as error:
            yield Finding(
                part, "reachable", f"no: {error}", "problem",
                "start it, or correct address, user and password; until then caches go on without it",
            )  # fmt: skip
            return
        connect, trip = (first - started) * 1000, (time.perf_counter() - first) * 1000
        yield Finding(part, "reachable", f"yes: first answer after {connect:.1f} ms, then {trip:.1f} ms")
        with suppress(CacheError):  # its user may not ask
            yield from _said_by(part, server_info(named))
        yield from _try_tier(part, named, None)


def _said_by(part: str, info: dict[str, str]) -> Iterator[Finding]:
    name = info.get("server_name", "redis")
    version = info.get(f"{name}_version", info.get("redis_version", "unknown"))
    yield Finding(part, "version", f"{name} {version}")
    limit, policy = int(info.get("maxmemory", 0)), info.get("maxmemory_policy", "unknown")
    used = size(int(info.get("used_memory", 0)))
    if not limit:
        yield Finding(
            part, "memory", f"{used} used, no limit ({policy})", "warning",
            "set maxmemory, and maxmemory-policy allkeys-lru, or it may take all memory of its machine",
        )  # fmt: skip
    elif not policy.startswith(_GOOD_POLICIES):
        yield Finding(
            part, "memory", f"{used} of {size(limit)} used, policy {policy}", "warning",
            "set maxmemory-policy allkeys-lru: when it is full, it refuses writes",
        )  # fmt: skip
    else:
        yield Finding(part, "memory", f"{used} of {size(limit)} used, policy {policy}")
    saves = [
        what
        for what, on in (
            ("append-only file", info.get("aof_enabled")),
            ("snapshots", info.get("rdb_last_save_time")),
        )
        if on not in (None, "0")
    ]
    yield Finding(part, "persistence", (" and ".join(saves) or "none") + "; a cache needs none")
