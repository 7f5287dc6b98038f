"""The fixtures that all tests have in common."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

_PLUGINS = Path(__file__).parent / "support"


def _fixtures(plugin: Path) -> list[str]:
    return [
        node.name
        for node in ast.parse(plugin.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(ast.unparse(one).startswith("pytest.fixture") for one in node.decorator_list)
    ]


def test_each_name_means_one_thing() -> None:
    """Of two plugins with a fixture of one name, the later one would win for every test."""
    found = Counter(name for plugin in _PLUGINS.glob("*.py") for name in _fixtures(plugin))
    assert found["redis_url"] == 1
    assert [name for name, count in found.items() if count > 1] == []
