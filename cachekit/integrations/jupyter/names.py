"""The names that the code of a cell reads from outside, and those that it assigns. It runs nothing."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

#: Statements of a cell that are run again instead of being stored: their values cannot be, or cost nothing.
IMPORTS: Final = (ast.Import, ast.ImportFrom)
DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

_SCOPES: Final = (
    *DEFINITIONS, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip
_LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)


class Names(NamedTuple):
    """What a cell does with names.

    Attributes:
        read: those whose value may come from outside.
        assigned: those whose value may be another one afterwards, or whose object may be changed by an
            assignment to an attribute or an item. Imports and definitions are not among them.
    """

    read: frozenset[str]
    assigned: frozenset[str]


def names_of(tree: ast.Module) -> Names:
    """Return the names of a cell."""
    flow = _Flow()
    flow.run(tree.body, set())
    return Names(frozenset(flow.read), frozenset(flow.assigned))


class _Flow:
    """Follows the statements of a cell in the order in which they run.

    A name is read from outside unless every way to the place where it is read has assigned it before.
    """

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.assigned: set[str] = set()

    def run(self, body: Iterable[ast.stmt], known: set[str]) -> set[str]:
        """Follow statements; return the names that are assigned for certain afterwards."""
        for statement in body:
            known = self._statement(statement, known)
        return known

    def _statement(self, node: ast.stmt, known: set[str]) -> set[str]:
        if isinstance(node, IMPORTS):
            return known | {(one.asname or one.name).partition(".")[0] for one in node.names}
        if isinstance(node, DEFINITIONS):
            self._inner(node, known | {node.name})
            return known | {node.name}
        if isinstance(node, ast.If):
            known = self._expression(node.test, known)
            return self.run(node.body, known) & self.run(node.orelse, known)
        if isinstance(node, _LOOPS):
            inside = known
            if isinstance(node, ast.While):
                known = inside = self._expression(node.test, known)
            else:
                known = self._expression(node.iter, known)
                inside = self._expression(node.target, known)
            self.run(node.body, inside)
            self.run(node.orelse, known)
            return known
        if isinstance(node, (ast.Try, ast.TryStar)):
            after = self.run(node.orelse, self.run(node.body, known))
            for handler in node.handlers:
                if handler.type is not None:
                    self._expression(handler.type, known)
                after &= self.run(handler.body, known | ({handler.name} if handler.name else set()))
            return after | self.run(node.finalbody, known)
        if isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                known = self._expression(item.context_expr, known)
                if item.optional_vars is not None:
                    known = self._expression(item.optional_vars, known)
            return self.run(node.body, known)
        if isinstance(node, ast.Match):
            known = self._expression(node.subject, known)
            for case in node.cases:
                names = {
                    name
                    for part in ast.walk(case.pattern)
                    for name in (getattr(part, "name", None), getattr(part, "rest", None))
                    if isinstance(name, str)
                }
                self._reads(case.pattern, known)
                self.assigned |= names
                inside = known | names
                if case.guard is not None:
                    inside = self._expression(case.guard, inside)
                self.run(case.body, inside)
            return known
        if isinstance(node, ast.Assign):
            known = self._expression(node.value, known)
            for target in node.targets:
                known = self._expression(target, known)
            return known
        if isinstance(node, ast.AugAssign):
            if isinstance(node.target, ast.Name) and node.target.id not in known:
                self.read.add(node.target.id)
            known = self._expression(node.value, known)
            return self._expression(node.target, known)
        if isinstance(node, ast.AnnAssign):
            if node.value is None:
                return known
            return self._expression(node.target, self._expression(node.value, known))
        return self._expression(node, known)

    def _expression(self, node: ast.AST, known: set[str]) -> set[str]:
        """Follow an expression, or a target; return what is assigned afterwards."""
        self._reads(node, known)
        stored = set(known)
        for part in _own_parts(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                self.assigned.add(part.id)
                stored.add(part.id)
            elif isinstance(part, (ast.Attribute, ast.Subscript)) and isinstance(
                part.ctx, (ast.Store, ast.Del)
            ):
                changed: ast.AST = part
                while isinstance(changed, (ast.Attribute, ast.Subscript, ast.Starred)):
                    changed = changed.value
                if isinstance(changed, ast.Name):
                    self.assigned.add(changed.id)  # the object is changed
        return stored

    def _reads(self, node: ast.AST, known: set[str]) -> None:
        if isinstance(node, _SCOPES) or _has_scope(node):
            self._inner(node, known)
            return
        for part in ast.walk(node):
            if (
                isinstance(part, ast.Name)
                and isinstance(part.ctx, (ast.Load, ast.Del))
                and part.id not in known
            ):
                self.read.add(part.id)

    def _inner(self, node: ast.AST, known: set[str]) -> None:
        """Count what functions, classes and comprehensions in a statement read from the cell."""
        if isinstance(node, ast.expr):
            node = ast.Expr(node)
        if not isinstance(node, ast.stmt):  # a pattern has no scope
            return
        # Unparsed, because symtable takes source only. The copy may be changed.
        source = ast.unparse(ast.fix_missing_locations(ast.Module([node], [])))
        source = ast.unparse(_Generators().visit(ast.parse(source)))
        self.read.update(_globals_read(symtable.symtable(source, "<cell>", "exec")) - known)


class _Generators(ast.NodeTransformer):
    """Makes comprehensions generators, which have a scope of their own in Python 3.12 and later, too."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node, (ast.ListComp, ast.SetComp)):
            return ast.GeneratorExp(node.elt, node.generators)
        if isinstance(node, ast.DictComp):
            return ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators)
        return node


def _has_scope(node: ast.AST) -> bool:
    return any(isinstance(part, _SCOPES) for part in ast.walk(node))


def _own_parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes outside of inner scopes, and the names that `:=` assigns from inside of them."""
    for part in ast.walk(node):
        if isinstance(part, ast.NamedExpr):
            yield part.target
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, _SCOPES):
            yield part
            waiting += ast.iter_child_nodes(part)


def _globals_read(table: symtable.SymbolTable) -> set[str]:
    is_top = table.get_type() == "module"
    names = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_referenced() and (symbol.is_global() or (is_top and not symbol.is_assigned()))
    }
    for child in table.get_children():
        names |= _globals_read(child)
    return names
