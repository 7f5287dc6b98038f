"""Recorded answers for tests: the option --cassette, the marker `cassette` and the fixture.

pytest finds this module when cachekit is installed. It imports cassettes only where a test uses them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from cachekit import Cassette
    from cachekit.cassettes.cassette import Mode

_MODES: Final = ("record", "replay", "auto", "off")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --cassette."""
    parser.getgroup("cachekit").addoption(
        "--cassette",
        choices=_MODES,
        default=None,
        help="the mode of cassettes of the marker and the fixture (default: replay if CI=true, else auto)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "cassette(path=None, mode=None, **options): cached functions answer from a cassette of this test; "
        "the options are those of cachekit.cassette",
    )


@pytest.fixture
def cachekit_cassette(request: pytest.FixtureRequest) -> Iterator[Cassette]:
    """Answer cached functions from a cassette of this test, and provide it.

    Its file is `cassettes/<module>/<test>.jsonl` beside the test file, or the path that the marker `cassette`
    gives, relative to the directory of the test file.
    """
    with _cassette_of(request) as used:
        yield used


def _cassette_of(request: pytest.FixtureRequest) -> Cassette:
    from cachekit.cassettes.cassette import Cassette

    marker = request.node.get_closest_marker("cassette")
    given: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    names = ("path", "mode")
    positional = () if marker is None else marker.args
    if len(positional) > len(names):
        raise pytest.UsageError(
            f"the marker cassette takes a path and a mode, not {len(positional)} arguments; give options "
            f"by name"
        )
    given |= dict(zip(names, positional, strict=False))
    options: dict[str, Any] = {
        "version": "check",
        "exceptions": (),
        "redact": None,
        "secret": None,
        "allow": (),
    }
    unknown = given.keys() - options.keys() - set(names)
    if unknown:
        raise pytest.UsageError(
            f"the marker cassette has no option {', '.join(sorted(unknown))}; it takes path, mode, "
            f"{', '.join(options)}"
        )
    options |= {name: value for name, value in given.items() if name not in names}
    path = request.path.parent / (given.get("path") or _default_path(request))
    # The name of the option is not known where this module is not loaded before the command line is read.
    mode: Mode = request.config.getoption("--cassette", default=None) or given.get("mode") or _default_mode()
    remedy = f"to record it, run: pytest --cassette=auto {request.node.nodeid!r}"
    return Cassette(path, mode, **options, remedy=remedy)


def _default_path(request: pytest.FixtureRequest) -> Path:
    test = request.node.nodeid.partition("::")[2].replace("::", ".")
    name = re.sub(r"[^\w\-.\[\]]", "_", test)[:150]
    if name != test:  # the id of a parameter may be any text, and two of them must not share a file
        from hashlib import blake2b

        name += f"-{blake2b(test.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"
    return Path("cassettes") / request.path.stem / f"{name}.jsonl"


def _default_mode() -> Mode:
    return "replay" if os.environ.get("CI", "").lower() in ("1", "true", "yes") else "auto"


@pytest.fixture(autouse=True)
def _cachekit_marked_cassette(request: pytest.FixtureRequest) -> None:
    # A marker alone requests no fixture.
    if request.node.get_closest_marker("cassette") is not None:
        request.getfixturevalue("cachekit_cassette")
