"""The page in a browser: what it draws, and that nothing of another process becomes markup.

Chromium is that of the system; without it, or without playwright, these tests are skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis_server import wait_until

from cachekit import IntelligentCache, MemoryCache, dashboard
from cachekit.cli.dashboard import Gate
from cachekit.dashboard.asgi import Dashboard
from cachekit.dashboard.board import Board
from cachekit.monitoring.reading import SharedFigures
from cachekit.monitoring.record import OtherSize, Process, Reason, Sizes

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: chromium)"),
    pytest.mark.browser,
]

HOSTILE = "<img src=x onerror=\"document.title='struck'\">"


class Pages:
    """Opens pages, and notes errors and requests of all of them."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.errors: list[str] = []
        self.requested: list[str] = []

    def open(self, address: str, **options: Any) -> Any:
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda asked: self.requested.append(asked.url))
        page.goto(address)
        return page

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def close(self) -> None:
        """Close all pages."""
        while self._contexts:
            self._contexts.pop().close()


@contextmanager
def served(app: Any, pages: Pages) -> Iterator[int]:
    """Serve an application at the port that is yielded. Closing the pages first ends their streams."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        pages.close()
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def pages() -> Iterator[Pages]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield Pages(browser)
        browser.close()


def moving(status: str = "healthy", program: str = "shop.py") -> Callable[[], SharedFigures]:
    """Return figures that move with each read, as of a process that publishes."""
    reads = iter(range(1, 10**6))
    wrong = Reason(status, "file", f"the file tier {HOSTILE}", f"check {HOSTILE}")
    reasons = () if status == "healthy" else (wrong,)
    each_read = {
        "requests/hit": 90.0, "requests/miss": 10.0, "lookups/memory/hit": 80.0, "lookups/memory/miss": 20.0,
        "lookups/file/hit": 10.0, "lookups/file/miss": 10.0, "loads/ok": 10.0, "load.duration/5": 10.0,
        "sets/file": 1.0, "prefetches/begun": 4.0, "prefetches/hit": 3.0,
    }  # fmt: skip
    rates = (OtherSize(500.0, 0.6, 0.01), OtherSize(1000.0, 0.8, 0.0), OtherSize(2000.0, 0.87, 0.02))
    sizes = (Sizes(1000.0, "bytes", 400.0, rates),)
    gauges = {
        "entries/memory": 5.0, "size/memory": 500.0, "size.limit/memory": 1000.0, "entries/file": 7.0,
        "size/file": 700.0, "tier.up/file": float(status == "healthy"),
    }  # fmt: skip

    def read() -> SharedFigures:
        number = next(reads)
        counters = {key: number * count for key, count in each_read.items()}
        process = Process(
            "1" * 32, program, "here", 7, 0.0, time.time(), 1, counters, gauges, status, reasons, sizes
        )
        return SharedFigures(counters, gauges, (process,), 1)

    return read


def test_it_draws_what_comes(pages: Pages) -> None:
    """Figures, charts and tables move; all comes from one host; the address has no token any more."""
    gate = Gate(Dashboard(Board(moving(), "/dir"), lambda _: True), "127.0.0.1", 0)
    with served(gate, pages) as port:
        gate._names.add(f"127.0.0.1:{port}")
        page = pages.open(f"http://127.0.0.1:{port}/?token={gate.token}")
        page.wait_for_selector("svg path.line4", state="attached")  # two moments with a hit rate
        assert page.url == f"http://127.0.0.1:{port}/"
        assert page.inner_text("#state") == "healthy"
        assert page.inner_text("#processes-line") == "1 process, 1 ended"
        assert "90.0%" in page.inner_text("#tiles")
        rows = [row.inner_text() for row in page.query_selector_all("#tiers tbody tr")]
        assert [row.split()[0] for row in rows] == ["memory", "file"]
        assert "500 B of 1,000 B" in rows[0]
        assert page.title() == "90.0% cachekit"
        assert "used, 0 late, 0 wasted" in page.inner_text("#tiles")
        others = [row.inner_text().split("\t") for row in page.query_selector_all("#sizes tbody tr")]
        assert [row[:2] for row in others] == [
            ["500 B", "60.0%"], ["1,000 B (now)", "80.0%"], ["2.0 KiB", "87.0%"],
        ]  # fmt: skip
        assert others[2][3] == "+7.0 points"
        assert len(page.query_selector_all("#charts svg")) == 4
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not pages.errors
    assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in pages.requested)


def test_a_clock_that_is_set_back(pages: Pages) -> None:
    """The page goes on with the time that the host has now."""
    with served(Dashboard(Board(moving(), "/dir"), lambda _: True), pages) as port:
        page = pages.open(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("svg path.line4", state="attached")
        told = page.evaluate(
            "() => { const late = structuredClone(moments[moments.length - 1]); late.time -= 3600;"
            " add([late]); return [moments.length, moments[0].time === late.time]; }"
        )
        assert told == [1, True]
    assert not pages.errors


def test_what_processes_say_is_text(pages: Pages) -> None:
    """A program and reasons with markup are shown as they are, on a narrow screen, too."""
    app = Dashboard(Board(moving("critical", HOSTILE), HOSTILE), lambda _: True)
    with served(app, pages) as port:
        page = pages.open(f"http://127.0.0.1:{port}/", viewport={"width": 390, "height": 844})
        page.wait_for_selector("#processes tbody tr")
        assert HOSTILE in page.inner_text("#processes")
        assert HOSTILE in page.inner_text("#reasons")
        assert page.inner_text("#place") == HOSTILE
        assert page.query_selector_all("img") == []
        assert "struck" not in page.title()
        assert page.inner_text("#state") == "critical"
        assert "out" in page.inner_text("#tiers")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not pages.errors


def test_the_keyboard(pages: Pages) -> None:
    """Space pauses; a chart shows the figures of the moment that arrows point at."""
    with served(Dashboard(Board(moving(), "/dir"), lambda _: True), pages) as port:
        page = pages.open(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("svg path.line4", state="attached")
        page.keyboard.press("Space")
        assert page.get_attribute("#pause", "aria-pressed") == "true"
        before, known = page.inner_text("#tiles"), page.evaluate("moments.length")
        wait_until(lambda: page.evaluate("moments.length") > known, "another moment has come")
        assert page.inner_text("#tiles") == before
        page.focus("#charts svg")
        page.keyboard.press("ArrowLeft")
        assert "ago" in page.inner_text("#charts .legend")
        page.keyboard.press("Escape")
        assert "ago" not in page.inner_text("#charts .legend")
        label = page.get_attribute("#charts svg", "aria-label")
        assert re.search(r"them: memory \d+/s, file [\d.]+/s, missed [\d.]+/s$", label), label
    assert not pages.errors


def test_without_javascript(pages: Pages) -> None:
    with served(Dashboard(Board(moving("critical", HOSTILE), "/dir"), lambda _: True), pages) as port:
        page = pages.open(f"http://127.0.0.1:{port}/", java_script_enabled=False)
        assert HOSTILE in page.inner_text("body")
        said = page.inner_text("body")
        assert "Health: critical" in said
        assert "<table" not in said
        assert page.is_hidden("#live")
        assert page.query_selector_all("img") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(pages: Pages, scheme: str) -> None:
    """Its contrast is 4.5 or more in both colour schemes."""
    with served(Dashboard(Board(moving("warning"), "/dir"), lambda _: True), pages) as port:
        page = pages.open(f"http://127.0.0.1:{port}/", color_scheme=scheme)
        page.wait_for_selector("#processes tbody tr")
        contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert min(contrasts.values()) >= 4.5, json.dumps(contrasts, indent=1)


CONTRASTS = """() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3)
      .map((part) => part / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!colour.endsWith(", 0)") && colour !== "transparent") return colour;
    }
  };
  const found = {};
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || node.closest("noscript") || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const one = light(node.closest("svg") ? style.fill : style.color), other = light(back(node));
    const key = `${node.tagName} ${node.getAttribute("class")} ${node.textContent.slice(0, 30)}`;
    found[key] = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  }
  return found;
}"""


def test_it_polls_where_there_is_no_stream(pages: Pages) -> None:
    """As under WSGI."""
    app = Dashboard(Board(moving(), "/dir"), lambda scope: not scope["path"].endswith("/events"))
    with served(app, pages) as port:
        page = pages.open(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("svg path.line4", state="attached")
        wait_until(lambda: page.evaluate("moments.length") > 1, "it has asked twice")
    assert sum(url.endswith("/figures") for url in pages.requested) >= 2


def test_below_a_path(pages: Pages) -> None:
    """Mounted in another application, all addresses are below that path."""
    applications = pytest.importorskip("starlette.applications", reason="needs starlette")
    routing = pytest.importorskip("starlette.routing")
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        mounted = routing.Mount("/cache", dashboard.app(cache, allow=lambda scope: True))
        with served(applications.Starlette(routes=[mounted]), pages) as port:
            page = pages.open(f"http://127.0.0.1:{port}/cache")
            page.wait_for_selector("#processes tbody tr")
            assert page.inner_text("#place") == "this process"
    assert not pages.errors
    assert all("/cache" in url for url in pages.requested)
