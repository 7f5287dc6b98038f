"""The public names and their signatures, as users depend on them.

A change here is a change for them: it needs a line in the CHANGELOG.
"""

from __future__ import annotations

import ast
import enum
import inspect
import pickle
import pkgutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from free_threads import HAS_GIL
from fresh_imports import SITE_PACKAGES, loaded_by, run

import cachekit
from cachekit import aio, http, testing

SNAPSHOT = Path(__file__).with_name("public_names.txt")


def described(owner: str, name: str, member: object) -> list[str]:
    if inspect.isclass(member):
        lines = [f"{owner}{name}{_signature(member)}"]
        bases = [kind for kind in member.__mro__ if kind.__module__.startswith("cachekit.")]
        names = {name for kind in bases for name in vars(kind)}
        for child in sorted(names):
            if not child.startswith("_"):
                lines += described(f"{owner}{name}.", child, inspect.getattr_static(member, child))
        return lines
    if isinstance(member, property):
        return [f"{owner}{name} (property)"]
    if callable(member) or isinstance(member, (classmethod, staticmethod)):
        return [f"{owner}{name}{_signature(getattr(member, '__func__', member))}"]
    return [f"{owner}{name}"]


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _signature(member: object) -> str:
    if inspect.isclass(member) and (issubclass(member, (enum.Enum, Exception)) or _is_protocol(member)):
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
    for module in (cachekit, http, testing):
        for name in sorted(module.__all__):
            lines += described(f"{module.__name__}.", name, getattr(module, name))
    # What they are is what the core's are, which aio/test_aio_parity.py sees to.
    lines += [f"cachekit.aio.{name}" for name in sorted(aio.__all__)]
    return "\n".join(lines) + "\n"


def test_public_names_are_those_of_the_snapshot() -> None:
    """Names, parameters and defaults are what they were; run this file to see what they are."""
    assert public_names() == SNAPSHOT.read_text(encoding="utf-8")


def test_importing_loads_nothing() -> None:
    """Neither another module of cachekit nor one of the standard library; `site` has loaded `os` before."""
    assert loaded_by("import os, cachekit") == loaded_by("import os") | {"cachekit"}


_DECORATED = """
from cachekit import cache_result

@cache_result
def area(width: int, height: int) -> int:
    return width * height

@cache_result(ttl=60, tags={"areas"}, ignore=("self",))
async def awaited(self: object, width: int) -> int:
    return width
"""


def test_a_decorated_function_loads_no_cache() -> None:
    """Decorating loads what it needs itself: no cache, no tier, and no costly module of the library."""
    loaded = loaded_by(_DECORATED)
    assert {name.removeprefix("cachekit.") for name in loaded if name.startswith("cachekit")} == {
        "cachekit", "cache", "cache.cache_result", "cache.default", "decorator", "decorator.code_version",
        "decorator.fast_path", "decorator.function", "decorator.homes", "decorator.identity",
        "decorator.key_encoding",
        "decorator.large_arguments", "decorator.naming", "decorator.signature", "decorator.source", "errors",
        "model", "model.display",
        "model.types", "model.validation", "runtime", "runtime.fork", "runtime.program",
        "runtime.reentrant_lock",
    }  # fmt: skip
    costly = {
        "asyncio", "concurrent.futures", "copy", "dataclasses", "datetime", "hashlib", "inspect", "logging",
        "pathlib", "pickle", "random", "re", "tokenize", "traceback", "typing", "filelock", "platformdirs",
        "portalocker", "redis",
    }  # fmt: skip
    assert not loaded & costly


def test_importing_touches_nothing() -> None:
    """No thread, no file, no connection, no default cache."""
    program = (
        _DECORATED + "import threading; print(threading.active_count(), cachekit.cache.default._default)"
    )
    assert run("import cachekit\n" + program) == "1 None"


def test_every_name_can_be_the_first() -> None:
    """No public name needs another one to be imported before it, and each is found once."""
    program = f"""
import os
for name in {cachekit.__all__!r}:
    child = os.fork()
    if not child:
        import cachekit
        first = getattr(cachekit, name)
        os._exit(not (first is getattr(cachekit, name) is vars(cachekit)[name]))
    print(name, os.waitpid(child, 0)[1])
"""
    said = run(program, SITE_PACKAGES)
    assert said.splitlines() == [f"{name} 0" for name in cachekit.__all__]


