"""The dashboard: what it shows, to whom, and what it never does."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from asgi_client import Response, request
from redis_server import wait_until
from workers import Worker

from cachekit import FileCache, IntelligentCache, MemoryCache, TierUnavailableError, aio, dashboard
from cachekit.cli import main
from cachekit.cli.dashboard import Gate
from cachekit.dashboard.asgi import Dashboard
from cachekit.dashboard.board import Board
from cachekit.monitoring.reading import SharedFigures
from cachekit.monitoring.record import OtherSize, Process, Reason, Sizes

HOSTILE = "<img onerror=alert(1)>"


def everyone(_: object) -> bool:
    return True


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path / "cache", 1)) as cache:
        yield cache


def figures(*processes: Process) -> SharedFigures:
    return SharedFigures({}, {}, processes, 0)


def process(**more: Any) -> Process:
    fields: dict[str, Any] = {
        "id": "0" * 32, "program": "shop.py", "host": "here", "pid": 7, "started": 0.0,
        "written": 0.0, "caches": 1,
        "counters": {}, "gauges": {}, "status": "healthy", "reasons": (),
    }  # fmt: skip
    return Process(**fields | more)


def board(*processes: Process, place: str = "/dir") -> Board:
    return Board(lambda: figures(*processes), place)


# -- what it shows ----------------------------------------------------------------------------------


def test_the_page_and_its_files(cache: IntelligentCache) -> None:
    """All addresses are relative, and nothing is on another host."""
    app = dashboard.app(cache, allow=everyone)
    page = request(app, "/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert f'<span id="place">{cache.file_cache.path}</span>' in page.text  # type: ignore[union-attr]  # it has one
    for name, kind in (("page.js", "javascript"), ("page.css", "css"), ("icon.svg", "svg")):
        assert f'"{name}"' in page.text
        file = request(app, f"/{name}")
        assert file.status == 200
        assert kind in file.headers["content-type"]
        assert "://" not in file.text.replace("http://www.w3.org/2000/svg", "")
    assert "://" not in page.text
    assert request(app, "/other").status == 404
    assert request(app, "/../board.py").status == 404


def test_figures(cache: IntelligentCache) -> None:
    """Those of `get_stats`, of all processes that share the directory."""
    for number in range(5):
        cache.get_or_set(f"k{number % 3}", lambda: 1)
    app = dashboard.app(aio.IntelligentCache.of(cache), allow=everyone)
    (moment,) = json.loads(request(app, "/figures").text)
    assert moment["totals"] == {"requests": 5, "hit_rate": 0.4, "loads": 3, "load_errors": 0}
    memory, file = moment["tiers"]
    assert (memory["tier"], memory["entries"], memory["entries_limit"]) == ("memory", 3, 1000)
    assert (file["tier"], file["up"], file["size_limit"]) == ("file", True, 2**20)
    assert moment["processes"][0]["pid"] == os.getpid()


def test_three_processes_and_a_killed_one(tmp_path: Path) -> None:
    workers = [Worker(tmp_path, f"w{number}") for number in range(3)]
    with FileCache(tmp_path, 10) as file, IntelligentCache(None, file_cache=file) as own:
        app = dashboard.app(own, allow=everyone)

        def seen() -> set[int]:
            (moment,) = json.loads(request(app, "/figures").text)
            return {one["pid"] for one in moment["processes"]}

        everything = {os.getpid(), *[one.pid for one in workers]}
        wait_until(lambda: seen() == everything, "all have published")
        workers[0].kill()
        wait_until(lambda: seen() == everything - {workers[0].pid}, "one is gone")
    for worker in workers[1:]:
        worker.end()


def test_a_cache_without_files() -> None:
    """Only this process is shown, and not other programs of the user."""
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        cache.set("k", 1)
        app = dashboard.app(cache, allow=everyone)
        (moment,) = json.loads(request(app, "/figures").text)
        assert [one["pid"] for one in moment["processes"]] == [os.getpid()]
        assert moment["tiers"][0]["entries"] == 1


def test_the_stream(cache: IntelligentCache) -> None:
    """The first piece has the past, each later one a new moment; it ends when the client leaves."""
    app = dashboard.app(cache, allow=everyone)
    request(app, "/figures")
    stream = request(app, "/events", stop_after=3)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["x-accel-buffering"] == "no"
    pieces = [json.loads(piece.removeprefix("data: ")) for piece in stream.text.strip().split("\n\n")]
    assert [len(piece) for piece in pieces][1:] == [1, 1]
    times = [moment["time"] for piece in pieces for moment in piece]
    assert times == sorted(set(times))


def test_without_javascript() -> None:
    """The server makes tables, and whatever other processes say is escaped."""
    reason = Reason("critical", "file", f"out {HOSTILE}", f"look {HOSTILE}")
    shown = board(
        process(program=HOSTILE, status="critical", reasons=(reason,)), place=f"{HOSTILE}{{{{tables}}}}"
    )
    page = request(Dashboard(shown, everyone), "/").text
    escaped = "&lt;img onerror=alert(1)&gt;"
    assert HOSTILE not in page
    assert f"<td>{escaped}</td>" in page
    assert f"out {escaped}: look {escaped}" in page
    assert f'<span id="place">{escaped}{{{{tables}}}}</span>' in page
    assert page.count("<noscript>") == page.count("</noscript>") == 2
    assert "<caption>Health: critical</caption>" in page


def test_names_that_are_no_unicode() -> None:
    """A file may have any bytes as its name, such as those of Latin-1. They are shown with escapes."""
    name = os.fsdecode(b"caf\xe9")
    app = Dashboard(board(process(program=name), place=f"/{name}"), everyone)
    page = request(app, "/")
    assert page.status == 200
    assert page.text.count("caf\\udce9") == 2
    assert request(app, "/figures").status == 200

    def unreadable() -> SharedFigures:
        raise TierUnavailableError(f"the figures in {name} cannot be read")

    refused = request(Dashboard(Board(unreadable, name), everyone), "/")
    assert (refused.status, "caf\\udce9" in refused.text) == (503, True)


def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments of a time that is still to come are forgotten."""
    clock = SimpleNamespace(time=lambda: 5000.0)
    monkeypatch.setattr("cachekit.dashboard.board.time", clock)
    shown = board(process())
    shown.moment()
    clock.time = lambda: 1400.0
    assert [moment["time"] for moment in shown.history()] == [1400.0]


