"""Each `except` that is broader than the errors it is for has a reason in docs/exceptions.md."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from pathlib import Path

import cachekit

PACKAGE = Path(cachekit.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "exceptions.md"
BROAD = {"Exception", "BaseException"}

#: What tells an exception from elsewhere from an error of what was called.
TELLING = {"is_interrupt", "raise_interrupt", "interrupt_behind", "is_no_fault_of_value"}

Place = tuple[str, str, str]  # file, function, class


def names_of(kind: ast.expr | None) -> set[str]:
    if kind is None:
        return {"BaseException"}
    return {node.id for node in ast.walk(kind) if isinstance(node, ast.Name)} & BROAD


def called_by(call: ast.Call) -> str:
    """Return the last name of what a call calls."""
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


def clauses(tree: ast.AST, file: str, owner: tuple[str, ...] = ()) -> list[tuple[Place, ast.AST]]:
    """Return the broad clauses, and each `suppress` of such a class."""
    found: list[tuple[Place, ast.AST]] = []
    for node in ast.iter_child_nodes(tree):
        inner = owner
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*owner, node.name)
        if isinstance(node, ast.ExceptHandler):
            found += [((file, ".".join(owner), name), node) for name in names_of(node.type)]
        if isinstance(node, ast.Call) and called_by(node) == "suppress":
            for argument in node.args:
                found += [((file, ".".join(owner), name), node) for name in names_of(argument)]
        found += clauses(node, file, inner)
    return found


@functools.cache
def in_the_code() -> list[tuple[Place, ast.AST]]:
    found: list[tuple[Place, ast.AST]] = []
    for file in sorted(PACKAGE.rglob("*.py")):
        found += clauses(ast.parse(file.read_text(encoding="utf-8")), file.relative_to(PACKAGE).as_posix())
    return found


def on_the_page() -> dict[Place, tuple[int, str]]:
    rows = re.findall(
        r"^\| `(.+?)` `(.+?)` \| (\w+)(?:, (\d+) times)? \| (.+) \|$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {(file, owner, name): (int(count or 1), why) for file, owner, name, count, why in rows}


def test_each_broad_clause_has_a_reason() -> None:
    """A new one without a row turns this red, and so does a row whose clause is gone."""
    page = on_the_page()
    assert dict(Counter(place for place, _ in in_the_code())) == {
        place: count for place, (count, _) in page.items()
    }
    assert all(len(why.split()) >= 2 for _, why in page.values())


def test_the_code_does_what_the_reason_says() -> None:
    """A clause that cleans up raises again, and one that tells interrupts apart asks for them."""
    page = on_the_page()
    for place, clause in in_the_code():
        why = page[place][1]
        if why.startswith("Cleans up"):
            assert any(isinstance(node, ast.Raise) for node in ast.walk(clause)), place
        if why.startswith("Tells interrupts apart"):
            called = {ast.unparse(node.func) for node in ast.walk(clause) if isinstance(node, ast.Call)}
            assert called & TELLING, place