def test_type_checkers_see_the_same_names() -> None:
    """The imports for type checkers name what is loaded on first use, from where that is loaded."""
    tree = ast.parse(Path(cachekit.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "cachekit"
        for alias in node.names
    }
    assert seen == cachekit._MODULES
    assert sorted(seen) == sorted(cachekit.__all__)


def test_star_import_help_and_completion() -> None:
    """All three name every public name, also in a process that has used none of them."""
    program = "from cachekit import *; print(*(name for name in dir() if name[0] != '_' and name != 'sys'))"
    assert sorted(run(program, SITE_PACKAGES).split()) == sorted(cachekit.__all__)
    page = run("import cachekit, pydoc; print(pydoc.plain(pydoc.render_doc(cachekit)))", SITE_PACKAGES)
    assert [name for name in cachekit.__all__ if name not in page] == []
    completed = run("import cachekit; print(*dir(cachekit))").split()
    assert set(cachekit.__all__) | set(cachekit._SUBMODULES) <= set(completed)


def test_submodules_are_attributes() -> None:
    """`import cachekit` is enough for `cachekit.aio` and the others."""
    modules = {module.name for module in pkgutil.iter_modules(cachekit.__path__)} - {"__main__"}
    assert modules == cachekit._SUBMODULES
    program = (
        "import cachekit; print(cachekit.aio.IntelligentCache.__module__, cachekit.health.assess.__name__)"
    )
    assert run(program, SITE_PACKAGES) == "cachekit.aio.cache assess"
    with pytest.raises(ImportError, match="no_such_name"):
        from cachekit import no_such_name  # type: ignore[attr-defined]  # noqa: F401


@pytest.mark.skipif(
    not HAS_GIL,
    reason="importlib takes a package out of sys.modules for a moment; imports of other threads fail then",
)
def test_threads_may_import_at_once() -> None:
    """Each thread asks for the names in another order, and all get the same objects."""
    program = f"""
import threading
sys.setswitchinterval(1e-6)
names = {cachekit.__all__!r}
together, found, failed = threading.Barrier(8), [], []

def ask(first):
    together.wait()
    import cachekit
    try:
        found.append({{name: id(getattr(cachekit, name)) for name in names[first:] + names[:first]}})
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=ask, args=(number * 5,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(failed, len(found), all(one == found[0] for one in found))
"""
    assert run(program, SITE_PACKAGES) == "[] 8 True"


def test_public_classes_pickle_by_reference() -> None:
    """A process that has not imported cachekit reads them."""
    values = (
        cachekit.IntelligentCache, cachekit.CacheLevel.FILE, cachekit.LoadOptions(soft_timeout=1.0),
        cachekit.TierUnavailableError("gone", full=True), cachekit.MISSING,
    )  # fmt: skip
    program = f"import pickle; print(*map(repr, pickle.loads({pickle.dumps(values)!r})), sep='|')"
    assert run(program, SITE_PACKAGES) == "|".join(map(repr, values))


def test_names_can_be_replaced_before_their_first_use() -> None:
    """A replacement stays until it is undone, and then the real object is there again."""
    program = """
import cachekit
from unittest import mock

with mock.patch("cachekit.get_default_cache") as fake, mock.patch.object(cachekit, "CacheError", KeyError):
    print(cachekit.get_default_cache is fake, cachekit.CacheError.__name__)
print(cachekit.get_default_cache.__module__, cachekit.CacheError.__module__)

class OtherThread:
    def find_spec(self, name, *_):
        if name == "cachekit.cache.region":
            cachekit.Region = "of another thread"

sys.meta_path.insert(0, OtherThread())
print(cachekit.Region)
"""
    assert run(program, SITE_PACKAGES).splitlines() == [
        "True KeyError", "cachekit.cache.default cachekit.errors", "of another thread",
    ]  # fmt: skip


def test_hints_of_the_cache_resolve() -> None:
    """Libraries that read annotations at run time find what those of the classes name."""
    for method in (cachekit.IntelligentCache.set, cachekit.Region.set, cachekit.MemoryCache.set_value):
        assert typing.get_type_hints(method)["return"] is bool


if __name__ == "__main__":
    print(public_names(), end="")


def test_the_files_of_the_unrelated_project_are_told(tmp_path: Path) -> None:
    """Both distributions have one folder, so that pip writes the files of one over those of the other."""
    (tmp_path / "cachekit").symlink_to(Path(cachekit.__file__).parent)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import cachekit"
    command = [sys.executable, "-I", "-c", program]
    (tmp_path / "cachekit_tiered-0.2.0.dist-info").mkdir()
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""
    (tmp_path / "cachekit-0.3.1.dist-info").mkdir()
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (
        f"ImportError: the unrelated distribution cachekit-0.3.1 is installed in {tmp_path}" in ended.stderr
    )
    assert "pip uninstall cachekit cachekit-tiered" in ended.stderr