def test_nothing_yet() -> None:
    page = request(Dashboard(board(), everyone), "/")
    assert page.status == 200
    (moment,) = json.loads(request(Dashboard(board(), everyone), "/figures").text)
    assert (moment["status"], moment["hit_rate"], moment["tiers"]) == ("healthy", None, [])


def test_figures_that_cannot_be_read() -> None:
    def failing() -> SharedFigures:
        raise TierUnavailableError("the disk is out")

    app = Dashboard(Board(failing, "/dir"), everyone)
    for path in ("/", "/figures"):
        assert (request(app, path).status, "the disk is out" in request(app, path).text) == (503, True)
    assert request(app, "/events", stop_after=1).text == ": no figures\n\n"


def test_the_same_reason_of_several_processes_is_one() -> None:
    reason = Reason("warning", "memory", "3 of 9", "make it larger")
    shown = board(*[process(id=f"{number:032}", reasons=(reason,)) for number in range(3)])
    (only,) = shown.moment()["reasons"]
    assert (only["message"], only["count"]) == ("3 of 9", 3)


SIZES = Sizes(
    100, "entries", 300, (OtherSize(50, 0.4, 0.01), OtherSize(100, 0.6, 0.0), OtherSize(200, 0.9, 0.02))
)


def test_other_sizes_of_processes_with_one_size_are_one() -> None:
    """Each counts as its requests do. Another size is another row; one without an estimate counts nothing."""
    fewer = SIZES._replace(requests=100, rates=tuple(one._replace(rate=one.rate / 2) for one in SIZES.rates))
    large = Sizes(1e6, "bytes", 50, (OtherSize(1e6, 0.5, 0.0),))
    moment = board(
        process(id="1" * 32, sizes=(SIZES, large)), process(id="2" * 32, sizes=(fewer,)), process(id="3" * 32)
    ).moment()
    first, second = moment["sizes"]
    assert (first["size"], first["unit"], first["requests"]) == (100, "entries", 400)
    assert [(one["size"], round(one["rate"], 6)) for one in first["rates"]] == [
        (50, 0.35), (100, 0.525), (200, 0.7875),
    ]  # fmt: skip
    assert (second["size"], second["unit"], len(second["rates"])) == (1e6, "bytes", 1)


