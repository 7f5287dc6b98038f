"""The middleware needs no other library, and `import cachekit` loads nothing of it."""

from __future__ import annotations

from fresh_imports import run


def test_the_middleware_does_without_httpx() -> None:
    program = (
        "import sys, cachekit.http; cachekit.http.ASGICache, cachekit.http.WSGICache; "
        "print('httpx' in sys.modules)"
    )
    assert run(program) == "False"


def test_importing_cachekit_loads_nothing_of_it() -> None:
    assert run("import sys, cachekit; print('cachekit.http' in sys.modules)") == "False"
    assert run("import cachekit; print(cachekit.http.ASGICache.__name__)") == "ASGICache"


def test_a_missing_library_is_named() -> None:
    """The one of the extra with the command that installs it, and another one as it is."""
    program = (
        "import sys, cachekit.http; sys.modules[{missing!r}] = None\n"
        "try: cachekit.http.CachedTransport\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    assert run(program.format(missing="httpx")) == (
        "ImportError CachedTransport needs httpx; install it with: pip install 'cachekit-tiered[http]'"
    )
    # As where httpx is there, and a library that it needs is not.
    assert run(program.format(missing="cachekit.http.transport")).startswith("ModuleNotFoundError import of")
