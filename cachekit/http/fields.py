"""Header fields of HTTP: lists, cache directives, dates, entity tags, ranges and structured dictionaries.

Names are lower-case bytes, as ASGI has them. Nothing here does I/O, reads a clock or knows of a cache.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

#: Pairs of a lower-case name and a value.
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

#: The directives of a `Cache-Control` field by lower-case name; None for one without a value.
Directives: TypeAlias = Mapping[str, str | None]

#: Field values whose meaning is remembered: a site has few of them.
_PARSED: Final = 512
#: A client may send other ones: longer values are not remembered.
_LONGEST_KNOWN: Final = 256
_LONGEST_DATE: Final = 40

#: RFC 9110, section 5.6.2.
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
#: Members of a list: commas inside a quoted string do not separate them (RFC 9110, section 5.6.1).
#: A string that does not end reaches to the end of the value, so that the search takes linear time.
_MEMBER: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?\Z))+', re.DOTALL)

_DIGITS: Final = re.compile(r"[0-9]+")
#: RFC 9111, section 1.2.2: what is larger counts as this.
MOST_SECONDS: Final = 1 << 31

#: Fields of one connection, which are neither stored nor forwarded (RFC 9111, section 3.1; RFC 9110, 7.6.1).
HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authentication-info",
    b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip


def lines(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of every line of a field."""
    return [value for field, value in headers if field == name]


def hyphenated(name: bytes) -> bytes:
    """Return the name with `-` for `_`: WSGI and CGI give applications both as one variable."""
    return name.replace(b"_", b"-")


def combined(headers: Headers, name: bytes) -> bytes | None:
    """Return the value of a field with its lines joined by commas (RFC 9110, section 5.2), or None."""
    values = [value for field, value in headers if field == name]
    if len(values) == 1:
        return values[0].strip(b" \t")
    return b", ".join([value.strip(b" \t") for value in values]) if values else None


def text(headers: Headers, name: bytes) -> str:
    """Return the joined value of a field as text; empty if the field is absent."""
    return (combined(headers, name) or b"").decode("latin-1")


def members(value: str) -> list[str]:
    """Return the members of a comma-separated list, without empty ones."""
    return [member for part in _MEMBER.findall(value) if (member := part.strip(" \t"))]


def tokens(headers: Headers, name: bytes) -> frozenset[str]:
    """Return the members of a list of case-insensitive tokens, in lower case."""
    return frozenset(member.lower() for member in members(text(headers, name)))


def is_sound(headers: Headers) -> bool:
    """Return whether no name or value could end its line early, so that no field smuggles in another one."""
    names = [name for name, _ in headers]
    if not all(names) or not _TOKEN.fullmatch(b"".join(names) or b"x"):
        return False
    return not _CONTROL.search(b"".join([value for _, value in headers]))


