"""Exchange: one request to the cache, and what becomes of the response of the origin. It does no I/O."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias, final

from cachekit.http.answers import answer
from cachekit.http.fields import Headers, size_of
from cachekit.http.flights import Landing
from cachekit.http.keys import Target
from cachekit.http.rfc9111 import (
    ERRORS,
    OF_STATUS,
    Reuse,
    Stored,
    cache_status,
    conditional,
    current_age,
    freshen,
    is_conditional,
    is_of,
    is_only_if_cached,
    judge,
    lifetime,
    may_answer,
    refusal,
    request_directives,
    serves_on_error,
)
from cachekit.http.store import USUAL_REQUEST, Fill, Found, ResponseStore

#: The member of `Cache-Status` that this cache adds.
NAME: Final = "cachekit"

#: Reasons why a response is not stored that say something of the page.
_OF_THE_RESPONSE: Final = frozenset({
    "no-store", "private", "set-cookie", "vary", "no-freshness", "too-large", "must-understand", "tags",
    "content-length", "malformed-response",
})  # fmt: skip
#: Reasons that are of requests with cookies or credentials, or of the form of the content. They hold for the
#: next request of the same kind as well.
_OF_THE_KIND: Final = frozenset({"cookie", "authorization", "streaming"})
#: Reasons that a request of a user may have where others get a page for all.
_OF_A_USER: Final = frozenset({"no-store", "private", "set-cookie"})

#: The page is gone, for users as well.
_GONE: Final = frozenset({404, 410})
#: Errors that say something of the page, and not of the request: it is gone, or no longer for all.
_OF_THE_PAGE: Final = frozenset({401, 402, 403, 404, 410, 451})


#: Parameters of a member of `Cache-Status`.
Parameters: TypeAlias = dict[str, str | int | bool | None]


class Reply(NamedTuple):
    """A response of the cache itself."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def passed_on(headers: Headers, forwarded: str, detail: str | None = None) -> list[tuple[bytes, bytes]]:
    """Return the fields of a response that the cache only passes on."""
    status = cache_status(NAME, {"fwd": forwarded, "detail": detail})
    return [*headers, (b"cache-status", status)]


