"""The names on the server: what belongs together, what is told apart, what the server is asked for."""

from __future__ import annotations

import re
from typing import Any

from exploring import explored
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from cachekit.model.patterns import literal_beginning
from cachekit.tiers.redis.key_layout import BUCKETS, Layout

TOKENS = frozenset(Layout("p:").tokens())
KEYS = st.text(st.characters(codec=None), max_size=20)
PREFIXES = st.text(st.characters(blacklist_characters="{}"), min_size=1, max_size=8)


@given(PREFIXES, KEYS)
@example("a:", "}{b}")
def test_a_value_and_its_token_are_neighbours(prefix: str, key: str) -> None:
    """In a Cluster they share a slot, whatever the key; and the key can be read from the name."""
    layout = Layout(prefix)
    value, token = layout.names(key)
    assert key_slot(value) == key_slot(token)
    assert layout.key(value) == key
    assert layout.key(token) is None


@given(PREFIXES, KEYS, KEYS, KEYS)
def test_names_are_told_apart(prefix: str, key: str, other: str, tag: str) -> None:
    """No two keys, tags and tokens have one name."""
    layout = Layout(prefix)
    assert (layout.value(key) == layout.value(other)) == (key == other)
    assert layout.tag(tag) not in (layout.value(key), layout.names(key)[1])
    assert layout.key(layout.tag(tag)) is None
    assert layout.is_tag(layout.tag(tag))
    assert not layout.is_tag(layout.names(key)[1])


@given(KEYS)
def test_every_token_is_one_of_the_bounded_number(key: str) -> None:
    """So that they can all be changed."""
    assert Layout("p:").names(key)[1] in TOKENS


def test_buckets_are_spread_over_a_cluster() -> None:
    """A third of them on each of three masters, about."""
    slots = [key_slot(name) * 3 // 16384 for name in Layout("p:").tokens()]
    assert len(slots) == BUCKETS
    assert all(0.30 < slots.count(master) / BUCKETS < 0.37 for master in range(3))


def test_other_names_are_nobodys_keys() -> None:
    """What does not have the form, or is no UTF-8, is not taken for ours."""
    layout = Layout("p:")
    for name in (b"p:{1}", b"p:{x}:k", b"q:{1}:k", b"p:{1}:\xff", b"p:k", b"xp:{1}:k"):
        assert layout.key(name) is None


PIECES = st.sampled_from(
    [
        "user", ":", "a", "b", "Z9", "_", "-", " ", ".", ".*", "?", "*", "+", "{2}", "{,3}", "{", "[ab]",
        "(a|b)", "|", "^", "$", r"\.", r"\d", r"\\", r"\*", r"\-", "(?:x)", "(?i)", "(?x)", r"\Z", r"\b",
        "é", "🔑", "\n", "#",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=7).map("".join), st.data())
@explored(examples=0.5)
@example("user:?", None)
@example("ab{0}c", None)
@example("a|b", None)
@example("(?i)user:", None)
@example("^user", None)
def test_every_match_begins_so(pattern: str, data: Any) -> None:
    """Whatever a pattern matches begins with what the server is asked for: nothing is overlooked."""
    try:
        expression = re.compile(pattern)
    except (re.error, DeprecationWarning):
        return
    beginning = literal_beginning(pattern)
    candidates = ["", "use", "user", "user:", "USER:", "ac", "b", "a", "user:é.1", "user-a b"]
    if data is not None:
        try:
            candidates.append(data.draw(st.from_regex(expression)))
        except Exception:
            candidates.append(pattern)
    for key in candidates:
        if expression.match(key):
            assert key.startswith(beginning)


def test_the_server_is_asked_for_what_is_plain() -> None:
    """The beginning of the usual patterns is found."""
    assert literal_beginning("user:") == "user:"
    assert literal_beginning(r"^user:\d+$") == "user:"
    assert literal_beginning(r"a\.b\*.*") == "a.b*"
    assert literal_beginning("/shop/item-1?") == "/shop/item-"