@pytest.mark.parametrize("where", [0, 1, 3])
def test_a_size_that_only_some_processes_estimate_is_left_out(where: int) -> None:
    """Its rate would be that of a part of the requests. The processes may be in any order."""
    more = [*SIZES.rates]
    more.insert(where, OtherSize((25, 75, 0, 400)[where], 0.3, 0.0))
    other = SIZES._replace(requests=100, rates=tuple(more))
    for order in set(itertools.permutations((SIZES, other, other))):
        (only,) = board(*[process(id=f"{n:032}", sizes=(one,)) for n, one in enumerate(order)]).moment()[
            "sizes"
        ]
        assert [(one["size"], round(one["rate"], 6)) for one in only["rates"]] == [
            (50, 0.4), (100, 0.6), (200, 0.9),
        ]  # fmt: skip
        assert only["requests"] == 500
        assert [round(one["plus_minus"], 6) for one in only["rates"]] == [0.01, 0.0, 0.02]


def test_what_prefetching_saves() -> None:
    """It is shown as soon as there is something to show."""
    assert board(process()).moment()["prefetches"] is None
    counters = {"prefetches/begun": 9.0, "prefetches/hit": 6.0, "prefetches/wasted": 2.0}
    shown = Board(lambda: SharedFigures(counters, {}, (process(counters=counters),), 0), "/dir").moment()
    assert shown["prefetches"] == {"begun": 9, "hit": 6, "late": 0, "wasted": 2}


def test_other_sizes_without_javascript() -> None:
    text = request(Dashboard(board(process(sizes=(SIZES,))), everyone), "/").text
    assert "Memory of 100 entries, at other sizes" in text
    assert "<td>200</td><td>90.0%</td><td>2.0%</td>" in text


# -- who may see it ---------------------------------------------------------------------------------


def test_it_refuses_without_allow(cache: IntelligentCache) -> None:
    for path in ("/", "/figures", "/events", "/page.js"):
        refused = request(dashboard.app(cache), path)
        assert (refused.status, "allow=" in refused.text) == (403, True)


async def _true(_: object) -> bool:
    return True


async def _false(_: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("allow", "status"),
    [(everyone, 200), (lambda scope: False, 403), (_true, 200), (_false, 403), (lambda scope: None, 403),
     (lambda scope: scope["path"] == "/", 200)],
)  # fmt: skip
def test_allow(cache: IntelligentCache, allow: Callable[[Any], Any], status: int) -> None:
    """A function, or one that is awaited, of the scope; only True is a yes."""
    assert request(dashboard.app(cache, allow=allow), "/").status == status


def test_wrong_arguments(cache: IntelligentCache) -> None:
    with pytest.raises(TypeError, match="allow must be a function"):
        dashboard.app(cache, allow=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cache must be"):
        dashboard.app({}, allow=everyone)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="allow must be a function"):
        dashboard.wsgi_app(cache, allow=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/cache/", "/"])
def test_mounted(cache: IntelligentCache, path: str) -> None:
    """Below a root path, which servers leave in the path or not."""
    app = dashboard.app(cache, allow=everyone)
    assert request(app, path, root_path="/cache").status == 200
    assert request(app, f"{path}page.js", root_path="/cache").status == 200
    assert request(app, "/cache", root_path="/cache").status == 404


def test_mounted_in_starlette(cache: IntelligentCache) -> None:
    applications = pytest.importorskip("starlette.applications", reason="needs starlette")
    routing = pytest.importorskip("starlette.routing")
    app = applications.Starlette(routes=[routing.Mount("/cache", dashboard.app(cache, allow=everyone))])
    assert request(app, "/cache/", host="shop").status == 200
    assert request(app, "/cache/figures", host="shop").status == 200
    assert request(app, "/cache", host="shop").headers["location"].endswith("/cache/")


def wsgi(app: Any, path: str, method: str = "GET") -> Response:
    environment: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method}
    setup_testing_defaults(environment)
    started: list[Any] = []
    body = b"".join(app(environment, lambda *arguments: started.extend(arguments)))
    return Response(int(started[0].split()[0]), dict(started[1]), body)


def test_wsgi(cache: IntelligentCache) -> None:
    """The page asks again and again, because there is no stream."""
    app = dashboard.wsgi_app(cache, allow=everyone)
    assert wsgi(app, "/").status == 200
    assert len(json.loads(wsgi(app, "/figures").body)) == 1
    assert wsgi(app, "/events").status == 404
    assert wsgi(app, "/", "POST").status == 405
    assert wsgi(dashboard.wsgi_app(cache), "/").status == 403
    assert wsgi(dashboard.wsgi_app(cache, allow=lambda environment: False), "/").status == 403


@pytest.fixture
def gate() -> Gate:
    return Gate(Dashboard(board(process()), everyone), "127.0.0.1", 8055)


