"""Run the public conformance suite for HTTP caches against the middleware, and print its table.

    python tests/http/conformance/run.py CHECKOUT [SETUP ...]

CHECKOUT is a checkout of https://github.com/http-tests/cache-tests in which `npm install undici liquidjs
marked` was run. It exits with 1 if a setup falls below what it promises, or another test fails than those
that are listed here with a reason.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

HERE: Final = Path(__file__).parent


class Setup(NamedTuple):
    """A cache under test."""

    server: str  #: uvicorn, gunicorn, nginx or varnishd
    factory: str = ""  #: of `forwarding`; none for a program that is a cache itself
    cookies: str = "rfc"
    required: int = 0  #: tests of each kind that must pass
    optimal: int = 0
    is_private: bool = False


SETUPS: Final = {
    "ASGI": Setup("uvicorn", "asgi", required=155, optimal=91),
    "ASGI, strict": Setup("uvicorn", "asgi", "strict", required=154, optimal=90),
    "WSGI": Setup("gunicorn", "wsgi", required=153, optimal=91),
    "httpx": Setup("uvicorn", "transport", required=131, optimal=64, is_private=True),
    "hishel": Setup("uvicorn", "hishel"),
    "nginx": Setup("nginx"),
    "varnish": Setup("varnishd"),
    "no cache": Setup("uvicorn", "uncached"),
}

#: The settings that the authors of the suite use.
_NGINX: Final = """
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  proxy_cache_path {directory}/nginx levels=1:2 keys_zone=my-cache:8m max_size=1000m inactive=600m;
  proxy_temp_path {directory}/nginx/tmp;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{origin};
      proxy_cache my-cache;
      proxy_cache_revalidate on;
      proxy_http_version 1.1;
    }}
  }}
}}
"""

_INTERIM: Final = "uvicorn over HTTP/1.1 and gunicorn send no interim responses of an application"
_CLOSES: Final = "it counts only for caches that serve stale without `stale-if-error`; by itself it passes"
_PARTIAL: Final = "a partial response is not stored"
_AS_SENT: Final = "applications may tell apart what clients send in other order, case or spacing"
_DATE: Final = "gunicorn replaces the Date"

#: Tests of the kinds `required` and `optimal` that do not pass, and why.
REASONS: Final = {
    "interim-102": _INTERIM, "interim-103": _INTERIM, "interim-not-cached": _INTERIM,
    "interim-no-header-reuse": _INTERIM,
    "stale-close-must-revalidate": _CLOSES, "stale-close-proxy-revalidate": _CLOSES,
    "stale-close-no-cache": _CLOSES, "stale-close-s-maxage=2": _CLOSES,
    "partial-store-partial-reuse-partial": _PARTIAL,
    "partial-store-partial-reuse-partial-byterange": _PARTIAL,
    "partial-store-partial-reuse-partial-absent": _PARTIAL,
    "partial-store-partial-reuse-partial-suffix": _PARTIAL, "partial-store-partial-complete": _PARTIAL,
    "method-POST": "the response to a POST is not stored",
    "vary-normalise-lang-select": "no language is chosen among stored variants",
    "vary-normalise-lang-order": _AS_SENT, "vary-normalise-lang-case": _AS_SENT,
    "vary-normalise-space": _AS_SENT,
    "conditional-lm-fresh-no-lm": "without Last-Modified, the Date counts, which is later",
    "other-date-update": _DATE, "other-date-update-expires": _DATE,
    "headers-store-Transfer-Encoding": "httpx refuses the response",
    "other-cookie": "the private cache keeps the pages of users apart by their cookies",
    "headers-store-Set-Cookie": 'cookies="strict"', "other-set-cookie": 'cookies="strict"',
}  # fmt: skip

#: Prints the id, kind and result of each test, and whether it is for one kind of cache.
_RESULTS: Final = """
import fs from 'fs'
const [root, file] = process.argv.slice(-2)
const { determineTestResult, resultTypes } = await import(root + '/test-engine/lib/results.mjs')
const tests = (await import(root + '/tests/index.mjs')).default
const results = JSON.parse(fs.readFileSync(file))
const names = new Map(Object.entries(resultTypes).map(([name, type]) => [type, name]))
const rows = []
for (const suite of tests) for (const test of suite.tests) {
  if (test.browser_only) continue
  const result = names.get(determineTestResult(tests, test.id, results, true))
  rows.push([test.id, test.kind || 'required', result, !!(test.browser_skip || test.cdn_only)])
}
console.log(JSON.stringify(rows))
"""


def missing(checkout: Path) -> str | None:
    """Return what this machine lacks for a run, or None."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not (checkout / "test-engine" / "cli.mjs").exists():
        return f"{checkout} is no checkout of cache-tests"
    if not (checkout / "node_modules" / "undici").exists():
        return f"`npm install undici liquidjs marked` was not run in {checkout}"
    return None


def lacks(setup: Setup) -> str | None:
    """Return what this machine lacks for a setup, or None."""
    if not setup.factory:
        return None if shutil.which(setup.server) else f"{setup.server} is not installed"
    modules = [setup.server, "httpx", "hishel"] if setup.factory == "hishel" else [setup.server]
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed" if absent else None


