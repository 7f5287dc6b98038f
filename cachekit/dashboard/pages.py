"""The answers of the dashboard to requests, whichever server asks."""

from __future__ import annotations

import json
from functools import cache
from html import escape
from importlib.resources import files
from typing import Final, NamedTuple

from cachekit.dashboard.board import Board, tables
from cachekit.errors import CacheError

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: The headers of every answer.
HEADERS: Final = (
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
_FILES: Final = {
    "/page.js": "text/javascript; charset=utf-8",
    "/page.css": "text/css; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}

#: The path of the stream of moments, which only some servers have.
EVENTS: Final = "/events"


class Answer(NamedTuple):
    """An answer to a request."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def answer(board: Board, method: str, path: str) -> Answer:
    """Return the answer to a request that is allowed.

    Args:
        board: what is shown.
        method: of HTTP.
        path: after the place where the dashboard is mounted.
    """
    if method != "GET":
        return plain(405, "The dashboard is read-only.", ("allow", "GET"))
    if path in _FILES:
        return _found(_file(path), _FILES[path])
    if path == "":
        # Relative addresses of the page need a slash at the end; the browser knows the last name.
        return plain(404, "Write a slash at the end of the address.")
    try:
        if path == "/":
            page = _file("/page.html").decode()
            # Split before anything is put in, so that a name cannot stand for a part of the page.
            start, _, rest = page.partition("{{place}}")
            middle, _, end = rest.partition("{{tables}}")
            page = "".join([start, escape(board.place), middle, tables(board.moment()), end])
            return _found(_encoded(page), "text/html; charset=utf-8")
        if path == "/figures":
            return _found(json.dumps(board.history()[-1:]).encode(), "application/json")
    except CacheError as error:
        return plain(503, f"There are no figures: {error}")
    return plain(404, "There is nothing here.")


def plain(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    """Return an answer of one line of text."""
    kind = ("content-type", "text/plain; charset=utf-8")
    return Answer(status, (kind, *headers, *HEADERS), _encoded(f"{text}\n"))


def refused() -> Answer:
    """Return the answer of a dashboard that was mounted without `allow`."""
    return plain(
        403, "This dashboard answers no request: give it allow=, a function that says who may see it."
    )


def not_allowed() -> Answer:
    """Return the answer to a request that `allow` refuses."""
    return plain(403, "This request is not allowed to see the dashboard.")


def _encoded(text: str) -> bytes:
    # The name of a file, and so of a program or a directory, may hold bytes that are no UTF-8.
    return text.encode(errors="backslashreplace")


def _found(body: bytes, kind: str) -> Answer:
    return Answer(200, (("content-type", kind), *HEADERS), body)


@cache
def _file(path: str) -> bytes:
    return files("cachekit.dashboard").joinpath(path[1:]).read_bytes()
