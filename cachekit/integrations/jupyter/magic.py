"""`%%cached`: a cell whose results are stored, under its code and the values that it reads."""

from __future__ import annotations

import ast
import builtins
import copy
import pickle
import re
import types
from hashlib import blake2b
from typing import Any, Final, NamedTuple, final

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, magics_class

from cachekit.cache.default import get_default_cache
from cachekit.cache.intelligent import IntelligentCache
from cachekit.decorator.key_encoding import arguments_text
from cachekit.decorator.source import is_disabled
from cachekit.errors import KeyEncodingError
from cachekit.integrations.jupyter.names import DEFINITIONS, IMPORTS, names_of
from cachekit.model.display import safe_repr, shown_error
from cachekit.model.types import MISSING, CacheLevel
from cachekit.runtime.interrupts import raise_interrupt

#: The tag of all cells: `invalidate_cache_tags({"cachekit.cells"})` drops them.
TAG: Final = "cachekit.cells"

#: The name that holds the value of the last expression while a cell runs.
_LAST: Final = "_cachekit_last"

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_USAGE: Final = "write %%cached [ttl=1d] [depends=a,b] [ignore=c] [save=d,e] [refresh]"


class Options(NamedTuple):
    """The checked line of a `%%cached`."""

    ttl: float | None
    depends: frozenset[str]
    ignore: frozenset[str]
    save: frozenset[str]
    refresh: bool


class Cell(NamedTuple):
    """A parsed cell, and the file name by which tracebacks find its lines."""

    tree: ast.Module
    file: str
    read: frozenset[str]
    assigned: frozenset[str]


