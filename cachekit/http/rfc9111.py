"""The decisions of an HTTP cache, by RFC 9111; sections without a number of their own are of that document.

Everything here is a function of its arguments: no I/O, no clock, nothing of cachekit. `now` and the times of
a stored response are seconds since 1970. Header names are lower-case bytes.

RFC 9110 has methods, statuses and validators, RFC 5861 `stale-while-revalidate` and `stale-if-error`,
RFC 9213 fields for one kind of cache (`CDN-Cache-Control`), and RFC 9211 `Cache-Status`. `answers` makes the
response from a stored one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from cachekit.http.fields import (
    HOP_BY_HOP,
    Directives,
    Headers,
    combined,
    delta_seconds,
    directives,
    http_date,
    hyphenated,
    is_sound,
    is_strong,
    lines,
    members,
    opaque,
    size_of,
    structured_directives,
    text,
    tokens,
)


class Policy(NamedTuple):
    """What kind of cache decides.

    Attributes:
        shared: whether it serves more than one user (section 3).
        strict: whether cookies need more than the standard asks; see `refusal`.
        default_ttl: the freshness of a 200 that names none and concerns no user; None for none.
        max_size: the bytes of head and body of a response that is stored, at most.
        obeys_requests: whether the `Cache-Control` of a request counts (section 5.2.1).
        targeted: the field that counts instead of `Cache-Control` (RFC 9213); None for none.
    """

    shared: bool = True
    strict: bool = True
    default_ttl: float | None = None
    max_size: int = 1 << 20
    obeys_requests: bool = True
    targeted: bytes | None = b"cdn-cache-control"


class Request(NamedTuple):
    """The head of a request.

    Attributes:
        user: who asks, by a server or middleware that has checked it; empty for no user. It counts as
            `Authorization`, and no field can have its value.
    """

    method: str
    url: str
    headers: Headers
    user: str = ""

    @property
    def is_of_an_unnamed_user(self) -> bool:
        """Whether its user does not tell itself from others. Nothing that varies by users is stored then."""
        return self.user == UNNAMED

    @property
    def has_credentials(self) -> bool:
        """Whether the request says who asks, other than by a cookie."""
        return bool(self.user) or any(name == b"authorization" for name, _ in self.headers)

    @property
    def may_be_of_a_user(self) -> bool:
        """Whether the request has credentials or a cookie."""
        return self.has_credentials or any(name == b"cookie" for name, _ in self.headers)

    def for_all(self) -> Request:
        """Return a GET of the whole response: without conditions and range, which are of one client."""
        return self._replace(method="GET", headers=unconditional(self.headers))


class Head(NamedTuple):
    """The head of a response, and when it was asked for and received."""

    status: int
    headers: Headers
    requested_at: float
    received_at: float

    def to_store(self, policy: Policy) -> Head:
        """Return the head with the fields to store."""
        return self._replace(headers=stored_headers(self, policy))


class Stored(NamedTuple):
    """A complete response."""

    head: Head
    body: bytes


class Reuse(Enum):
    """What may be done with a stored response."""

    FRESH = "hit"
    STALE = "hit, with a revalidation in the background"
    REVALIDATE = "stale"
    #: The request asks for a revalidation of a response that is fresh.
    REQUESTED = "request"


class Judgement(NamedTuple):
    """What may be done with a stored response, and how fresh it is."""

    reuse: Reuse
    ttl: float  #: seconds that it is fresh from now on; negative if it is stale
    age: float  #: its age in seconds (section 4.2.3)


#: Section 4: methods whose responses can be stored or served here.
CACHED_METHODS: Final = frozenset({"GET", "HEAD"})
#: RFC 9110, section 9.2.1.
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

#: RFC 9110, section 15.1, without 206: what it is part of is not known here.
_HEURISTIC_STATUS: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
#: Statuses whose caching this module understands (sections 3 and 5.2.2.3).
_UNDERSTOOD: Final = _HEURISTIC_STATUS | {302, 303, 307, 400, 401, 403, 500, 502, 503, 504}
#: They answer a condition or a range of one request, or have not ended.
_PARTIAL: Final = frozenset({206, 304, 412, 416})
#: RFC 5861, section 4.
ERRORS: Final = frozenset({500, 502, 503, 504})

_CONDITIONS: Final = (
    b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range",
)  # fmt: skip
#: Section 3.2: a 304 does not change what describes the stored content.
_OF_THE_CONTENT: Final = HOP_BY_HOP | {b"content-length", b"content-encoding", b"content-range"}

#: Selecting fields that are lists (RFC 9110, section 12.5). The order of members counts: applications use it
#: where preferences are equal.
_LISTS: Final = frozenset({b"accept", b"accept-charset", b"accept-encoding", b"accept-language"})
#: Separate what is joined. No field of a request that is stored can have them.
_BETWEEN: Final = "\n"
_BEFORE_USER: Final = "\0"
#: The `user` of a request whose user does not tell itself from others.
UNNAMED: Final = "unnamed"

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

_OK: Final = 200
#: Begins the reason of a response that does not name its life and whose status may be why.
OF_STATUS: Final = "status-"
#: Section 4.2.2: the share of the time since the last modification for which a response is fresh.
_HEURISTIC_SHARE: Final = 0.1
_HEURISTIC_MOST: Final = 24 * 3600
#: Seconds that a response with a validator is kept after its freshness, at least.
_KEPT_TO_VALIDATE: Final = 3600
_KEPT_AT_MOST: Final = 365 * 24 * 3600


# -- requests -------------------------------------------------------------------------------------------


def request_directives(headers: Headers) -> Directives:
    """Return the directives of a request; `Pragma: no-cache` stands for an absent field (section 5.4)."""
    value = combined(headers, b"cache-control")
    if value is not None:
        return directives(value.decode("latin-1"))
    return {"no-cache": None} if "no-cache" in tokens(headers, b"pragma") else {}


def is_conditional(headers: Headers) -> bool:
    """Return whether the request has a precondition or a range, so that its response may be partial."""
    return any(name in _CONDITIONS or name == b"range" for name, _ in headers)


def is_only_if_cached(request: Request, policy: Policy) -> bool:
    """Return whether the client wants a stored response or an error (section 5.2.1.7)."""
    return policy.obeys_requests and "only-if-cached" in request_directives(request.headers)


def bypass(request: Request) -> str | None:
    """Return why a GET or HEAD can neither be answered nor stored; None if it can.

    Content in a GET has no defined meaning (RFC 9110, section 9.3.1), but an application may read it. It is
    not part of the key, so the response must reach this client alone.
    """
    lengths = {value.strip() for value in lines(request.headers, b"content-length")}
    if lengths - {b"0"} or lines(request.headers, b"transfer-encoding"):
        return "request-content"
    if not is_sound(request.headers):
        return "malformed-request"
    if lines(request.headers, b"if-match") or lines(request.headers, b"if-unmodified-since"):
        return "precondition"  # RFC 9110, section 13.1: the origin's to decide
    return None


def vary_names(headers: Headers) -> tuple[str, ...] | None:
    """Return the request fields that select a response, sorted; None for `*` (section 4.1)."""
    names = tokens(headers, b"vary")
    return None if "*" in names else tuple(sorted(names))


def variant(names: tuple[str, ...], request: Request) -> tuple[str | None, ...]:
    """Return the values of the selecting fields; None for an absent one.

    Section 4.1 permits to normalise them. Only white space around members of lists does not count, and around
    other values: an application may tell apart whatever else differs.
    """
    values: list[str | None] = []
    for name in names:
        field = hyphenated(name.encode("latin-1"))
        given = [value for other, value in request.headers if hyphenated(other) == field]
        sent = [value.decode("latin-1").strip(" \t") for value in given]
        value = None
        if given and field in _LISTS:
            value = ",".join(members(",".join(sent)))
        elif given:
            value = _BETWEEN.join(sent)
        if field == b"authorization" and request.user:
            value = f"{value}{_BEFORE_USER}{request.user}"
        values.append(value)
    return tuple(values)


# -- storing --------------------------------------------------------------------------------------------


def response_directives(headers: Headers, policy: Policy) -> tuple[Directives, bool]:
    """Return the directives that count, and whether a targeted field has them (RFC 9213, section 2.2)."""
    if policy.shared and policy.targeted is not None:
        value = combined(headers, policy.targeted)
        found = None if value is None else structured_directives(value.decode("latin-1"))
        if found is not None:
            return found, True
    return directives(text(headers, b"cache-control")), False


def _holds_for_all_fields(says: Directives, directive: str) -> bool:
    """Return whether the response has the directive without a list of fields that it is for."""
    return directive in says and says[directive] is None


def refusal(request: Request, head: Head, policy: Policy) -> str | None:
    """Return why a response may not be stored, in one word for `Cache-Status`; None if it may (section 3).

    A strict policy asks more than the standard. A response that sets a cookie must say `public` or
    `s-maxage`, or have a targeted field. So must the response to a request with a cookie, unless it varies by
    it.
    """
    says, targeted = response_directives(head.headers, policy)
    status, shared = head.status, policy.shared
    if request.method != "GET":
        return "method"
    if status < 200 or status in _PARTIAL:
        return "status"
    if not is_sound(head.headers):
        return "malformed-response"
    understood = "must-understand" in says
    if understood and status not in _UNDERSTOOD:  # section 5.2.2.3
        return "must-understand"
    if "no-store" in says and not understood:
        return "no-store"
    if policy.obeys_requests and "no-store" in request_directives(request.headers):
        return "request-no-store"
    if shared and _holds_for_all_fields(says, "private"):
        return "private"
    for_all = targeted or "public" in says or "s-maxage" in says
    if shared and not _is_for_authorized(request, says):
        return "authorization"
    names = vary_names(head.headers)
    if names is None:
        return "vary"
    if request.is_of_an_unnamed_user and "authorization" in names:
        return "authorization"
    if size_of(head.headers) > policy.max_size:
        return "too-large"
    try:
        length = content_length(head.headers) or 0
    except ValueError:
        return "content-length"
    if length > policy.max_size:
        return "too-large"
    strict = shared and policy.strict
    if strict and _sets_cookies(head.headers) and not for_all:
        return "set-cookie"
    is_varied = "cookie" in tokens(head.headers, b"vary")
    if strict and not for_all and not is_varied and lines(request.headers, b"cookie"):
        return "cookie"
    life = _named_lifetime(head, says, policy, targeted)
    unnamed = "no-freshness"
    if life is None:
        if status != _OK:
            unnamed = f"{OF_STATUS}{status}"
        if status not in _HEURISTIC_STATUS and "public" not in says:
            return unnamed
        life = _guessed_lifetime(head, policy)
        if default := _default_lifetime(request, head, policy):
            life = max(life, default)
    if life <= 0 and not _has_validator(head.headers) and not _may_be_stale(says, policy):
        return unnamed
    return None


def _may_be_stale(says: Directives, policy: Policy) -> bool:
    """Return whether the response names a time for which it may be served stale (RFC 5861)."""
    if _must_revalidate(says, policy) or _holds_for_all_fields(says, "no-cache"):
        return False
    return any(delta_seconds(says.get(name)) for name in ("stale-while-revalidate", "stale-if-error"))


def content_length(headers: Headers) -> int | None:
    """Return the length that the response announces, or None.

    Raises:
        ValueError: it is no number, or there are several that differ.
    """
    lengths = set(members(text(headers, b"content-length")))
    if not lengths:
        return None
    (length,) = lengths
    if not (length.isascii() and length.isdecimal() and len(length) < 19):
        raise ValueError("the Content-Length is no number of bytes")
    return int(length)


def _is_for_authorized(request: Request, says: Directives) -> bool:
    """Return whether the request has no credentials, or the response is for all the same (section 3.5)."""
    return not request.has_credentials or bool({"public", "s-maxage", "must-revalidate"} & says.keys())


def may_answer(stored: Stored, request: Request, policy: Policy) -> bool:
    """Return whether a stored response may be considered for a request at all.

    A strict policy keeps what was made without credentials, such as a 401, from requests that have some.
    """
    if not (policy.shared and policy.strict):
        return True
    return _is_for_authorized(request, response_directives(stored.head.headers, policy)[0])


def _sets_cookies(headers: Headers) -> bool:
    return any(name == b"set-cookie" for name, _ in headers)


def _has_validator(headers: Headers) -> bool:
    return any(name == b"etag" or (name == b"last-modified" and value) for name, value in headers)


def stored_headers(head: Head, policy: Policy) -> tuple[tuple[bytes, bytes], ...]:
    """Return the fields to store: those of one connection are left out (section 3.1).

    So are fields that a qualified `no-cache` or `private` lists (sections 5.2.2.4 and 5.2.2.7).
    """
    left_out = {name.encode("latin-1") for name in tokens(head.headers, b"connection")} | HOP_BY_HOP
    says, _ = response_directives(head.headers, policy)
    for directive in ("no-cache", "private") if policy.shared else ("no-cache",):
        listed = says.get(directive)
        if listed is not None:
            left_out |= {name.strip().lower().encode("latin-1", "replace") for name in listed.split(",")}
    return tuple((name, value) for name, value in head.headers if name not in left_out)


# -- freshness ------------------------------------------------------------------------------------------


def lifetime(request: Request, head: Head, policy: Policy) -> float:
    """Return for how many seconds the response is fresh after it was made (section 4.2.1)."""
    says, targeted = response_directives(head.headers, policy)
    named = _named_lifetime(head, says, policy, targeted)
    if named is not None:
        return named
    if head.status not in _HEURISTIC_STATUS and "public" not in says:
        return 0.0
    return max(_guessed_lifetime(head, policy), _default_lifetime(request, head, policy))


def _named_lifetime(head: Head, says: Directives, policy: Policy, targeted: bool) -> float | None:
    """Return the lifetime that the response names, 0 if that is invalid; None if there is none."""
    if policy.shared and "s-maxage" in says:
        return float(delta_seconds(says["s-maxage"]) or 0)
    if "max-age" in says:
        return float(delta_seconds(says["max-age"]) or 0)
    expires = [] if targeted else lines(head.headers, b"expires")  # RFC 9213, section 2.2
    if not expires:
        return None
    if len(set(expires)) > 1:
        return 0.0
    until = http_date(expires[0].decode("latin-1"))
    return 0.0 if until is None else max(0.0, until - date_of(head))


def date_of(head: Head) -> float:
    """Return when the response was made: a recipient stands in for a missing date (RFC 9110, 6.6.1)."""
    date = http_date(text(head.headers, b"date"))
    return head.received_at if date is None else date


def _guessed_lifetime(head: Head, policy: Policy) -> float:
    """Return the heuristic lifetime (section 4.2.2); 0 if there is none."""
    says, _ = response_directives(head.headers, policy)
    modified = http_date(text(head.headers, b"last-modified"))
    if modified is None or _holds_for_all_fields(says, "no-cache"):
        return 0.0
    return min(max(0.0, (date_of(head) - modified) * _HEURISTIC_SHARE), _HEURISTIC_MOST)


def _default_lifetime(request: Request, head: Head, policy: Policy) -> float:
    """Return the lifetime that the operator gives to responses that say nothing of caching.

    Nothing that may concern one user has it: the request has no cookie and no credentials, and the response
    sets no cookie and does not vary by one.
    """
    if policy.default_ttl is None or head.status != _OK:
        return 0.0
    if request.may_be_of_a_user or _sets_cookies(head.headers):
        return 0.0
    if {"cookie", "authorization"} & tokens(head.headers, b"vary"):
        return 0.0
    if lines(head.headers, b"cache-control") or lines(head.headers, b"pragma"):
        return 0.0
    return policy.default_ttl


def current_age(head: Head, now: float) -> float:
    """Return the age of a stored response (section 4.2.3)."""
    apparent = max(0.0, head.received_at - date_of(head))
    corrected = _age_value(head.headers) + max(0.0, head.received_at - head.requested_at)
    return max(apparent, corrected) + max(0.0, now - head.received_at)


def _age_value(headers: Headers) -> int:
    """Return the first member of the first `Age`; an invalid one is ignored (section 5.1)."""
    ages = lines(headers, b"age")
    if not ages:
        return 0
    first = ages[0].decode("latin-1").partition(",")[0].partition(";")[0]
    return delta_seconds(first.strip(" \t")) or 0


def judge(stored: Stored, request: Request, policy: Policy, now: float) -> Judgement:
    """Return whether a stored response may answer a GET or HEAD now (sections 4 and 4.2)."""
    says, _ = response_directives(stored.head.headers, policy)
    asks = request_directives(request.headers) if policy.obeys_requests else {}
    age = current_age(stored.head, now)
    ttl = lifetime(request, stored.head, policy) - age
    if _holds_for_all_fields(says, "no-cache"):  # section 5.2.2.4
        return Judgement(Reuse.REVALIDATE, min(ttl, 0.0), age)
    if ttl > 0:
        most = delta_seconds(asks.get("max-age"))
        least = delta_seconds(asks.get("min-fresh")) or 0
        asked = "no-cache" in asks or "no-store" in asks or ("max-age" in asks and most is None)
        if asked or (most is not None and age > most) or most == 0 or ttl < least:
            return Judgement(Reuse.REQUESTED, ttl, age)
        return Judgement(Reuse.FRESH, ttl, age)
    if _must_revalidate(says, policy) or asks.keys() & {"no-cache", "no-store", "max-age", "min-fresh"}:
        return Judgement(Reuse.REVALIDATE, ttl, age)
    if "max-stale" in asks:  # section 5.2.1.2
        most = delta_seconds(asks["max-stale"]) if asks["max-stale"] is not None else None
        if asks["max-stale"] is None or (most is not None and -ttl <= most):
            return Judgement(Reuse.FRESH, ttl, age)
    window = delta_seconds(says.get("stale-while-revalidate")) or 0
    if -ttl < window:  # RFC 5861, section 3
        return Judgement(Reuse.STALE, ttl, age)
    return Judgement(Reuse.REVALIDATE, ttl, age)


def _must_revalidate(says: Directives, policy: Policy) -> bool:
    """Return whether a stale response must not be served (section 4.2.4)."""
    if "must-revalidate" in says:
        return True
    return policy.shared and ("proxy-revalidate" in says or "s-maxage" in says)


def serves_on_error(stored: Stored, request: Request, policy: Policy, now: float) -> bool:
    """Return whether the stored response may answer when the origin fails (RFC 5861, section 4)."""
    says, _ = response_directives(stored.head.headers, policy)
    if "no-cache" in says or _must_revalidate(says, policy):
        return False
    asks = request_directives(request.headers) if policy.obeys_requests else {}
    if "no-cache" in asks or "no-store" in asks:
        return False
    window = max(
        delta_seconds(says.get("stale-if-error")) or 0, delta_seconds(asks.get("stale-if-error")) or 0
    )
    return current_age(stored.head, now) - lifetime(request, stored.head, policy) < window


def keep_for(request: Request, head: Head, policy: Policy) -> float:
    """Return for how many seconds a response is of use after it was received: fresh, stale or to validate."""
    says, _ = response_directives(head.headers, policy)
    fresh = max(0.0, lifetime(request, head, policy) - current_age(head, head.received_at))
    windows = [delta_seconds(says.get(name)) or 0 for name in ("stale-while-revalidate", "stale-if-error")]
    after = float(max(windows))
    if _has_validator(head.headers):
        after = max(after, fresh, _KEPT_TO_VALIDATE)
    return min(fresh + after, _KEPT_AT_MOST)


# -- validation -----------------------------------------------------------------------------------------


def conditional(headers: Headers, stored: Stored) -> list[tuple[bytes, bytes]] | None:
    """Return the fields of a request that validates the stored response (section 4.3.1).

    The client's own conditions and range are left out: they are applied to the outcome.

    Returns:
        None if the stored response has no validator.
    """
    kept = unconditional(headers)
    etags = lines(stored.head.headers, b"etag")
    modified = lines(stored.head.headers, b"last-modified")
    if not etags and not modified:
        return None
    if etags:
        kept.append((b"if-none-match", etags[0]))
    if modified:
        kept.append((b"if-modified-since", modified[0]))
    return kept


def unconditional(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the fields of a request without its conditions and range."""
    return [(name, value) for name, value in headers if name not in _CONDITIONS and name != b"range"]


