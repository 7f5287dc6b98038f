"""A proxy before a DynamoDB that throttles when it is told to, with the answers that DynamoDB gives then."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

_THROTTLED = {
    "__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
    "message": "The level of configured provisioned throughput for the table was exceeded.",
}


_EXPIRED = {
    "__type": "com.amazon.coral.service#ExpiredTokenException",
    "message": "The security token included in the request is expired",
}


class ThrottlingProxy:
    """A proxy on a free port, as a context manager. It keeps connections open, as DynamoDB does.

    Attributes:
        mode: "off"; "refuse" for a refusal of all requests; "halve" for batches of which half is left
            unread; "leave" for batches that are left unread as a whole; "cut" for connections that are
            closed within the head of an answer; "lose" for the next write, which has no answer; "expire" for
            credentials that are not valid any more.
        requests: how many came.
        users: the keys of the credentials that they had.
        on_loss: is called when a write was carried out whose answer is lost.
    """

    def __init__(self, endpoint: str) -> None:
        self.mode: Literal["off", "refuse", "halve", "leave", "cut", "lose", "expire"] = "off"
        self.on_loss: Callable[[], object] = int
        self.requests = 0
        self.users: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy.requests += 1
                proxy.users.append(
                    self.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
                )
                body = self.rfile.read(int(self.headers["Content-Length"]))
                operation = self.headers["X-Amz-Target"].rpartition(".")[2]
                if proxy.mode in ("refuse", "expire"):
                    error = _THROTTLED if proxy.mode == "refuse" else _EXPIRED
                    self._answer(400, json.dumps(error).encode())
                    return
                if proxy.mode == "cut":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    self.close_connection = True
                    return
                left: dict[str, Any] = {}
                if operation == "BatchGetItem" and proxy.mode in ("halve", "leave"):
                    asked = json.loads(body)
                    for table, request in asked["RequestItems"].items():
                        keys = request["Keys"]
                        some = 0 if proxy.mode == "leave" else (len(keys) + 1) // 2
                        if keys[some:]:
                            left[table] = {**request, "Keys": keys[some:]}
                        request["Keys"] = keys[:some]
                    if proxy.mode == "leave":
                        self._answer(200, json.dumps({"Responses": {}, "UnprocessedKeys": left}).encode())
                        return
                    body = json.dumps(asked).encode()
                headers = {name: value for name, value in self.headers.items() if name != "Content-Length"}
                forwarded = urllib.request.Request(endpoint, body, headers)
                try:
                    with urllib.request.urlopen(forwarded, timeout=60) as answer:
                        status, data = answer.status, answer.read()
                except urllib.error.HTTPError as error:
                    with error:
                        status, data = error.code, error.read()
                if proxy.mode == "lose" and operation == "PutItem":
                    proxy.mode = "off"
                    proxy.on_loss()
                    self.close_connection = True
                    return
                if left:
                    data = json.dumps({**json.loads(data), "UnprocessedKeys": left}).encode()
                self._answer(status, data)

            def _answer(self, status: int, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
