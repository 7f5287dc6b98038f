"""The public names and their signatures, as users depend on them.

A change here is a change for them: it needs a line in the CHANGELOG.
"""

from __future__ import annotations

import enum
import inspect
import subprocess
import sys
from pathlib import Path

import cachekit
from cachekit import aio, testing

SNAPSHOT = Path(__file__).with_name("public_names.txt")


def described(owner: str, name: str, member: object) -> list[str]:
    if inspect.isclass(member):
        lines = [f"{owner}{name}{_signature(member)}"]
        for child in sorted(vars(member)):
            if not child.startswith("_"):
                lines += described(f"{owner}{name}.", child, inspect.getattr_static(member, child))
        return lines
    if isinstance(member, property):
        return [f"{owner}{name} (property)"]
    if callable(member) or isinstance(member, (classmethod, staticmethod)):
        return [f"{owner}{name}{_signature(getattr(member, '__func__', member))}"]
    return [f"{owner}{name}"]


def _signature(member: object) -> str:
    if inspect.isclass(member) and (
        issubclass(member, (enum.Enum, Exception)) or getattr(member, "_is_protocol", False)
    ):
        return ""  # Python's own, and another one in each version of it
    try:
        signature = inspect.signature(member)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()
    ]
    bare = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return str(bare)


def public_names() -> str:
    lines = []
    for module in (cachekit, testing):
        for name in sorted(module.__all__):
            lines += described(f"{module.__name__}.", name, getattr(module, name))
    # What they are is what the core's are, which aio/test_aio_parity.py sees to.
    lines += [f"cachekit.aio.{name}" for name in sorted(aio.__all__)]
    return "\n".join(lines) + "\n"


def test_public_names_are_those_of_the_snapshot() -> None:
    """Names, parameters and defaults are what they were; run this file to see what they are."""
    assert public_names() == SNAPSHOT.read_text(encoding="utf-8")


def test_importing_loads_nothing_heavy() -> None:
    """Neither asyncio, a driver, a lock library, an eviction policy nor logging comes with it."""
    heavy = [
        "asyncio",
        "redis",
        "filelock",
        "portalocker",
        "platformdirs",
        "cachekit.tiers.file",
        "cachekit.tiers.memory.eviction.policies",
        "cachekit.tiers.memory.eviction.ttl",
        "cachekit.serialization",
        "inspect",
        "logging",
        "rich",
        "concurrent.futures",
    ]
    code = f"import sys, cachekit; print([name for name in {heavy!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_importing_touches_nothing() -> None:
    """No thread, no file, no connection, no default cache."""
    code = (
        "import threading, cachekit, cachekit.cache.default as d; print(threading.active_count(), d._default)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "1 None"


if __name__ == "__main__":
    print(public_names(), end="")