def is_of(not_modified: Head, stored: Stored) -> bool:
    """Return whether a 304 is about the stored response (section 4.3.4): its entity tag is no other one.

    Weak comparison, because middleware that compresses makes a tag weak, in responses with content alone.
    """
    given, own = _etags(not_modified), _etags(stored.head)
    if own:
        return {opaque(etag) for etag in given} <= {opaque(own[0])}
    return not any(map(is_strong, given))


def _etags(head: Head) -> list[str]:
    return [etag.decode("latin-1") for etag in lines(head.headers, b"etag")]


def freshen(stored: Stored, not_modified: Head) -> Stored:
    """Return the stored response with the fields of a 304 (sections 3.2 and 4.3.4)."""
    new = [(name, value) for name, value in not_modified.headers if name not in _OF_THE_CONTENT]
    names = {name for name, _ in new} | {b"age"}  # the old one counted up to the old response
    headers = [(name, value) for name, value in stored.head.headers if name not in names] + new
    head = stored.head
    return Stored(
        Head(head.status, tuple(headers), not_modified.requested_at, not_modified.received_at), stored.body
    )


# -- invalidation ---------------------------------------------------------------------------------------


def invalidates(method: str, status: int) -> bool:
    """Return whether the response to a request invalidates what is stored (section 4.4)."""
    return method not in SAFE_METHODS and 200 <= status < 400


