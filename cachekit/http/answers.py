"""The answer to a GET or HEAD from a stored response: all of it, a part, or that the client has it already.

Everything here is a function of its arguments, as in `rfc9111`. Sections without another number are of
RFC 9110: conditional requests and ranges.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cachekit.http.fields import (
    Headers,
    byte_range,
    combined,
    etag_matches,
    http_date,
    is_strong,
    lines,
    text,
)
from cachekit.http.rfc9111 import Head, Request, Stored, date_of

#: Section 15.4.5: a 304 has no content, so nothing describes it.
_NOT_IN_304: Final = frozenset({
    b"content-length", b"content-type", b"content-encoding", b"content-language", b"content-range",
    b"content-md5", b"content-disposition",
})  # fmt: skip


class Answer(NamedTuple):
    """A response that the cache makes from a stored one."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def answer(stored: Stored, request: Request, age: float) -> Answer:
    """Return the response to a GET or HEAD from a stored one (sections 13.2.2 and 14.2; RFC 9111, section 4).

    It is a 304 if the client's condition says so, a 206 or a 416 if a range was asked for, or all of it.
    """
    head, body = stored
    headers = [(name, value) for name, value in head.headers if name != b"age"]
    headers.append((b"age", str(int(min(age, 1 << 31))).encode()))
    if head.status == 200 and _is_not_modified(request.headers, head):
        return Answer(304, [pair for pair in headers if pair[0] not in _NOT_IN_304], b"")
    status = head.status
    wanted = combined(request.headers, b"range") if request.method == "GET" else None
    if wanted is not None and status == 200 and _range_applies(request.headers, head):
        part = byte_range(wanted.decode("latin-1"), len(body))
        if part is False:
            headers = [pair for pair in headers if pair[0] != b"content-length"]
            headers.append((b"content-range", b"bytes */%d" % len(body)))
            headers.append((b"content-length", b"0"))
            return Answer(416, headers, b"")
        if part is not True:
            begin, end = part
            headers = [pair for pair in headers if pair[0] not in {b"content-length", b"content-range"}]
            headers.append((b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, len(body))))
            headers.append((b"content-length", b"%d" % (end - begin)))
            return Answer(206, headers, body[begin:end])
    if status not in {204, 304} and not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", b"%d" % len(body)))
    return Answer(status, headers, b"" if request.method == "HEAD" else body)


def _is_not_modified(headers: Headers, head: Head) -> bool:
    """Return whether the client has the stored response (RFC 9111, section 4.3.2)."""
    condition = combined(headers, b"if-none-match")
    if condition is not None:
        etags = lines(head.headers, b"etag")
        matches = etag_matches(condition.decode("latin-1"), etags[0].decode("latin-1")) if etags else False
        return matches or condition.strip() == b"*"
    since = http_date(text(headers, b"if-modified-since"))
    if since is None:
        return False
    modified = http_date(text(head.headers, b"last-modified"))
    return (date_of(head) if modified is None else modified) <= since


def _range_applies(headers: Headers, head: Head) -> bool:
    """Return whether `If-Range` permits a part (section 13.1.5)."""
    condition = combined(headers, b"if-range")
    if condition is None:
        return True
    given = condition.decode("latin-1").strip(" \t")
    if is_strong(given):
        return given == text(head.headers, b"etag")
    modified = http_date(text(head.headers, b"last-modified"))
    # A date is a strong validator only if the response was made at least a minute after it (8.8.2.2).
    return modified is not None and http_date(given) == modified and date_of(head) - modified >= 60