def ask(gate: Gate, path: str = "/", **more: Any) -> Response:
    headers = {"host": "127.0.0.1:8055"} | more.pop("headers", {})
    return request(gate, path, **more, **headers)


def test_a_token_becomes_a_cookie(gate: Gate) -> None:
    """401 without; 303 with the token, to an address without it; then the cookie is enough."""
    assert len(gate.token) >= 22  # 128 bits
    assert ask(gate).status == 401
    assert ask(gate, query="token=wrong").status == 401
    assert ask(gate, query="token=").status == 401
    assert ask(gate, headers={"cookie": "cachekit-8055=wrong; cachekit-1=" + gate.token}).status == 401
    exchanged = ask(gate, query=f"token={gate.token}")
    assert (exchanged.status, exchanged.headers["location"]) == (303, "./")
    cookie, *attributes = exchanged.headers["set-cookie"].split("; ")
    assert set(attributes) == {"HttpOnly", "SameSite=Strict", "Path=/"}
    for path in ("/", "/page.js", "/figures"):
        assert ask(gate, path, headers={"cookie": f"other=1; {cookie}"}).status == 200
        assert ask(gate, path).status == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8055", "127.0.0.1", "127.0.0.1:80", ""])
def test_another_name_is_refused(gate: Gate, host: str) -> None:
    """A site whose name leads here sees nothing (DNS rebinding), although the browser has the cookie."""
    cookie = f"cachekit-8055={gate.token}"
    assert ask(gate, headers={"host": host, "cookie": cookie}).status == 403
    assert ask(gate, headers={"host": host}, query=f"token={gate.token}").status == 403
    for name in ("localhost:8055", "127.0.0.1:8055", "[::1]:8055"):
        assert ask(gate, headers={"host": name, "cookie": cookie}).status == 200


def test_the_port_that_browsers_leave_out() -> None:
    gate = Gate(Dashboard(board(process()), everyone), "127.0.0.1", 80)
    for name in ("127.0.0.1", "localhost", "localhost:80"):
        assert ask(gate, headers={"host": name}, query=f"token={gate.token}").status == 303
    for name in ("evil.example", "127.0.0.1:8055", "192.0.2.1"):
        assert ask(gate, headers={"host": name}, query=f"token={gate.token}").status == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_every_address_of_this_host(host: str) -> None:
    """Served at all addresses, it answers to each of them, and to no other name."""
    gate = Gate(Dashboard(board(process()), everyone), host, 8055)
    for name in ("192.0.2.1:8055", "[2001:db8::1]:8055", "localhost:8055"):
        assert ask(gate, headers={"host": name}, query=f"token={gate.token}").status == 303
    for name in ("evil.example:8055", "192.0.2.1", "192.0.2.1:80", "1.evil.example:8055", ":8055x"):
        assert ask(gate, headers={"host": name}, query=f"token={gate.token}").status == 403


@pytest.mark.parametrize("other", ['json={"a": [1, 2]}', "name=Jos\xe9", "a@b=c", "path=/; expires", "", "="])
def test_cookies_of_other_programs(gate: Gate, other: str) -> None:
    """Browsers send cookies to all ports of a host, also those that Python's parser gives up at."""
    own = f"cachekit-8055={gate.token}"
    for cookie in (f"{other}; {own}", f"{own}; {other}", f"{other};{own}"):
        assert ask(gate, headers={"cookie": cookie}).status == 200
    assert ask(gate, headers={"cookie": f"{other}; cachekit-8055=wrong"}).status == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_it_is_read_only(gate: Gate, cache: IntelligentCache, method: str) -> None:
    answer = ask(gate, method=method, headers={"cookie": f"cachekit-8055={gate.token}"})
    assert (answer.status, answer.headers["allow"]) == (405, "GET")
    assert request(dashboard.app(cache, allow=everyone), "/events", method=method).status == 405


def test_headers_of_every_answer(gate: Gate, cache: IntelligentCache) -> None:
    """Nothing is taken from another host, nothing is framed, nothing is kept by a browser."""
    app = dashboard.app(cache, allow=everyone)
    answers = [
        ask(gate), ask(gate, query=f"token={gate.token}"), ask(gate, method="POST"),
        ask(gate, headers={"host": "evil"}), request(dashboard.app(cache), "/"),
        *[request(app, path) for path in ("/", "/figures", "/page.js", "/x")],
        request(app, "/events", stop_after=1),
    ]  # fmt: skip
    for answer in answers:
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_no_key_and_no_value_is_shown(cache: IntelligentCache) -> None:
    cache.get_or_set("secret-key", lambda: "secret-value", tags={"secret-tag"})
    cache.get("secret-key")
    app = dashboard.app(cache, allow=everyone)
    for path in ("/", "/figures"):
        assert "secret" not in request(app, path).text


