"""Step 6 of the tutorial: a page that shows what the cache does."""

import random
import sys
import threading
import time
from functools import partial
from wsgiref.simple_server import WSGIRequestHandler, make_server

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.dashboard import wsgi_app

directory = sys.argv[1] if len(sys.argv) > 1 else "shop-cache"
port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000


class Quiet(WSGIRequestHandler):
    """Logs no request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def ask(item: str) -> float:
    time.sleep(0.05)
    return len(item) * 1.5


def sell(cache: IntelligentCache, closed: threading.Event) -> None:
    while not closed.wait(0.01):
        item = f"item {int(random.paretovariate(1)) % 1000}"
        cache.get_or_set(f"price:{item}", partial(ask, item), ttl=60)


def is_allowed(environment: dict[str, str]) -> bool:
    """Return whether a browser of this machine asks, and under its name: another name is that of a site."""
    name = environment.get("HTTP_HOST", "").partition(":")[0]
    return environment["REMOTE_ADDR"] == "127.0.0.1" and name in ("127.0.0.1", "localhost")


with IntelligentCache(MemoryCache(max_size=200), file_cache=FileCache(directory, max_size_mb=100)) as cache:
    closed = threading.Event()
    seller = threading.Thread(target=sell, args=(cache, closed))
    seller.start()
    # On a real site, `allow` asks who the visitor is.
    page = wsgi_app(cache, allow=is_allowed)
    with make_server("127.0.0.1", port, page, handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever).start()
        print(
            f"open http://127.0.0.1:{server.server_port}/ in a browser; the Enter key ends this", flush=True
        )
        sys.stdin.readline()
        server.shutdown()
    closed.set()
    seller.join()
    print("requests were served:", cache.get_stats()["combined"].requests > 0)