@magics_class
@final
class CachedCells(Magics):
    """The magic `%%cached`."""

    @cell_magic
    def cached(self, line: str, cell: str) -> Any:
        """Run the cell, or give the names that it assigns the values of an earlier run.

        %%cached ttl=1d
        prices = download(day)
        total = prices.sum()

        The key is the code of the cell, without comments and layout, and the values of the names that it
        reads: functions count by their code, modules by their version. What a cell prints, and what it
        changes by calling methods, is not stored.

            ttl: the life of the results, such as 90, 30m, 2h, 1d or 1w (default: that of the cache)
            depends: further names whose values belong to the key
            ignore: names that the cell reads and whose values do not belong to the key, such as a connection
            save: the names to store (default: all that the cell assigns)
            refresh: run the cell, and replace what is stored
        """
        options = _options(line)
        parsed = self._parsed(cell)
        if is_disabled():
            return self._run(parsed, parsed.tree.body)
        cache = get_default_cache()
        key = self._key(parsed, options)
        level = _level(cache)
        found = MISSING if options.refresh else cache.get(key, MISSING, cache_level=level)
        if found is not MISSING:
            return self._restored(parsed, found, level)
        value = self._run(parsed, parsed.tree.body)
        names = options.save or {
            name
            for name in parsed.assigned
            if name in self.shell.user_ns and not isinstance(self.shell.user_ns[name], types.ModuleType)
        }
        absent = sorted(name for name in names if name not in self.shell.user_ns)
        if absent:
            raise UsageError(f"%%cached: save must be names that the cell assigns, not {', '.join(absent)}")
        self._store(cache, key, {name: self.shell.user_ns[name] for name in names}, value, options, level)
        return value

    def _parsed(self, cell: str) -> Cell:
        source = self.shell.transform_cell(cell)
        file = self.shell.compile.cache(source, self.shell.execution_count, raw_code=cell)
        tree = ast.parse(source, file)
        scopes = (*DEFINITIONS, ast.Lambda)
        waiting: list[ast.AST] = [tree]
        while waiting:
            node = waiting.pop()
            if isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)):
                raise UsageError(
                    "%%cached: a cell with await at its top level cannot be cached; put @cache_result above "
                    "an async def, and await that in a cell without %%cached"
                )
            waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, scopes)]
        return Cell(tree, file, *names_of(tree))

    def _key(self, cell: Cell, options: Options) -> str:
        space = self.shell.user_ns
        for name in sorted(options.depends - space.keys()):
            raise UsageError(f"%%cached: depends must be names that have a value, and {name} has none")
        read = {name for name in cell.read if name in space and not _is_builtin(name, space[name])}
        parts = [
            (name, _version(name, space[name])) for name in sorted((read | options.depends) - options.ignore)
        ]
        code = blake2b(ast.dump(cell.tree).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        values = blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        saved = ",".join(sorted(options.save))
        return f"cachekit.cell:{code}:{values}:{saved}"

    def _run(self, cell: Cell, body: list[ast.stmt]) -> Any:
        """Run statements in the notebook; return the value of the last one if it is an expression."""
        space, body = self.shell.user_ns, list(body)
        if body and isinstance(body[-1], ast.Expr):
            last = body[-1]
            body[-1] = ast.copy_location(ast.Assign([ast.Name(_LAST, ast.Store())], last.value), last)
        module = ast.fix_missing_locations(ast.Module(body, []))
        try:
            exec(compile(module, cell.file, "exec", dont_inherit=True), space)  # noqa: S102  # it is the user's
            return space.get(_LAST)
        finally:
            space.pop(_LAST, None)

    def _store(
        self,
        cache: IntelligentCache,
        key: str,
        values: dict[str, Any],
        value: Any,
        options: Options,
        level: CacheLevel,
    ) -> None:
        kept = (values, value)
        try:
            if level is CacheLevel.MEMORY:
                kept = copy.deepcopy(kept)
            stored = cache.set(key, kept, options.ttl, level, {TAG})
        except Exception as error:  # noqa: BLE001  # whatever the classes of the values raise; the cell has run
            raise_interrupt(error)
            _tell(
                f"not stored, because a value cannot be: {shown_error(error)}. "
                f"Name those to store: save={','.join(sorted(values)) or '...'}"
            )
        else:
            if not stored:
                _tell("not stored, because a tier failed; see get_default_cache().health()")

    def _restored(self, cell: Cell, found: Any, level: CacheLevel) -> Any:
        values, value = copy.deepcopy(found) if level is CacheLevel.MEMORY else found
        body = cell.tree.body
        self._run(cell, [one for one in body if isinstance(one, IMPORTS)])
        self.shell.user_ns.update(values)
        self._run(cell, [one for one in body if isinstance(one, DEFINITIONS)])
        _tell(f"{', '.join(sorted(values)) or 'the result'} from an earlier run")
        return value


def _tell(said: str) -> None:
    print(f"%%cached: {said}")  # noqa: T201  # below the cell


def _options(line: str) -> Options:
    given: dict[str, str] = {}
    for word in line.split():
        name, _, said = word.partition("=")
        if name in given or name not in {*Options._fields} or bool(said) is (name == "refresh"):
            raise UsageError(f"%%cached: {word!r} is no argument of it; {_USAGE}")
        given[name] = said
    ttl = None
    if "ttl" in given:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)", given["ttl"])
        ttl = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if ttl <= 0:
            raise UsageError(f"%%cached: ttl must be such as 90, 30m, 2h, 1d or 1w, not {given['ttl']!r}")
    names = {}
    for argument in ("depends", "ignore", "save"):
        said = given.get(argument, "")
        names[argument] = frozenset(filter(None, said.split(",")))
        wrong = sorted(name for name in names[argument] if not name.isidentifier())
        if wrong:
            raise UsageError(
                f"%%cached: {argument} must be names, such as {argument}=a,b, not {safe_repr(said)}"
            )
    return Options(ttl, **names, refresh="refresh" in given)


def _is_builtin(name: str, value: object) -> bool:
    return getattr(builtins, name, MISSING) is value or name in {"get_ipython", "display"}


def _version(name: str, value: object) -> str:
    """Return what the key says of a name that a cell reads."""
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__} {getattr(value, '__version__', '')}"
    try:
        return arguments_text([(name, value)])
    except KeyEncodingError as error:
        refused = error
    try:
        # A table, or a model: equal values may have other bytes, which costs a run and no more.
        return f"pickle {blake2b(pickle.dumps(value), digest_size=16).hexdigest()}"
    except Exception as error:  # noqa: BLE001  # whatever the classes of the value raise
        raise_interrupt(error)
        raise UsageError(
            f"%%cached: {name}, which the cell reads, cannot be part of the key ({refused}); "
            f"if the results do not depend on its value, write ignore={name}"
        ) from None


def _level(cache: IntelligentCache) -> CacheLevel:
    """Return the tiers that hold copies: the next cells may change the objects that they got."""
    lower = [
        level
        for level, tier in ((CacheLevel.REDIS, cache.redis_cache), (CacheLevel.FILE, cache.file_cache))
        if tier is not None
    ]
    if not lower:
        return CacheLevel.MEMORY
    return lower[0] if len(lower) == 1 else lower[0] | lower[1]
