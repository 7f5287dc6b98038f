"""The public conformance suite for HTTP caches, if there is a checkout of it; see `run`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest


def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance_run", Path(__file__).with_name("run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["ASGI", "ASGI, strict", "WSGI", "httpx"])
def test_the_public_suite(name: str) -> None:
    run = runner()
    given = os.environ.get("CACHEKIT_CACHE_TESTS")
    if given is None:
        pytest.skip("CACHEKIT_CACHE_TESTS names no checkout of https://github.com/http-tests/cache-tests")
    pytest.importorskip("uvicorn", reason="the suite needs the extra test-http")
    checkout = Path(given).resolve()
    lacking = run.missing(checkout)
    if lacking is not None:
        pytest.skip(lacking)
    setup = run.SETUPS[name]
    assert run.faults(setup, run.run(checkout, setup)) == []