def test_nothing_is_written_for_a_page_that_was_closed(cache: IntelligentCache) -> None:
    """Processes publish for ten seconds after the last request, and not before the first one."""
    app = dashboard.app(cache, allow=everyone)
    assert request(dashboard.app(cache), "/").status == 403
    assert not Path(cache.file_cache.path, "figures").exists()  # type: ignore[union-attr]  # it has one
    moment = json.loads(request(app, "/figures").text)[0]["time"]
    watched = Path(cache.file_cache.path, "figures", "watched")  # type: ignore[union-attr]  # it has one
    assert watched.stat().st_mtime <= moment + 10.0


# -- the command ------------------------------------------------------------------------------------


def opened(address: str, **headers: str) -> Any:
    asked = urllib.request.Request(address, headers=headers)
    return urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(asked, timeout=60)


def test_the_command(tmp_path: Path) -> None:
    """It prints an address with a token, which is all that is needed, and ends with Ctrl-C."""
    pytest.importorskip("uvicorn", reason="needs uvicorn")
    worker = Worker(tmp_path, "w")
    command = [sys.executable, "-m", "cachekit", "dashboard", str(tmp_path), "--port", "0"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert served.stdout is not None
    address = served.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{22}", address)
    with opened(address) as page:
        assert "token" not in page.url
        assert b"cachekit" in page.read()
    with pytest.raises(urllib.error.HTTPError, match="401") as without_token:
        opened(address.partition("?")[0])
    without_token.value.close()  # it is the response, too
    with pytest.raises(urllib.error.HTTPError, match="403") as from_elsewhere:
        opened(address, Host="evil.example")
    from_elsewhere.value.close()
    served.send_signal(signal.SIGINT)
    served.communicate(timeout=60)
    worker.end()


@pytest.mark.parametrize(
    ("host", "client", "allowed"),
    [
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("evil.example:8000", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("127.0.0.1:8000", "203.0.113.1", False),
    ],
)
def test_the_check_of_the_documentation(host: str, client: str, allowed: bool) -> None:
    """A site whose name leads here (DNS rebinding) and other hosts see nothing."""
    root = Path(__file__).parents[2]
    pages = root / "docs" / "dashboard.md", root / "docs" / "tutorial" / "6-dashboard.md"
    for page in pages:
        _, head, rest = page.read_text(encoding="utf-8").partition("def is_allowed(")
        names: dict[str, Any] = {}
        exec(head + rest.partition("\n\n")[0], names)
        assert names["is_allowed"]({"HTTP_HOST": host, "REMOTE_ADDR": client}) is allowed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{tmp}/missing"], "is not a directory"),
        (["{tmp}"], "is not a cache directory"),
        (["--host", "0.0.0.0"], "--insecure-bind"),  # it is refused
        (["--host", "example.com"], "--insecure-bind"),
        (["{cache}", "--host", "203.0.113.1", "--insecure-bind"], "cannot be used"),
    ],
)
def test_what_is_not_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    pytest.importorskip("uvicorn", reason="needs uvicorn")
    with FileCache(tmp_path / "cache", 1):
        pass
    filled = [one.format(tmp=tmp_path, cache=tmp_path / "cache") for one in arguments]
    assert main(["dashboard", *filled]) == (2 if complaint == "--insecure-bind" else 1)
    assert complaint in capsys.readouterr().err


def test_without_the_extra() -> None:
    program = "import sys; sys.modules['uvicorn'] = None; from cachekit.cli import main; sys.exit(main())"
    ran = subprocess.run(
        [sys.executable, "-c", program, "dashboard"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "pip install 'cachekit-tiered[dashboard]'" in ran.stderr) == (1, True)


def test_every_file_is_in_the_wheel() -> None:
    """Each file of the package that is no module matches a pattern of setup.cfg."""
    root = Path(__file__).parents[2]
    configuration = ConfigParser()
    configuration.read(root / "setup.cfg")
    patterns = configuration["options.package_data"]["cachekit"].split()
    package = root / "cachekit"
    others = [
        file.relative_to(package)
        for file in package.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    ]
    assert len(others) > 5
    assert [file for file in others if not any(file.match(pattern) for pattern in patterns)] == []