def run(checkout: Path, setup: Setup) -> list[tuple[str, str, str, bool]]:
    """Return id, kind and result of each test, and whether it is for shared caches only."""
    origin, port = _free_port(), _free_port()
    programs: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as directory:
        results, log = Path(directory, "results.json"), Path(directory, "log")
        environment = os.environ | {
            "CONFORMANCE_ORIGIN": str(origin), "CONFORMANCE_COOKIES": setup.cookies,
            "PYTHONPATH": f"{HERE}:{HERE.parents[2]}", "npm_config_protocol": "http",
            "npm_config_port": str(origin), "npm_config_pidfile": str(Path(directory, "pid")),
            "npm_config_base": f"http://127.0.0.1:{port}", "npm_config_id": "", "npm_package_config_id": "",
        }  # fmt: skip
        try:
            with log.open("wb") as output:
                programs += [
                    subprocess.Popen(command, cwd=checkout, env=environment, stdout=output, stderr=output)
                    for command in (
                        ["node", "test-engine/server/server.mjs"],
                        _served(setup, port, origin, Path(directory)),
                    )
                ]
                _await_port(origin)
                _await_answer(port)
                with results.open("wb") as file:
                    subprocess.run(
                        ["node", "--no-warnings", "test-engine/cli.mjs"], cwd=checkout, env=environment,
                        stdout=file, stderr=output, check=True, timeout=400,
                    )  # fmt: skip
        finally:
            for program in programs:
                program.send_signal(signal.SIGTERM)
            for program in programs:
                program.wait(30)
        return _rows(checkout, results)


def published(checkout: Path, cache: str) -> list[tuple[str, str, str, bool]]:
    """Return what the suite's authors have published of another cache."""
    return _rows(checkout, checkout / "results" / f"{cache}.json")


def _rows(checkout: Path, results: Path) -> list[tuple[str, str, str, bool]]:
    command = [
        "node",
        "--no-warnings",
        "--input-type=module",
        "-e",
        _RESULTS,
        "--",
        str(checkout),
        str(results),
    ]
    ran = subprocess.run(command, capture_output=True, check=True, text=True, timeout=100)
    return [tuple(row) for row in json.loads(ran.stdout)]


def faults(setup: Setup, rows: list[tuple[str, str, str, bool]]) -> list[str]:
    """Return what falls short of the promise of a setup."""
    counts = Counter((kind, result) for _, kind, result, shared in rows if not (shared and setup.is_private))
    found = []
    for kind, least in (("required", setup.required), ("optimal", setup.optimal)):
        if counts[kind, "pass"] < least:
            found.append(f"{kind}: {counts[kind, 'pass']} pass, {least} are promised")
    if setup.required:
        found += [
            f"{id_}: {result}, without a known reason"
            for id_, kind, result, shared in rows
            if kind != "check"
            and result != "pass"
            and id_ not in REASONS
            and not (shared and setup.is_private)
        ]
    return found


def line(name: str, setup: Setup | None, rows: list[tuple[str, str, str, bool]]) -> str:
    """Return a line of the table."""
    of_private = setup is not None and setup.is_private
    counts = Counter((kind, result) for _, kind, result, shared in rows if not (shared and of_private))
    required = {result: count for (kind, result), count in counts.items() if kind == "required"}
    optimal = {result: count for (kind, result), count in counts.items() if kind == "optimal"}
    others = ", ".join(f"{count} {result}" for result, count in sorted(required.items()) if result != "pass")
    return (
        f"{name:24} required {required.get('pass', 0)} of {sum(required.values())} ({others or 'all'}); "
        f"optimal {optimal.get('pass', 0)} of {sum(optimal.values())}"
    )


def _served(setup: Setup, port: int, origin: int, directory: Path) -> list[str]:
    if setup.server == "nginx":
        settings = directory / "nginx.conf"
        settings.write_text(_NGINX.format(directory=directory, port=port, origin=origin))
        directory.chmod(0o755)  # its workers may be of another user
        return ["nginx", "-c", str(settings), "-e", str(directory / "nginx.log"), "-g", "daemon off;"]
    if setup.server == "varnishd":
        return [
            "varnishd", "-F", "-j", "none", "-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{origin}",
            "-n", str(directory / "varnish"), "-s", "malloc,64m", "-p", "default_ttl=0",
            "-p", "default_grace=0", "-p", "default_keep=3600",
        ]  # fmt: skip
    if setup.server == "gunicorn":
        # The suite pauses for up to 3 s between requests. By default gunicorn closes an idle connection after
        # 2 s, at times while the suite sends its next request over it, and then the test fails.
        return [
            sys.executable, "-m", "gunicorn", f"forwarding:{setup.factory}()", "-b", f"127.0.0.1:{port}",
            "-k", "gthread", "--threads", "64", "--keep-alive", "60", "--log-level", "warning",
        ]  # fmt: skip
    return [
        sys.executable, "-m", "uvicorn", "--factory", f"forwarding:{setup.factory}", "--port", str(port),
        "--no-server-header", "--no-date-header", "--log-level", "warning",
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)  # between two attempts: a program does not tell when it listens
    raise TimeoutError(f"nothing listens on port {port}")


def _await_answer(port: int) -> None:
    """Wait for a response: varnish listens before it can answer."""
    _await_port(port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    connection.getresponse().read()
    connection.close()


def main(arguments: list[str]) -> int:
    """Print the table; return 1 if a setup falls short."""
    if not arguments:
        print(__doc__)
        return 2
    checkout = Path(arguments[0]).resolve()
    lacking = missing(checkout)
    if lacking is not None:
        print(f"skipped: {lacking}")
        return 0
    found: list[Any] = []
    for name in arguments[1:] or SETUPS:
        absent = lacks(SETUPS[name])
        if absent is not None:
            print(f"{name:24} skipped: {absent}", flush=True)
            continue
        rows = run(checkout, SETUPS[name])
        print(line(name, SETUPS[name], rows), flush=True)
        for fault in faults(SETUPS[name], rows):
            print("    " + fault, flush=True)
            found.append(fault)
    if not arguments[1:]:
        for cache in ("nginx", "varnish", "squid"):
            print(line(f"{cache}, as published", None, published(checkout, cache)))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
