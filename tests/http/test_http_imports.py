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