def authority(url: SplitResult) -> str:
    """Return host and port in lower case, without the default port (RFC 9110, section 4.2.3)."""
    return url.netloc.lower().removesuffix(_DEFAULT_PORTS.get(url.scheme, ":")).removesuffix(":")


def invalidated_urls(request: Request, headers: Headers) -> set[str]:
    """Return the other URLs of the same origin that an unsafe request invalidates (section 4.4)."""
    own = urlsplit(request.url)
    urls = set()
    for name in (b"location", b"content-location"):
        for value in lines(headers, name):
            try:
                url = urljoin(request.url, value.decode("latin-1").strip())
                other = urlsplit(url)
            except ValueError:  # an invalid host
                continue
            if (other.scheme, authority(other)) == (own.scheme, authority(own)):
                urls.add(url.partition("#")[0])
    return urls


# -- Cache-Status ---------------------------------------------------------------------------------------


def cache_status(name: str, parameters: Mapping[str, str | int | bool | None]) -> bytes:
    """Return the member of `Cache-Status` that this cache adds (RFC 9211, section 2).

    None and False are left out, and True stands without a value. Values are tokens of our own, never text of
    a request, so that no request writes into a response.
    """
    parts = [name]
    for key, value in parameters.items():
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f"{key}={value}")
    return "; ".join(parts).encode("ascii")
