"""The decisions of the HTTP cache, one case each; the ids are those of the public suite where it has one."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from cachekit.http.answers import answer
from cachekit.http.keys import tag_of_url
from cachekit.http.rfc9111 import (
    Head,
    Policy,
    Request,
    Reuse,
    Stored,
    bypass,
    conditional,
    freshen,
    invalidated_urls,
    invalidates,
    judge,
    keep_for,
    may_answer,
    refusal,
    serves_on_error,
    stored_headers,
    variant,
    vary_names,
)

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT
DATE = ("Date", "Tue, 14 Nov 2023 22:13:20 GMT")
SHARED, PRIVATE = Policy(), Policy(shared=False)
BY_RFC = Policy(strict=False)


def fields(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]


def request(*pairs: tuple[str, str], method: str = "GET") -> Request:
    return Request(method, "http://example.com/a/b?c", fields(*pairs))


def head(*pairs: tuple[str, str], status: int = 200, at: float = NOW) -> Head:
    return Head(status, fields(*pairs), at, at)


class Case(NamedTuple):
    """A response, and what becomes of the same request `after` so many seconds."""

    id: str
    expected: str  #: the reason why it is not stored, or the name of a Reuse
    response: list[tuple[str, str]]
    after: float = 3.0
    first: tuple[tuple[str, str], ...] = ()
    second: tuple[tuple[str, str], ...] = ()
    status: int = 200
    policy: Policy = SHARED


def cc(value: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [("Cache-Control", value), DATE, *more]


OLD = ("Last-Modified", "Mon, 13 Nov 2023 22:13:20 GMT")
LATER = ("Expires", "Thu, 18 Aug 2050 02:01:18 GMT")
ETAG = ("ETag", '"abcd"')
FRESH, STALE, REVALIDATE, REQUESTED = (reuse.name for reuse in Reuse)
UNKNOWN = "no-freshness"

CASES = [
    Case("freshness-none", UNKNOWN, []),
    Case("freshness-max-age", FRESH, cc("max-age=3600")),
    Case("freshness-max-age-stale", REVALIDATE, cc("max-age=2")),
    Case("freshness-max-age-0", UNKNOWN, cc("max-age=0")),
    Case(
        "max-age=0 and stale while revalidate", STALE, cc("max-age=0, stale-while-revalidate=7200"), after=60
    ),
    Case("max-age=0 and stale if error", REVALIDATE, cc("max-age=0, stale-if-error=600"), after=60),
    *(
        Case(f"max-age=0, {says} and no stale response", UNKNOWN, cc(f"max-age=0, {says}"))
        for says in (
            "stale-while-revalidate=0",
            "stale-while-revalidate=x",
            "stale-while-revalidate",
            "stale-while-revalidate=60, must-revalidate",
            "stale-while-revalidate=60, no-cache",
            "stale-while-revalidate=60, proxy-revalidate",
            "stale-while-revalidate=60, s-maxage=0",
        )
    ),
    Case("freshness-max-age-max-plus", FRESH, cc("max-age=99999999999")),
    Case("freshness-max-age-age", REVALIDATE, cc("max-age=3600", ("Age", "7200"))),
    Case(
        "freshness-max-age-expires", FRESH, cc("max-age=3600", ("Expires", "Tue, 14 Nov 2023 20:13:20 GMT"))
    ),
    Case(
        "freshness-max-age-0-expires", UNKNOWN, cc("max-age=0", ("Expires", "Tue, 14 Nov 2050 20:13:20 GMT"))
    ),
    Case("freshness-max-age-extension", FRESH, cc("foobar, max-age=3600")),
    Case("freshness-max-age-case-insenstive", FRESH, cc("MaX-aGe=3600")),
    Case("freshness-max-age-negative", UNKNOWN, cc("max-age=-3600")),
    Case("freshness-s-maxage-shared", FRESH, cc("s-maxage=3600")),
    Case("freshness-s-maxage-private-cache", UNKNOWN, cc("s-maxage=3600"), policy=PRIVATE),
    Case("freshness-max-age-s-maxage-shared-longer", REVALIDATE, cc("max-age=3600, s-maxage=1")),
    Case("freshness-max-age-s-maxage-shared-shorter", FRESH, cc("max-age=1, s-maxage=3600")),
    Case("freshness-max-age-ignore-quoted", REVALIDATE, cc('extension="max-age=3600", max-age=1')),
    Case("freshness-max-age-ignore-quoted-rev", REVALIDATE, cc('max-age=1, extension="max-age=3600"')),
    Case("freshness-max-age-leading-zero", FRESH, cc("max-age=003600")),
    Case("freshness-max-age-single-quoted", UNKNOWN, cc("max-age='3600'")),
    Case("freshness-max-age-two-fresh-stale-sameline", REVALIDATE, cc("max-age=1800, max-age=1")),
    Case("age-parse-nonnumeric", FRESH, cc("max-age=3600", ("Age", "abc"))),
    Case("age-parse-negative", FRESH, cc("max-age=3600", ("Age", "-7200"))),
    Case("age-parse-suffix", REVALIDATE, cc("max-age=3600", ("Age", "7200, 0"))),
    Case("age-parse-prefix", FRESH, cc("max-age=3600", ("Age", "0, 7200"))),
    Case("age-parse-suffix-twoline", REVALIDATE, cc("max-age=3600", ("Age", "7200"), ("Age", "0"))),
    Case("freshness-expires-future", FRESH, [DATE, LATER]),
    Case("freshness-expires-rfc850", FRESH, [DATE, ("Expires", "Thursday, 18-Aug-50 02:01:18 GMT")]),
    Case("freshness-expires-ansi-c", FRESH, [DATE, ("Expires", "Thu Aug  8 02:01:18 2050")]),
    Case("freshness-expires-wrong-case-tz", FRESH, [DATE, ("Expires", "Thu, 18 AUG 2050 02:01:18 gMT")]),
    *(
        Case(f"freshness-expires-invalid {value}", UNKNOWN, [DATE, ("Expires", value)])
        for value in (
            "0",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
        )
    ),
    Case("freshness-expires-old-date", FRESH, [DATE, ("Expires", "Tue, 14 Nov 2023 23:13:20 GMT")]),
    Case(
        "freshness-expires-age-slow-date",
        REVALIDATE,
        [("Date", "Tue, 14 Nov 2023 22:13:10 GMT"), ("Expires", "Tue, 14 Nov 2023 22:13:20 GMT")],
    ),
    *(
        Case(f"{field}: {says} for all fields", expected, [DATE, (field, f"max-age=60, {says}")])
        for field, values in (
            ("Cache-Control", ('=""', "=", '=","', '=" "', '="*"', "=1", "=true", '="a b"', '="a", {name}')),
            ("CDN-Cache-Control", ('=""', '=","', '="*"', "=1", "=true")),
        )
        for name, expected in (("private", "private"), ("no-cache", REVALIDATE))
        for says in (f"{name}{value}".format(name=name) for value in values)
    ),
    Case("private for a field", FRESH, cc('max-age=3600, private="set-cookie, x"')),
    Case("no-cache for a field", FRESH, cc("max-age=3600, no-cache=Set-Cookie")),
    Case("heuristic-200-cached", FRESH, [DATE, OLD]),
    Case("heuristic-201-not_cached", "status-201", [DATE, OLD], status=201),
    Case("heuristic-599-not_cached", "status-599", [DATE, OLD], status=599),
    Case("heuristic-404-unknown", "status-404", [DATE], status=404),
    Case("freshness-404-max-age-0", UNKNOWN, cc("max-age=0"), status=404),
    Case("heuristic-599-cached", FRESH, cc("public", OLD), status=599),
    Case("status-500-fresh", FRESH, cc("max-age=3600"), status=500),
    Case("status-206", "status", cc("max-age=3600"), status=206),
    Case("cc-resp-private-shared", "private", cc("private, max-age=3600")),
    Case("cc-resp-private-private", FRESH, cc("private, max-age=3600"), policy=PRIVATE),
    Case("cc-resp-no-store-case-insensitive", "no-store", cc("max-age=3600, No-StOrE")),
    Case("status-200-must-understand", FRESH, cc("max-age=3600, no-store, must-understand")),
    Case(
        "status-599-must-understand",
        "must-understand",
        cc("max-age=3600, no-store, must-understand"),
        status=599,
    ),
    Case("cc-resp-no-cache", REVALIDATE, cc("max-age=10000, no-cache")),
    Case("cc-resp-no-cache-revalidate", REVALIDATE, cc("no-cache", ETAG)),
    Case("cc-resp-must-revalidate-fresh", FRESH, cc("max-age=10000, must-revalidate", ETAG)),
    Case("ccreq-ma0", REQUESTED, cc("max-age=3600"), second=(("Cache-Control", "max-age=0"),)),
    Case(
        "ccreq-ma0-ignored",
        FRESH,
        cc("max-age=3600"),
        second=(("Cache-Control", "max-age=0"),),
        policy=Policy(obeys_requests=False),
    ),
    Case("ccreq-min-fresh", REQUESTED, cc("max-age=1500"), second=(("Cache-Control", "min-fresh=2000"),)),
    Case("ccreq-max-stale", FRESH, cc("max-age=2", ETAG), second=(("Cache-Control", "max-stale=1000"),)),
    Case("ccreq-no-cache", REQUESTED, cc("max-age=3600"), second=(("Cache-Control", "no-cache"),)),
    Case("ccreq-no-store", "request-no-store", cc("max-age=3600"), first=(("Cache-Control", "no-store"),)),
    Case("pragma-request-no-cache", REQUESTED, cc("max-age=3600"), second=(("Pragma", "no-cache"),)),
    Case("stale-while-revalidate", STALE, cc("max-age=1, stale-while-revalidate=3600", ETAG)),
    Case("stale-while-revalidate-window", REVALIDATE, cc("max-age=1, stale-while-revalidate=1", ETAG)),
    Case(
        "stale-while-revalidate-must",
        REVALIDATE,
        cc("max-age=1, stale-while-revalidate=9, must-revalidate", ETAG),
    ),
    Case("other-authorization", "authorization", cc("max-age=3600"), first=(("Authorization", "FOO"),)),
    Case("other-authorization-public", FRESH, cc("max-age=3600, public"), first=(("Authorization", "FOO"),)),
    Case(
        "other-authorization-must-revalidate",
        FRESH,
        cc("max-age=3600, must-revalidate"),
        first=(("Authorization", "FOO"),),
    ),
    Case("other-authorization-smaxage", FRESH, cc("s-maxage=3600"), first=(("Authorization", "FOO"),)),
    Case("other-set-cookie", FRESH, cc("max-age=3600", ("Set-Cookie", "a=b")), policy=BY_RFC),
    Case("other-set-cookie-strict", "set-cookie", cc("max-age=3600", ("Set-Cookie", "a=b"))),
    Case("other-set-cookie-strict-public", FRESH, cc("max-age=3600, public", ("Set-Cookie", "a=b"))),
    Case("other-cookie", FRESH, cc("max-age=3600"), second=(("Cookie", "a=b"),)),
    Case("heuristic-cookie-strict", "cookie", [DATE, OLD], first=(("Cookie", "a=b"),)),
    Case("cookie-strict", "cookie", cc("max-age=3600"), first=(("Cookie", "a=b"),)),
    Case("cookie-strict-public", FRESH, cc("max-age=3600, public"), first=(("Cookie", "a=b"),)),
    Case("cookie-strict-vary", FRESH, cc("max-age=3600", ("Vary", "Cookie")), first=(("Cookie", "a=b"),)),
    Case("cookie-rfc", FRESH, cc("max-age=3600"), first=(("Cookie", "a=b"),), policy=BY_RFC),
    Case("cookie-private-cache", FRESH, cc("max-age=3600"), first=(("Cookie", "a=b"),), policy=PRIVATE),
    Case("vary-star", "vary", cc("max-age=3600", ("Vary", "*"))),
    Case("vary-syntax-empty-star-lines", "vary", cc("max-age=3600", ("Vary", ""), ("Vary", "*"))),
    Case("vary-syntax-foo-star", "vary", cc("max-age=3600", ("Vary", "Foo, *"))),
    Case("cdn-max-age-short-cc-max-age", FRESH, cc("max-age=1", ("CDN-Cache-Control", "max-age=3600"))),
    Case("cdn-max-age-long-cc-max-age", REVALIDATE, cc("max-age=3600", ("CDN-Cache-Control", "max-age=1"))),
    Case("cdn-private", "private", cc("max-age=3600", ("CDN-Cache-Control", "private"))),
    Case("cdn-fresh-cc-nostore", FRESH, cc("no-store", ("CDN-Cache-Control", "max-age=10000"))),
    Case(
        "cdn-cc-invalid-sh-type-unknown",
        "no-store",
        cc("no-store", ("CDN-Cache-Control", "max-age=10000, &&&&&")),
    ),
    Case(
        "cdn-cc-invalid-sh-type-wrong", "no-store", cc("no-store", ("CDN-Cache-Control", 'max-age="10000"'))
    ),
    Case("cdn-max-age-0-expires", UNKNOWN, [DATE, ("CDN-Cache-Control", "max-age=0"), LATER]),
    Case(
        "content-length-twice",
        "content-length",
        cc("max-age=3600", ("Content-Length", "1"), ("Content-Length", "2")),
    ),
    Case("content-length-beyond", "too-large", cc("max-age=3600", ("Content-Length", "1048577"))),
    Case("response-splitting", "malformed-response", cc("max-age=3600", ("X-A", "b\r\nSet-Cookie: c"))),
    Case("default-ttl", FRESH, [DATE], policy=Policy(default_ttl=60)),
    Case("default-ttl-cookie", "cookie", [DATE], first=(("Cookie", "a=b"),), policy=Policy(default_ttl=60)),
    Case("default-ttl-vary-cookie", UNKNOWN, [DATE, ("Vary", "Cookie")], policy=Policy(default_ttl=60)),
    Case(
        "default-ttl-says-nothing-of-freshness", UNKNOWN, cc("must-revalidate"), policy=Policy(default_ttl=60)
    ),
]


def test_each_case_has_a_name_of_its_own() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_decision(case: Case) -> None:
    response = head(*case.response, status=case.status)
    reason = refusal(request(*case.first), response, case.policy)
    if reason is None:
        stored = Stored(response, b"")
        judged = judge(stored, request(*case.second), case.policy, NOW + case.after)
        assert judged.reuse.name == case.expected
        assert keep_for(request(*case.first), response, case.policy) >= 0
    else:
        assert reason == case.expected


@pytest.mark.parametrize(
    ("pairs", "asked", "expected"),
    [
        ([("Accept", "1, 2")], ["accept"], ("1,2",)),
        ([("Accept", "1"), ("Accept", "2")], ["accept"], ("1,2",)),
        ([("Accept", " 1,,2, ")], ["accept"], ("1,2",)),
        ([("Accept", '"a, b",c')], ["accept"], ('"a, b",c',)),
        ([("Accept", 'a "'), ("Accept", "b")], ["accept"], ('a ",b',)),
        ([], ["foo"], (None,)),
        ([("Foo", "")], ["foo"], ("",)),
        ([("Accept-Language", "en,  De")], ["accept-language"], ("en,De",)),
        ([("Cookie", " a=1, 2,,3, ")], ["cookie"], ("a=1, 2,,3,",)),
        ([("Referer", "/?a=1,,2")], ["referer"], ("/?a=1,,2",)),
        ([("Foo", "1"), ("Foo", "2")], ["foo"], ("1\n2",)),
    ],
)
def test_selecting_fields_are_normalised(
    pairs: list[tuple[str, str]], asked: list[str], expected: tuple[str | None, ...]
) -> None:
    assert variant(tuple(asked), request(*pairs)) == expected


def test_vary_names_every_line_once_and_in_lower_case() -> None:
    assert vary_names(fields(("Vary", "Foo, , bar"), ("Vary", "FOO"))) == ("bar", "foo")


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([("Content-Length", "3")], "request-content"),
        ([("Content-Length", "0"), ("Content-Length", "3")], "request-content"),
        ([("Transfer-Encoding", "chunked")], "request-content"),
        ([("X-A", "b\x00")], "malformed-request"),
        ([("If-Match", '"a"')], "precondition"),
        ([("Content-Length", "0")], None),
    ],
)
def test_requests_that_bypass_the_cache(pairs: list[tuple[str, str]], reason: str | None) -> None:
    assert bypass(request(*pairs)) == reason


def test_a_strict_cache_keeps_answers_without_credentials_from_requests_that_have_some() -> None:
    with_credentials = request(("Authorization", "FOO"))
    denied = Stored(head(*cc("max-age=3600"), status=401), b"")
    assert not may_answer(denied, with_credentials, SHARED)
    assert may_answer(denied, request(), SHARED)
    assert may_answer(denied, with_credentials, BY_RFC)
    assert may_answer(Stored(head(*cc("max-age=3600, public")), b""), with_credentials, SHARED)


def test_fields_of_the_connection_and_listed_ones_are_not_stored() -> None:
    response = head(
        ("Connection", "a, B"), ("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5"),
        ("Keep-Alive", "x"), ("Proxy-Authenticate", "x"),
        ("Cache-Control", 'max-age=60, no-cache="d, e"'),
    )  # fmt: skip
    assert [name for name, _ in stored_headers(response, SHARED)] == [b"c", b"cache-control"]


@pytest.mark.parametrize(
    ("says", "second", "after", "serves"),
    [
        ("max-age=1, stale-if-error=60", (), 30, True),
        ("max-age=1, stale-if-error=60", (), 62, False),
        ("max-age=1", (("Cache-Control", "stale-if-error=60"),), 30, True),
        ("max-age=1, stale-if-error=60, must-revalidate", (), 30, False),
        ("max-age=1, stale-if-error=60", (("Cache-Control", "no-cache"),), 30, False),
        ("max-age=1", (), 30, False),
    ],
)
def test_stale_if_error(says: str, second: tuple[tuple[str, str], ...], after: float, serves: bool) -> None:
    stored = Stored(head(*cc(says)), b"")
    assert serves_on_error(stored, request(*second), SHARED, NOW + after) is serves


# -- validation -----------------------------------------------------------------------------------------


def test_a_validation_has_our_validators_and_not_the_conditions_of_the_client() -> None:
    stored = Stored(head(*cc("max-age=1", ETAG, ("Last-Modified", "x"))), b"")
    given = fields(("Abc", "1"), ("If-None-Match", '"theirs"'), ("Range", "bytes=0-"), ("If-Range", '"q"'))
    assert conditional(given, stored) == fields(
        ("Abc", "1"), ("If-None-Match", '"abcd"'), ("If-Modified-Since", "x")
    )
    assert conditional(given, Stored(head(*cc("max-age=1")), b"")) is None


def test_a_304_updates_the_fields_but_not_what_describes_the_content() -> None:
    stored = Stored(head(("A", "1"), ("B", "1"), ("Age", "9"), ("Content-Length", "3")), b"abc")
    fresh = freshen(stored, head(("A", "2"), ("A", "3"), ("Content-Length", "0"), status=304, at=NOW + 5))
    assert fresh.head.status == 200
    assert fresh.body == b"abc"
    assert fresh.head.received_at == NOW + 5
    assert list(fresh.head.headers) == fields(("B", "1"), ("Content-Length", "3"), ("A", "2"), ("A", "3"))


# -- answers --------------------------------------------------------------------------------------------

PAGE = Stored(
    head(
        *cc("max-age=3600", ETAG, ("Content-Type", "text/plain"), ("Content-Length", "10")),
        ("Last-Modified", "Tue, 14 Nov 2023 20:13:20 GMT"),
    ),
    b"0123456789",
)


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ((), 200, b"0123456789"),
        ((("If-None-Match", '"abcd"'),), 304, b""),
        ((("If-None-Match", 'W/"abcd"'),), 304, b""),
        ((("If-None-Match", '"x", "abcd", "y"'),), 304, b""),
        ((("If-None-Match", "*"),), 304, b""),
        ((("If-None-Match", '"x"'),), 200, b"0123456789"),
        (
            (("If-None-Match", '"x"'), ("If-Modified-Since", "Tue, 14 Nov 2023 21:13:20 GMT")),
            200,
            b"0123456789",
        ),
        ((("If-None-Match", '"abcd"'), ("If-Modified-Since", "Tue, 14 Nov 2023 10:13:20 GMT")), 304, b""),
        ((("If-Modified-Since", "Tue, 14 Nov 2023 20:13:20 GMT"),), 304, b""),
        ((("If-Modified-Since", "Tuesday, 14-Nov-23 20:13:20 GMT"),), 304, b""),
        ((("If-Modified-Since", "Tue, 14 Nov 2023 20:13:19 GMT"),), 200, b"0123456789"),
        ((("If-Modified-Since", "yesterday"),), 200, b"0123456789"),
        ((("Range", "bytes=0-1"),), 206, b"01"),
        ((("Range", "bytes=1-"),), 206, b"123456789"),
        ((("Range", "bytes=-3"),), 206, b"789"),
        ((("Range", "bytes=-30"),), 206, b"0123456789"),
        ((("Range", "bytes=5-99999999999999999999999"),), 206, b"56789"),
        ((("Range", "bytes=10-"),), 416, b""),
        ((("Range", "bytes=-0"),), 416, b""),
        ((("Range", "bytes=0-1,3-4"),), 200, b"0123456789"),
        ((("Range", "bytes=4-2"),), 200, b"0123456789"),
        ((("Range", "lines=0-1"),), 200, b"0123456789"),
        ((("Range", "bytes=0-1"), ("If-Range", '"abcd"')), 206, b"01"),
        ((("Range", "bytes=0-1"), ("If-Range", 'W/"abcd"')), 200, b"0123456789"),
        ((("Range", "bytes=0-1"), ("If-Range", '"old"')), 200, b"0123456789"),
        ((("Range", "bytes=0-1"), ("If-Range", "Tue, 14 Nov 2023 20:13:20 GMT")), 206, b"01"),
        ((("Range", "bytes=0-1"), ("If-None-Match", '"abcd"')), 304, b""),
    ],
)
def test_the_answer(asked: tuple[tuple[str, str], ...], status: int, body: bytes) -> None:
    made = answer(PAGE, request(*asked), 7.9)
    assert (made.status, made.body) == (status, body)
    sent = dict(made.headers)
    assert len(sent) == len(made.headers)  # no field twice
    assert sent[b"age"] == b"7"
    assert sent[b"etag"] == b'"abcd"'
    if status == 304:
        assert b"content-length" not in sent
    else:
        assert int(sent[b"content-length"]) == len(body)
    if status == 206:
        first, _, rest = sent[b"content-range"].removeprefix(b"bytes ").partition(b"-")
        assert rest == b"%d/10" % (int(first) + len(body) - 1)
    if status == 416:
        assert sent[b"content-range"] == b"bytes */10"


def test_head_is_answered_by_the_stored_get() -> None:
    made = answer(PAGE, request(method="HEAD"), 0)
    assert (made.status, made.body) == (200, b"")
    assert dict(made.headers)[b"content-length"] == b"10"


def test_a_stored_error_is_no_304() -> None:
    stored = Stored(head(*cc("max-age=3600", ETAG), status=404), b"gone")
    assert answer(stored, request(("If-None-Match", '"abcd"')), 0).status == 404


# -- invalidation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [("POST", 200, True), ("PUT", 303, True), ("DELETE", 500, False), ("PUT", 404, False),
     ("M-SEARCH", 204, True), ("GET", 200, False), ("HEAD", 200, False), ("OPTIONS", 200, False)],
)  # fmt: skip
def test_which_requests_invalidate(method: str, status: int, expected: bool) -> None:
    assert invalidates(method, status) is expected


@pytest.mark.parametrize(
    ("asked", "named", "is_same"),
    [
        ("http://h/a", "http://h:80/b", True),
        ("http://h:80/a", "http://h/b", True),
        ("https://h/a", "https://H:443/b", True),
        ("http://h/a", "http://h:/b", True),
        ("http://h/a", "http://h:443/b", False),
        ("https://h/a", "https://h:80/b", False),
        ("http://h:8080/a", "http://h/b", False),
        ("http://h/a", "https://h:80/b", False),
    ],
)
def test_a_default_port_names_no_other_origin(asked: str, named: str, is_same: bool) -> None:
    urls = invalidated_urls(Request("POST", asked, ()), fields(("Location", named)))
    assert urls == ({named} if is_same else set())
    assert not urls or tag_of_url(named) == tag_of_url(asked[:-1] + "b")


def test_only_urls_of_the_same_origin_are_invalidated() -> None:
    asked = Request("POST", "http://example.com/a/b?c", ())
    sent = fields(
        ("Location", "c#x"), ("Content-Location", "/d?e"), ("Location", "http://evil.example/a"),
        ("Location", "https://example.com/a"), ("Location", "http://EXAMPLE.com/f"), ("Location", "http://[x"),
    )  # fmt: skip
    assert invalidated_urls(asked, sent) == {
        "http://example.com/a/c", "http://example.com/d?e", "http://EXAMPLE.com/f"
    }  # fmt: skip
