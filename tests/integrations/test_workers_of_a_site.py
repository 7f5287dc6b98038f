"""A site of each framework under a real server: four processes over one directory, one of them killed."""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis_server import free_port, wait_until

pytestmark = pytest.mark.soak

#: What the sites have in common: each page notes its process, and the loader waits for the test.
COMMON = """
import os, pathlib, time
from cachekit import FileCache, IntelligentCache, LoadOptions

here = pathlib.Path(__file__).parent
LEASE = LoadOptions(lease="process")

def note(name):
    with open(here / name, "a") as file:
        file.write(f"{os.getpid()}\\n")

def load():
    note("loads")
    while not (here / "go-on").exists():
        time.sleep(0.01)  # between two looks at the file that the test touches
    return os.getpid()

def version():
    return int((here / "version").read_text())
"""

DJANGO = """
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from common import LEASE, here, load, note, version

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="secret of the test",
    CACHES={"default": {
        "BACKEND": "cachekit.integrations.django.CacheKitCache", "LOCATION": str(here / "cache"),
        "OPTIONS": {"load": LEASE},
    }},
)
django.setup()
from django.core.cache import cache

def stampede(request):
    note("arrived")
    return HttpResponse(str(cache.get_or_set("stampede", load)))

def shown(request):
    return HttpResponse(str(cache.get_or_set("version", version, tags={"version"})))

def drop(request):
    cache.invalidate_tags("version")
    return HttpResponse("dropped")

urlpatterns = [path("stampede", stampede), path("version", shown), path("drop", drop)]
app = get_wsgi_application()
"""

FLASK = """
from flask import Flask
from flask_caching import Cache
from common import LEASE, here, load, note, version

app = Flask(__name__)
app.config |= {
    "CACHE_TYPE": "cachekit.integrations.flask_caching.CacheKitCache", "CACHE_DIR": str(here / "cache"),
}
caching = Cache(app)
cache = caching.cache.cache

@app.get("/stampede")
def stampede():
    note("arrived")
    return str(cache.get_or_set("stampede", load, load=LEASE))

@app.get("/version")
def shown():
    return str(cache.get_or_set("version", version, tags={"version"}))

@app.get("/drop")
def drop():
    cache.invalidate_by_tags({"version"})
    return "dropped"
"""

FASTAPI = """
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from cachekit import FileCache, IntelligentCache
from cachekit.integrations.fastapi import CurrentCache, lifespan_of
from common import LEASE, here, load, note, version

app = FastAPI(lifespan=lifespan_of(lambda: IntelligentCache(file_cache=FileCache(here / "cache"))))

@app.get("/stampede", response_class=PlainTextResponse)
async def stampede(cache: CurrentCache):
    note("arrived")
    return str(await cache.get_or_set("stampede", load, load=LEASE))

@app.get("/version", response_class=PlainTextResponse)
async def shown(cache: CurrentCache):
    return str(await cache.get_or_set("version", version, tags={"version"}))

@app.get("/drop", response_class=PlainTextResponse)
async def drop(cache: CurrentCache):
    await cache.invalidate_by_tags({"version"})
    return "dropped"
"""

WORKERS = 4
CLIENTS = 40
GUNICORN = [
    "gunicorn", "site_program:app", "-b", "127.0.0.1:{port}", "-w", str(WORKERS), "-k", "gthread",
    "--threads", str(CLIENTS), "--log-level", "warning",
]  # fmt: skip
UVICORN = [
    "uvicorn", "site_program:app", "--port", "{port}", "--workers", str(WORKERS), "--log-level", "warning",
]  # fmt: skip
SITES = {
    "django": (DJANGO, GUNICORN, ("django", "gunicorn")),
    "flask": (FLASK, GUNICORN, ("flask_caching", "gunicorn")),
    "fastapi": (FASTAPI, UVICORN, ("fastapi", "uvicorn")),
}


class Site:
    """A server with its workers."""

    def __init__(self, name: str, directory: Path) -> None:
        program, command, _ = SITES[name]
        self._directory = directory
        self.port = free_port()
        (directory / "common.py").write_text(COMMON)
        (directory / "site_program.py").write_text(program)
        (directory / "version").write_text("0")
        arguments = [part.format(port=self.port) for part in command]
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=directory, env=os.environ | {"PYTHONPATH": str(directory)}
        )

    def get(self, path: str) -> str | None:
        """Return the content; None if the worker was killed before it answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=100)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            return response.read().decode()
        except (ConnectionError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def noted(self, name: str) -> list[int]:
        file = self._directory / name
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def write(self, name: str, text: str = "") -> None:
        """Replace a file at once: a worker that reads it sees all of it."""
        (self._directory / "new").write_text(text)
        (self._directory / "new").replace(self._directory / name)

    def is_up(self) -> bool:
        assert self._process.poll() is None, "the server ended"
        return self.get("/version") is not None

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:  # a request that never ends holds a worker up
            self._process.kill()
            raise


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    for needed in SITES[request.param][2]:
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed; the extras test and test-http have it")
    site = Site(request.param, tmp_path)
    try:
        wait_until(site.is_up, "a worker answers")
        yield site
    finally:
        site.write("go-on")
        site.close()


def test_a_stampede_and_a_killed_worker(site: Site) -> None:
    """One load for all workers; if its worker is killed, one other loads; none serves what is old."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = [clients.submit(site.get, "/stampede") for _ in range(CLIENTS)]
        wait_until(lambda: len(site.noted("arrived")) == CLIENTS, "all clients have a worker")
        assert len(set(site.noted("arrived"))) > 1, "all clients have the same worker"
        (loader,) = site.noted("loads")
        os.kill(loader, signal.SIGKILL)
        wait_until(lambda: len(site.noted("loads")) == 2, "another worker loads")
        site.write("go-on")
        got = [answer.result() for answer in answers]
        second = site.noted("loads")[1]
        assert got.count(None) == site.noted("arrived").count(loader)
        assert set(got) - {None} == {str(second)}
        assert set(clients.map(site.get, ["/stampede"] * CLIENTS)) == {str(second)}
        assert len(site.noted("loads")) == 2
        for number in range(1, 30):
            # Under load all the time: other clients read while the version changes.
            reads = [clients.submit(site.get, "/version") for _ in range(8)]
            site.write("version", str(number))
            assert site.get("/drop") == "dropped"
            assert set(clients.map(site.get, ["/version"] * 8)) == {str(number)}
            assert {read.result() for read in reads} <= {str(number - 1), str(number)}
