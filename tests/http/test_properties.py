"""Properties of the HTTP decisions over arbitrary header fields."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

from hypothesis import given
from hypothesis import strategies as st

from cachekit.http.answers import answer
from cachekit.http.fields import (
    MOST_SECONDS,
    Headers,
    byte_range,
    delta_seconds,
    directives,
    http_date,
    is_sound,
    members,
    structured_directives,
)
from cachekit.http.rfc9111 import (
    Head,
    Policy,
    Request,
    Reuse,
    Stored,
    bypass,
    conditional,
    current_age,
    freshen,
    invalidated_urls,
    judge,
    keep_for,
    may_answer,
    refusal,
    serves_on_error,
    stored_headers,
    variant,
    vary_names,
)

NOW = 1_700_000_000.0

#: Text in which the parts of field values are frequent.
VALUES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "max-age",
                "s-maxage",
                "=",
                ",",
                " ",
                '"',
                "\\",
                ";",
                "private",
                "public",
                "no-store",
                "no-cache",
                "must-revalidate",
                "must-understand",
                "stale-if-error",
                "stale-while-revalidate",
                "60",
                "0",
                "-1",
                "*",
                "W/",
                '"a"',
                "bytes=",
                "-",
                "foo",
                "Thu, 18 Aug 2050 02:01:18 GMT",
                "/x",
                "http://h/",
            ]
        ),
        st.text(st.characters(max_codepoint=255), max_size=3),
    ),
    max_size=8,
).map(lambda parts: "".join(parts).encode("latin-1"))

NAMES = st.sampled_from([
    b"cache-control", b"cdn-cache-control", b"expires", b"age", b"date", b"etag", b"last-modified", b"vary",
    b"set-cookie", b"content-length", b"connection", b"range", b"if-range", b"if-none-match", b"foo",
    b"if-modified-since", b"authorization", b"cookie", b"pragma", b"location", b"content-location",
])  # fmt: skip
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
POLICIES = st.builds(
    Policy, shared=st.booleans(), strict=st.booleans(), default_ttl=st.none() | st.floats(0, 1e6),
    obeys_requests=st.booleans(),
)  # fmt: skip
STATUSES = st.sampled_from([200, 204, 206, 301, 304, 404, 412, 416, 500, 503, 599])


def asked(headers: Headers, method: str = "GET") -> Request:
    return Request(method, "http://example.com/a", headers)


@given(HEADERS, HEADERS, STATUSES, POLICIES, st.binary(max_size=20), st.integers(0, 10**6))
def test_no_field_raises_an_error_and_no_answer_is_malformed(
    sent: Headers, received: Headers, status: int, policy: Policy, body: bytes, after: int
) -> None:
    request, head = asked(sent), Head(status, received, NOW, NOW)
    stored = Stored(Head(status, stored_headers(head, policy), NOW, NOW), body)
    bypass(request)
    may_answer(stored, request, policy)
    refused = refusal(request, head, policy)
    judged = judge(stored, request, policy, NOW + after)
    serves_on_error(stored, request, policy, NOW + after)
    assert keep_for(request, head, policy) >= 0
    assert judged.age >= after
    invalidated_urls(request, received)
    variant(vary_names(received) or (), request)
    conditional(sent, stored)
    freshen(stored, head)
    made = answer(stored, request, judged.age)
    assert made.status in {status, 304, 206, 416}
    assert len(made.body) <= len(body)
    if refused is None:
        assert is_sound(made.headers)


@given(HEADERS, HEADERS, st.sampled_from(["private", "no-store"]), st.booleans(), st.data())
def test_a_shared_cache_never_stores_what_is_private(
    sent: Headers, received: list[tuple[bytes, bytes]], word: str, strict: bool, data: st.DataObject
) -> None:
    received = [
        pair for pair in received if pair[0] not in {b"cdn-cache-control", b"cache-control"}
    ]  # which may override it, or end inside a string
    others = st.sampled_from([b"public", b"s-maxage=9", b"max-age=60", b'x="a, b"', b"must-revalidate"])
    around = data.draw(st.lists(others, max_size=3))
    case = "".join(data.draw(st.sampled_from([str.upper, str.lower]))(letter) for letter in word).encode()
    around.insert(data.draw(st.integers(0, len(around))), case)
    joined = data.draw(st.booleans())
    values = [data.draw(st.sampled_from([b",", b" , ", b",,"])).join(around)] if joined else around
    head = Head(200, [*received, *((b"cache-control", value) for value in values)], NOW, NOW)
    assert refusal(asked(sent), head, Policy(strict=strict)) is not None


@given(HEADERS, HEADERS)
def test_credentials_and_cookies_are_stored_only_by_permission(sent: Headers, received: Headers) -> None:
    permissions = (b"public", b"s-maxage", b"must-revalidate")
    received = [pair for pair in received if not any(word in pair[1].lower() for word in permissions)]
    head = Head(200, received, NOW, NOW)
    assert refusal(asked([*sent, (b"authorization", b"x")]), head, Policy()) is not None
    received = [pair for pair in received if pair[0] != b"cdn-cache-control"]
    head = Head(200, [*received, (b"set-cookie", b"a=b")], NOW, NOW)
    assert refusal(asked(sent), head, Policy()) is not None
    received = [pair for pair in received if pair[0] != b"vary"]
    head = Head(200, received, NOW, NOW)
    assert refusal(asked([*sent, (b"cookie", b"a=b")]), head, Policy()) is not None


@given(HEADERS, POLICIES, st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_response_only_ages(received: Headers, policy: Policy, first: float, more: float) -> None:
    stored = Stored(Head(200, received, NOW, NOW), b"")
    assert current_age(stored.head, NOW + first) <= current_age(stored.head, NOW + first + more)
    if judge(stored, asked([]), policy, NOW + first + more).reuse is Reuse.FRESH:
        assert judge(stored, asked([]), policy, NOW + first).reuse is Reuse.FRESH


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), VALUES), max_size=4))
def test_requests_without_the_selecting_fields_differ_from_those_with_them(sent: Headers) -> None:
    values = variant(("a", "b"), asked(sent))
    assert [value is None for value in values] == [
        not any(name == wanted for name, _ in sent) for wanted in (b"a", b"b")
    ]


@given(VALUES.map(lambda value: value.decode("latin-1")), st.integers(0, 30))
def test_a_range_is_inside_the_content(value: str, length: int) -> None:
    part = byte_range(value, length)
    if not isinstance(part, bool):
        assert 0 <= part[0] < part[1] <= length


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 150))
def test_a_valid_range_is_served(first: int, last: int, length: int) -> None:
    part = byte_range(f"bytes={first}-{last}", length)
    if last < first:
        assert part is True  # not valid
    elif first >= length:
        assert part is False
    else:
        assert part == (first, min(last + 1, length))


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_a_date_is_read_as_it_was_written(when: datetime) -> None:
    aware = when.replace(microsecond=0, tzinfo=UTC)
    assert (
        http_date(format_datetime(aware, usegmt=True))
        == (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    )


@given(st.text(max_size=30))
def test_any_text_is_a_date_or_not(value: str) -> None:
    http_date(value)


@given(st.integers(0, 10**40), st.integers(0, 5))
def test_seconds_are_bounded(number: int, zeros: int) -> None:
    assert delta_seconds("0" * zeros + str(number)) == min(number, MOST_SECONDS)


KEYS = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True).filter(lambda key: "age" not in key)


@given(st.dictionaries(KEYS, st.sampled_from(["", "=5", '="a, b"', "=tok", "=?1", "=1.5", ";p=1", '="a";p'])))
def test_a_structured_dictionary_keeps_its_members(parts: dict[str, str]) -> None:
    found = structured_directives(", ".join(key + rest for key, rest in parts.items()))
    assert set(found or ()) == set(parts)


@given(VALUES.map(lambda value: value.decode("latin-1")))
def test_a_broken_dictionary_is_refused_as_a_whole(value: str) -> None:
    assert structured_directives(f"max-age=5, {value}, &") is None
    structured_directives(value)


@given(st.lists(st.from_regex(r'[a-z]+|"([a-z, ]|\\"){0,5}"', fullmatch=True), min_size=1))
def test_a_list_is_split_outside_of_strings(parts: list[str]) -> None:
    assert members(" , ".join(parts)) == parts


def test_a_hostile_list_takes_linear_time() -> None:
    for value in ('\\"' * 200_000, '"' * 200_001, "," * 200_000, '"\\' * 200_000 + "\\"):
        members(value)
        directives(value)
        structured_directives(value)
        byte_range(value, 5)
        http_date(value)
