"""Makes the pictures of docs/dashboard.md. Run it as `.venv/bin/python docs/pictures.py`.

It needs the extras `dashboard` and `cli`, playwright, and the chromium of the system.
"""

from __future__ import annotations

import math
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.dashboard.asgi import Dashboard
from cachekit.dashboard.board import WATCHED, board_of_reader
from cachekit.monitoring.reading import HostReader

HERE = Path(__file__).parent
SECONDS = 60  # of history in the pictures
PROCESSES = 3


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


def pictures(directory: str) -> None:
    """Serve the dashboard of a directory, and take its pictures."""
    from playwright.sync_api import sync_playwright

    app = Dashboard(board_of_reader(HostReader(directory, seconds=WATCHED)), lambda _: True)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    serving = threading.Thread(target=server.run, args=([listening],))
    serving.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    with sync_playwright() as driver:
        chromium = shutil.which("chromium")
        browser: Any = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        pages = {
            f"dashboard-{scheme}-{width}.png": browser.new_context(
                viewport={"width": width, "height": 844}, color_scheme=scheme
            ).new_page()
            for scheme, width in (("light", 1440), ("dark", 390))
        }
        for page in pages.values():
            page.goto(address)
        time.sleep(SECONDS)
        for name, page in pages.items():
            page.screenshot(path=str(HERE / name), full_page=True)
        browser.close()
    app.stop()
    server.should_exit = True
    serving.join()


def main() -> None:
    """Start processes that use a cache, and take pictures of them."""
    with tempfile.TemporaryDirectory() as directory:
        FileCache(directory, 20).close()
        users = [
            subprocess.Popen([sys.executable, __file__, directory, str(seed)]) for seed in range(PROCESSES)
        ]
        try:
            pictures(directory)
        finally:
            for one in users:
                one.kill()
                one.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        use(sys.argv[1], int(sys.argv[2]))
    else:
        main()