def size_of(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the bytes of the fields, as HTTP/1.1 writes them."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


# -- seconds and dates ----------------------------------------------------------------------------------


def delta_seconds(value: str | None) -> int | None:
    """Return a number of seconds (RFC 9111, section 1.2.2); None if the value is not one."""
    if value is None or not _DIGITS.fullmatch(value):
        return None
    return MOST_SECONDS if len(value.lstrip("0")) > 10 else min(int(value), MOST_SECONDS)


_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
#: The three forms of RFC 9110, section 5.6.7. Anything else is no date.
_DATES: Final = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"(?:mon|tue|wed|thu|fri|sat|sun), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} gmt",
        rf"(?:mon|tues|wednes|thurs|fri|satur|sun)day, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) "
        rf"{_TIME} gmt",
        rf"(?:mon|tue|wed|thu|fri|sat|sun) {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)


def http_date(value: str) -> int | None:
    """Return an HTTP date in seconds since 1970; None if the value is not one.

    A year of two digits is from 1970 to 2069.
    """
    return _http_date(value) if len(value) <= _LONGEST_DATE else None


@lru_cache(_PARSED)
def _http_date(value: str) -> int | None:
    for form in _DATES:
        if found := form.fullmatch(value):
            year = int(found["year"])
            if len(found["year"]) == 2:
                year += 1900 if year >= 70 else 2000
            day, month = int(found["day"]), _MONTHS.index(found["month"].lower()) + 1
            hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"])
            if not (year and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
                return None
            return timegm((year, month, day, hour, minute, second))
    return None


# -- directives -----------------------------------------------------------------------------------------


#: Directives that may list fields (RFC 9111, sections 5.2.2.4 and 5.2.2.7).
_OF_FIELDS: Final = frozenset({"private", "no-cache"})
#: A name of a field. `*`, `1` and `true` are none: they say that the directive holds.
_FIELD: Final = re.compile(r"(?!true\Z)[a-z][a-z0-9_\-]*", re.IGNORECASE)


def directives(value: str) -> Directives:
    """Return the directives of a `Cache-Control` field (RFC 9111, section 5.2).

    If a directive occurs more than once, the smaller number counts, and a value that is no number before any
    number: section 4.2.1 lets a cache treat such a response as stale.
    """
    return _known_directives(value) if len(value) <= _LONGEST_KNOWN else _directives(value)


def _directives(value: str) -> Directives:
    found: dict[str, str | None] = {}
    for member in members(value):
        name, equals, argument = member.partition("=")
        name = name.strip(" \t").lower()
        given = _argument(name, argument) if equals else None
        if name not in found:
            found[name] = given
            continue
        before = found[name]
        if before is None:  # without a list of fields, it concerns all of them
            continue
        if given is None:
            found[name] = None
        elif name in _OF_FIELDS:
            found[name] = f"{before},{given}"
        else:
            first, second = delta_seconds(before), delta_seconds(given)
            found[name] = before if first is None or (second is not None and first <= second) else given
    return found


def _argument(name: str, value: str) -> str | None:
    """Return the argument of a directive; None for a list of fields that names none, which concerns all."""
    if name not in _OF_FIELDS:
        return unquoted(value)
    given = unquoted(value.strip(" \t"))
    listed = members(given)
    return given if listed and all(map(_FIELD.fullmatch, listed)) else None


_known_directives: Final = lru_cache(_PARSED)(_directives)


def unquoted(value: str) -> str:
    """Return the text of a quoted string (RFC 9110, section 5.6.4), and any other value unchanged."""
    if len(value) >= 2 and value[0] == '"' and value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


# RFC 9651: an item is a string, number, token, byte sequence or boolean, with parameters.
_SF_KEY: Final = r"[a-z*][a-z0-9_\-.*]*"
_SF_ITEM: Final = (
    r'(?:"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"|-?[0-9]{1,15}(?:\.[0-9]{1,3})?'
    r"|[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*|:[A-Za-z0-9+/=]*:|\?[01])"
)
_SF_PARAMETERS: Final = rf"(?:; *{_SF_KEY}(?:={_SF_ITEM})?)*"
_SF_MEMBER: Final = re.compile(rf"(?P<key>{_SF_KEY})(?:=(?P<item>{_SF_ITEM}))?{_SF_PARAMETERS}")


def structured_directives(value: str) -> Directives | None:
    """Return the directives of a targeted field, which is a structured dictionary (RFC 9213, section 2.1).

    Returns:
        None if the field is empty or not a valid dictionary, so that it counts as absent. A directive of the
        wrong type is left out.
    """
    found: dict[str, str | None] = {}
    rest = value.strip(" ")
    while rest:
        member = _SF_MEMBER.match(rest)
        if member is None:
            return None
        key, item = member["key"], member["item"]
        found.pop(key, None)
        if item is None or item == "?1":
            if key not in _NUMBERS:
                found[key] = None
        elif key in _NUMBERS:
            if _DIGITS.fullmatch(item):
                found[key] = item
        elif item != "?0":
            found[key] = _argument(key, item)
        rest = rest[member.end() :].lstrip(" \t")
        if rest:
            if rest[0] != ",":
                return None
            rest = rest[1:].lstrip(" \t")
            if not rest:  # a comma at the end
                return None
    return found or None


#: Directives whose value is a number of seconds.
_NUMBERS: Final = frozenset({"max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"})


# -- entity tags and ranges -----------------------------------------------------------------------------

_ETAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def etag_matches(condition: str, etag: str) -> bool:
    """Return whether an `If-None-Match` value names the entity tag, by weak comparison (RFC 9110, 13.1.2)."""
    if condition.strip(" \t") == "*":
        return True
    given = _ETAG.findall(condition)
    # An entity tag without quotes is invalid, and equal only to itself.
    return opaque(etag) in {opaque(one) for one in given} or etag == condition


def is_strong(etag: str) -> bool:
    """Return whether the entity tag is a strong validator (RFC 9110, section 8.8.1)."""
    return _ETAG.fullmatch(etag) is not None and etag[0] == '"'


def opaque(etag: str) -> str:
    """Return what weak comparison compares (RFC 9110, section 8.8.3.2)."""
    return etag.removeprefix("W/")


_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)

#: More digits than any length has; a longer number is read as this.
_MOST_DIGITS: Final = 18


def byte_range(value: str, length: int) -> tuple[int, int] | bool:
    """Return first byte and end of a `Range` of one part (RFC 9110, section 14.1.2).

    Returns:
        True if the field is to be ignored: it has several parts, another unit, or is invalid. False if no
        byte of the content is in the range.
    """
    found = _RANGE.fullmatch(value.strip(" \t"))
    if found is None:
        return True
    first, last = found.groups()
    if not first and not last:
        return True
    if not first:
        count = _bounded(last)
        return (max(0, length - count), length) if count and length else False
    begin = _bounded(first)
    end = length if not last else _bounded(last) + 1
    if end <= begin and last:
        return True
    return (begin, min(end, length)) if begin < length else False


def _bounded(digits: str) -> int:
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS
