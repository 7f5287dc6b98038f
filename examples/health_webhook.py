"""Tell a webhook when the health of a cache changes. Here the webhook is a server of this program itself."""

from __future__ import annotations

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

from cachekit import IntelligentCache, MemoryCache
from cachekit.health import Health

received = threading.Event()


class Webhook(BaseHTTPRequestHandler):
    """Prints what it is told."""

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204)
        self.end_headers()
        print(f"{told['before']} -> {told['status']}: {told['reasons'][0]['message']}")
        received.set()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that it has above
        pass


server = HTTPServer(("127.0.0.1", 0), Webhook)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}/alerts"


def tell(new: Health, old: Health) -> None:
    """Post the change; the cache calls this in a background thread, so it may take a moment."""
    body = json.dumps(new.to_dict() | {"before": old.status}).encode()
    request = urllib.request.Request(address, body, {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=5).close()


with IntelligentCache(MemoryCache(), file_cache=None, on_health_change=tell) as cache:
    for number in range(200):  # every lookup is a miss
        cache.get(f"user:{number}")
    received.wait(60)  # health is judged every ten seconds

server.shutdown()
server.server_close()