@final
class Exchange:
    """One GET or HEAD. It is for one thread or task.

    Attributes:
        found: what the cache has for the request.
        to_put: what a 304 has made of the stored response; to be stored before it is served.
        drops: whether the stored response is to be removed before the new one is served, because the origin
            no longer has it for all. If it were kept, it would be served for as long as it may be stale.
        landing: how a flight that this request leads ends, as far as it is known.
    """

    __slots__ = (
        "_changed",
        "_conditional",
        "_forwarded",
        "_store",
        "_target",
        "drops",
        "found",
        "landing",
        "to_put",
    )

    def __init__(self, store: ResponseStore, target: Target, found: Found) -> None:
        self._store = store
        self._target = target
        self._forwarded = found.missed
        self._conditional = False
        #: Whether a 304 was about another response than the stored one.
        self._changed = False
        self.found = found
        self.to_put: Stored | None = None
        self.drops = False
        self.landing = Landing.ALONE

    @property
    def stored(self) -> Stored | None:
        """Return the stored response that may be considered, or None."""
        stored = self.found.stored
        if stored is None or not may_answer(stored, self._target.request, self._store.policy):
            return None
        return stored

    def from_cache(self, found: Found | None = None) -> tuple[Reply | None, bool]:
        """Return the response of the cache if it has one, and whether to revalidate it in the background.

        Args:
            found: what another request has stored since, for which this one has waited.
        """
        if found is not None:
            self.found = found
        request, policy = self._target.request, self._store.policy
        stored, now = self.stored, self._store.clock.time()
        if stored is None:
            self._forwarded = self.found.missed if self.found.stored is None else "request"
        else:
            judged = judge(stored, request, policy, now)
            if judged.reuse in {Reuse.FRESH, Reuse.STALE}:
                how: Parameters = {"hit": True}
                if found is not None:
                    how = {"fwd": self._forwarded, "collapsed": True}
                hit = self._reply(stored, judged.age, {**how, "ttl": int(judged.ttl // 1)})
                return hit, judged.reuse is Reuse.STALE
            self._forwarded = judged.reuse.value
        if is_only_if_cached(request, policy):
            status = cache_status(NAME, {"detail": "only-if-cached"})
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"0"), (b"cache-status", status)]
            return Reply(504, headers, b""), False
        return None, False

    def _reply(self, stored: Stored, age: float, parameters: Parameters) -> Reply:
        made = answer(stored, self._target.request, age)
        status = cache_status(NAME, parameters)
        return Reply(made.status, [*made.headers, (b"cache-status", status)], made.body)

    @property
    def flight_key(self) -> str:
        """The key of the flight for this request. Those that may be of a user have one of their own.

        Whether their responses can be stored says nothing of the others.
        """
        return f"{self.found.key}#user" if self._target.request.may_be_of_a_user else self.found.key

    @property
    def may_collapse(self) -> bool:
        """Whether the request may wait for another one, or others for it.

        Not if what it asks for is its own: a condition, a range, a directive, or unusual fields.
        """
        request = self._target.request
        return (
            request.method == "GET"
            and not is_conditional(request.headers)
            and not request_directives(request.headers)
            and size_of(request.headers) <= USUAL_REQUEST
        )

    def forwarded_headers(self) -> Headers:
        """Return the fields to send to the origin: with our validators if a stored response has some."""
        stored = self.stored
        if stored is not None and not self._changed and self._target.request.method == "GET":
            validating = conditional(self._target.request.headers, stored)
            if validating is not None:
                self._conditional = True
                return validating
        return self._target.request.headers

    def respond(self, fill: Fill, status: int, headers: Headers) -> Reply | list[tuple[bytes, bytes]] | None:
        """Return the reply of the cache, or the fields with which the response of the origin is passed on.

        Returns:
            None if the origin is to be asked again, because its 304 is about another response than the
            stored one. The next call has the fields of the client alone.
        """
        stored, before = self.stored, fill.reason
        if stored is not None and status in ERRORS and (reply := self.on_error(status)) is not None:
            fill.abandon("stale-if-error")
            return reply
        head = fill.begin_response(status, headers)
        if stored is not None and status == 304 and self._conditional:
            fill.abandon("validated")
            if not is_of(head, stored):
                self._changed, self._conditional = True, False
                return None
            return self._validated(freshen(stored, head), before)
        self.drops = self._is_outdated(fill.reason, status)
        self.landing = Landing.ALONE if fill.reason is None else self.landing_of(fill.reason)
        if fill.reason is None and self._is_fresh(Stored(head, b"")):
            self.landing = Landing.STORED
        parameters: Parameters = {"fwd": self._forwarded}
        if self._conditional:
            parameters["fwd-status"] = status
        parameters |= {"stored": fill.reason is None, "detail": fill.reason}
        if self._target.request.method == "HEAD":
            parameters |= {"stored": False, "detail": None}
        return [*headers, (b"cache-status", cache_status(NAME, parameters))]

    def _validated(self, fresh: Stored, refused: str | None) -> Reply:
        """Return the reply after a 304; `refused` is why this call stores nothing, if there is a reason."""
        store, request = self._store, self._target.request
        refused = refused or refusal(request, fresh.head, store.policy)
        if refused is None:
            self.to_put = Stored(fresh.head.to_store(store.policy), fresh.body)
            self.landing = Landing.STORED if self._is_fresh(fresh) else Landing.ALONE
        else:
            self.landing = self.landing_of(refused)
            self.drops = self._is_outdated(refused, fresh.head.status)
        age = current_age(fresh.head, store.clock.time())
        return self._reply(
            fresh,
            age,
            {"fwd": self._forwarded, "fwd-status": 304, "stored": refused is None, "detail": refused},
        )

    def _is_outdated(self, reason: str | None, status: int) -> bool:
        """Return whether a response that is not stored for this reason shows that a stale one is outdated."""
        if reason is None or not (status < 400 or status in _OF_THE_PAGE):
            return False
        stored, store, request = self.stored, self._store, self._target.request
        if stored is None:
            return False
        if status not in _GONE:
            is_of_a_user = store.policy.shared and request.may_be_of_a_user and reason in _OF_A_USER
            if is_of_a_user or not _is_of_the_response(reason):
                return False
        age = current_age(stored.head, store.clock.time())
        return self._changed or age >= lifetime(request, stored.head, store.policy)

    @property
    def replaces(self) -> bool:
        """Whether `to_put` is to be stored, or the stored response to be removed."""
        return self.drops or self.to_put is not None

    def _is_fresh(self, stored: Stored) -> bool:
        request, policy, now = self._target.request, self._store.policy, self._store.clock.time()
        return judge(stored, request, policy, now).reuse in {Reuse.FRESH, Reuse.STALE}

    def on_error(self, status: int | None = None) -> Reply | None:
        """Return the stored response for an origin that failed, if `stale-if-error` permits it."""
        store, request, stored = self._store, self._target.request, self.stored
        now = store.clock.time()
        if stored is None or not serves_on_error(stored, request, store.policy, now):
            return None
        self.landing = Landing.ALONE
        age = current_age(stored.head, now)
        ttl = int((lifetime(request, stored.head, store.policy) - age) // 1)
        return self._reply(
            stored, age, {"hit": True, "ttl": ttl, "fwd-status": status, "detail": "stale-if-error"}
        )

    @staticmethod
    def landing_of(reason: str) -> Landing:
        """Return how a flight ends whose response is not stored for this reason."""
        is_lasting = reason in _OF_THE_KIND or _is_of_the_response(reason)
        return Landing.PRIVATE if is_lasting else Landing.ALONE


def _is_of_the_response(reason: str) -> bool:
    return reason in _OF_THE_RESPONSE or reason.startswith(OF_STATUS)
