"""Makes pictures in chromium. Run it as `.venv/bin/python docs/pictures.py docs`.

It makes those of docs/dashboard.md and docs/eviction.md; `--site SITE` makes those of the first pages of a
built site instead. It needs the extras `browser`, `dashboard` and `plot`, and the chromium of the system.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cachekit import FileCache, IntelligentCache, MemoryCache

PROCESSES = 3
#: README, and the first pages of the tutorial, at the widths of a laptop and of a telephone.
PAGES = {
    "readme": "",
    "tutorial-1": "tutorial/1-cached-function/",
    "tutorial-2": "tutorial/2-own-cache/",
    "tutorial-3": "tutorial/3-files/",
}
WIDTHS = (1280, 390)


def use(directory: str, seed: int) -> None:
    """Use a cache until this process is ended."""
    chance = random.Random(seed)

    def load() -> str:
        time.sleep(chance.expovariate(300))
        return "x" * chance.randint(100, 3000)

    with IntelligentCache(MemoryCache(300, max_bytes=1 << 20), file_cache=FileCache(directory, 20)) as cache:
        while True:
            for _ in range(40):
                cache.get_or_set(str(int(chance.paretovariate(0.6)) % 5000), load, ttl=30)
            time.sleep(0.02 + 0.015 * (1 + math.sin(time.time() / 7)))


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


def picture(page: Any, file: Path) -> None:
    """Take a picture of a whole page, which must not be wider than the screen."""
    if not page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
        raise SystemExit(f"{page.url} is wider than the screen of {file.name}")
    page.screenshot(path=str(file), full_page=True, animations="disabled")


def dashboard(folder: Path, seconds: float) -> None:
    """Start processes that use a cache, and take pictures of its dashboard after some time."""
    with tempfile.TemporaryDirectory() as directory:
        FileCache(directory, 20).close()
        users = [
            subprocess.Popen([sys.executable, __file__, "--use", str(seed), directory])
            for seed in range(PROCESSES)
        ]
        try:
            serve_dashboard(directory, folder, seconds)
        finally:
            for one in users:
                one.kill()
                one.wait()


def serve_dashboard(directory: str, folder: Path, seconds: float) -> None:
    """Take pictures of the dashboard of a directory."""
    import uvicorn

    from cachekit.dashboard.asgi import Dashboard
    from cachekit.dashboard.board import WATCHED, board_of_reader
    from cachekit.monitoring.reading import HostReader

    app = Dashboard(board_of_reader(HostReader(directory, seconds=WATCHED)), lambda _: True)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    serving = threading.Thread(target=server.run, args=([listening],))
    serving.start()
    try:
        with chromium() as browser:
            pages = {
                f"dashboard-{scheme}-{width}.png": browser.new_context(
                    viewport={"width": width, "height": 844}, color_scheme=scheme
                ).new_page()
                for scheme, width in (("light", 1440), ("dark", 390))
            }
            for page in pages.values():
                page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/")
                page.wait_for_selector("#processes tbody tr")
            time.sleep(seconds)  # of history
            for name, page in pages.items():
                picture(page, folder / name)
    finally:
        app.stop()
        server.should_exit = True
        serving.join()


def replay(folder: Path) -> None:
    """Make the chart of a replay: of skewed requests, and a scan over other keys now and then."""
    chance, lines = random.Random(1), []
    for scan in range(10):
        lines += [str(int(chance.paretovariate(0.7)) % 20_000) for _ in range(3_000)]
        lines += [f"scan-{scan}-{number}" for number in range(600)]
    with tempfile.TemporaryDirectory() as directory:
        log, chart = Path(directory, "requests.log"), Path(directory, "replay.svg")
        log.write_text("\n".join(lines), encoding="ascii")
        command = [sys.executable, "-m", "cachekit", "replay", str(log), "--plot", str(chart)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 800, "height": 500})
            page.set_content(f"<body style='margin:0'>{chart.read_text(encoding='utf-8')}")
            page.add_style_tag(content="svg {width: 100vw; height: auto; display: block}")
            picture(page, folder / "replay.png")


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def site(folder: Path, built: Path) -> None:
    """Take pictures of the first pages of a site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built))) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with chromium() as browser:
                for width in WIDTHS:
                    page = browser.new_context(viewport={"width": width, "height": 844}).new_page()
                    for name, place in PAGES.items():
                        page.goto(f"http://127.0.0.1:{server.server_port}/{place}")
                        picture(page, folder / f"{name}-{width}.png")
        finally:
            server.shutdown()


def main() -> None:
    """Make pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60, help="of history of the dashboard")
    parser.add_argument("--site", type=Path, help="a built site")
    parser.add_argument("--use", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.use is not None:
        use(str(given.folder), given.use)
    elif given.site:
        site(given.folder, given.site)
    else:
        dashboard(given.folder, given.seconds)
        replay(given.folder)


if __name__ == "__main__":
    main()
