"""A crawler that fetches each page once, validates it when it is stale, and keeps it for its next run."""

import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from cachekit import FileCache, IntelligentCache
from cachekit.http import CachedTransport

LINKS = {"/": ["/a", "/b"], "/a": ["/b", "/c"], "/b": ["/", "/c"], "/c": ["/"]}
sent: list[int] = []


class Site(BaseHTTPRequestHandler):
    """A small web site. Its pages are stale at once, and have an entity tag."""

    def do_GET(self) -> None:
        is_known = self.headers.get("If-None-Match") == '"1"'
        sent.append(304 if is_known else 200)
        self.send_response(sent[-1])
        self.send_header("Cache-Control", "max-age=60" if self.path == "/" else "no-cache")
        self.send_header("ETag", '"1"')
        body = b"" if is_known else "\n".join(LINKS[self.path]).encode()
        if not is_known:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def crawl(start: str, directory: Path) -> int:
    """Follow all links; return how many pages were read."""
    read, ahead, seen = 0, ["/"], {"/"}
    with (
        IntelligentCache(file_cache=FileCache(directory)) as cache,
        httpx.Client(base_url=start, transport=CachedTransport(cache)) as client,
    ):
        while ahead:
            page = client.get(ahead.pop())
            read += 1
            for link in page.text.split():
                if link not in seen:
                    seen.add(link)
                    ahead.append(link)
    return read


def main() -> None:
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    with tempfile.TemporaryDirectory() as directory:
        read = [crawl(f"http://127.0.0.1:{site.server_port}", Path(directory, "pages")) for _ in range(3)]
    site.shutdown()
    site.server_close()
    thread.join()
    print(f"{sum(read)} pages read, {sent.count(200)} sent, {sent.count(304)} validated")


if __name__ == "__main__":
    main()
