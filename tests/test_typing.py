"""What mypy and pyright see: the types of cached functions stay, and wrong calls are rejected.

The files in typing/ hold what must be accepted, with `assert_type`, and what must not, marked with
`# type: ignore[code]`. The examples are accepted as they are. Both checkers see the package as it is
installed.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from typecheckers import mypy, pyright

HERE = Path(__file__).parent
CASES = sorted((HERE / "typing").glob("*.py"))
EXAMPLES = [
    *sorted((HERE.parent / "examples").glob("*.py")),
    *sorted((HERE.parent / "examples" / "tutorial").glob("*.py")),
]
#: Its framework is not among those of the tests.
ABSENT = "langchain_answers.py"
#: Pyright reads the sources of frameworks without types, and misses what those set at run time. Those of
#: DynamoDB are not among the tests' either.
UNTYPED = ("django_shop.py", "dynamodb_table.py", "flask_shop.py", ABSENT)

#: The examples need the types of their frameworks, which take most of the time.
of_both = pytest.mark.parametrize(
    "files", [CASES, pytest.param(EXAMPLES, marks=pytest.mark.soak)], ids=["cases", "examples"]
)


@of_both
def test_mypy(tmp_path: Path, pytestconfig: pytest.Config, files: list[Path]) -> None:
    """Mypy --strict accepts the right calls and rejects each wrong one, with the error that is named.

    In strict mode a `type: ignore` that ignores nothing is an error.
    """
    if metadata.version("mypy").startswith("1."):
        pytest.skip("an older mypy names other errors; the one of the extra has no wheel for this Python")
    files = [file for file in files if file.name not in ("for_pyright.py", ABSENT)]
    cache = pytestconfig.cache.mkdir("mypy") if pytestconfig.cache else tmp_path
    assert mypy(tmp_path, cache, *files) == f"Success: no issues found in {len(files)} source files\n"


@of_both
def test_pyright(tmp_path: Path, files: list[Path]) -> None:
    """Pyright accepts the right calls and rejects exactly the wrong ones."""
    expected = {
        (file.name, number)
        for file in CASES
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if "# type: ignore[" in line
    }
    errors = pyright(tmp_path, *[file for file in files if file.name not in UNTYPED])
    assert len(expected) > 30
    assert (expected if files is CASES else set()) == {(name, line) for name, line, _ in errors}, errors
