"""The work of the demo: analysing the sources of the standard library, through cached functions."""

from __future__ import annotations

import ast
import os
import random
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cachekit import cache_result

if TYPE_CHECKING:
    pass


_STDLIB: Final = Path(sysconfig.get_path("stdlib"))
_NOT_LIBRARY: Final = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages"})

# -- the work --------------------------------------------------------------------------------------


class Function(NamedTuple):
    """A function or method of a module."""

    name: str  #: with its module and classes
    lines: int
    complexity: int  #: 1 + its branches (McCabe, "A Complexity Measure", 1976)
    documented: bool


class Analysis(NamedTuple):
    """The analysis of a module."""

    lines: int
    classes: int
    functions: tuple[Function, ...]
    imports: frozenset[str]  #: the top-level names
    seconds: float  #: processor time that the analysis took


_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BRANCHES: Final = (
    ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension,
    ast.match_case, ast.Assert,
)  # fmt: skip

#: The modules analysed, counted without the cache that the demo shows.
analysed: list[str] = []

# CPython before 3.11.8 and 3.12.2 counts the depth of syntax trees for all threads together, so two trees
# built at once raise an error (python/cpython#106905).
_one_parser = threading.Lock()


@cache_result
def analyse(source: str) -> Analysis:
    """Return the analysis of a module, by the path of its source below the standard library."""
    analysed.append(source)
    started = time.thread_time()
    text = (_STDLIB / source).read_bytes()
    try:
        with _one_parser:
            tree = ast.parse(text)
    except SyntaxError:  # a template, or written for another Python version: only its lines are counted
        tree = ast.Module([], [])
    functions = tuple(_functions(tree, module_name(source)))
    return Analysis(
        text.count(b"\n"),
        sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        functions,
        frozenset(_imports(tree)),
        time.thread_time() - started,
    )


@cache_result
def answer(question: str, source: str) -> str:
    """Return the answer to one of `QUESTIONS` about a module."""
    return QUESTIONS[question](analyse(source))


def _functions(scope: ast.AST, name: str) -> Iterator[Function]:
    # Yields the functions inside a module, class or function, in no particular order.
    for node in _own_nodes(scope):
        if isinstance(node, _SCOPES):
            inner = f"{name}.{node.name}"
            if not isinstance(node, ast.ClassDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                documented = ast.get_docstring(node, clean=False) is not None
                yield Function(inner, lines, _complexity(node), documented)
            yield from _functions(node, inner)


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    # Yields all nodes below, including inner functions and classes, but not what is inside those.
    pending = list(ast.iter_child_nodes(scope))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, _SCOPES):
            pending.extend(ast.iter_child_nodes(node))


def _complexity(function: ast.AST) -> int:
    branches = 0
    for node in _own_nodes(function):
        if isinstance(node, _BRANCHES):
            branches += 1
        elif isinstance(node, ast.BoolOp):
            branches += len(node.values) - 1
    return 1 + branches


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _name_of(function: Function | None) -> str:
    return "none" if function is None else function.name


def _documented(analysis: Analysis) -> str:
    documented = sum(function.documented for function in analysis.functions)
    return f"{documented} of {len(analysis.functions)}"


QUESTIONS: Final[dict[str, Callable[[Analysis], str]]] = {
    "Which function is the longest?": lambda module: _name_of(
        max(module.functions, key=lambda function: function.lines, default=None)
    ),
    "Which function is the most complex?": lambda module: _name_of(
        max(module.functions, key=lambda function: function.complexity, default=None)
    ),
    "How many functions are documented?": _documented,
    "What does it import?": lambda module: ", ".join(sorted(module.imports)),
}


def module_name(source: str) -> str:
    """Return the dotted name of the module with this source."""
    return ".".join(Path(source).with_suffix("").parts).removesuffix(".__init__")


def _is_library(name: str) -> bool:
    return name not in _NOT_LIBRARY and name.isidentifier()


def library_sources() -> list[str]:
    """Return the sources of the standard library's modules, without its tests, the largest first.

    Raises:
        SystemExit: this Python has no sources.
    """
    sizes: dict[str, int] = {}
    for folder, folders, files in os.walk(_STDLIB):
        folders[:] = filter(_is_library, folders)  # of the others, nothing is listed
        for path in (Path(folder, file) for file in files if file.endswith(".py")):
            if _is_library(path.stem):
                sizes[path.relative_to(_STDLIB).as_posix()] = path.stat().st_size
    if not sizes:
        raise SystemExit(f"cachekit demo: there is no source of the standard library in {_STDLIB}")
    return sorted(sizes, key=lambda source: (-sizes[source], source))


# -- the stream of requests ------------------------------------------------------------------------


class Plan(NamedTuple):
    """The options of the demo."""

    modules: int | None  #: the number of largest modules; None for all
    requests: int
    threads: int  #: per process
    processes: int  #: of the passes after the first
    redis: str | None  #: the URL of a server, for the pass of another host
    seed: int


class Request(NamedTuple):
    """One question about one module."""

    question: str
    source: str


def request_stream(sources: Sequence[str], requests: int, seed: int) -> list[Request]:
    """Return requests in which the n-th most popular module has 1/n of the first one's (Zipf's law)."""
    random_fraction = random.Random(seed)
    popular_first = random_fraction.sample(sources, len(sources))
    weights = list(accumulate(1 / rank for rank in range(1, len(sources) + 1)))
    asked = random_fraction.choices(popular_first, cum_weights=weights, k=requests)
    return [Request(random_fraction.choice(list(QUESTIONS)), source) for source in asked]


def planned_stream(plan: Plan) -> list[Request]:
    """Return the requests of a plan, the same in every process.

    Raises:
        SystemExit: this Python has no sources.
    """
    return request_stream(library_sources()[: plan.modules], plan.requests, plan.seed)


def duration(seconds: float) -> str:
    """Return a number of seconds with a suitable unit."""
    if seconds >= 100:
        return f"{seconds / 60:.1f} min"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(seconds, 0.0) / 1e-6:.1f} us"
