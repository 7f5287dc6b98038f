"""Every text that a key or a tag may be, through a real server and over its bus."""

from __future__ import annotations

from bus_notes import Notes
from redis_server import wait_until

from cachekit import CacheEntry, RedisCache

TEXTS = (
    "plain", "a b", "line\nend\r\n", "\0", "", "\ud800", "ü", "\U0001f600", "{1}", "#", "*?[x]", "x" * 300_000
)  # fmt: skip


def test_through_the_server(redis_url: str, prefix: str) -> None:
    """Every text that a key or tag may be comes back as it was."""
    with RedisCache(url=redis_url, key_prefix=prefix, timeout=60) as cache:
        for text in TEXTS:
            cache.set(text, CacheEntry(text, text, tags={text}))
        assert sorted(cache.keys()) == sorted(TEXTS)
        for text in TEXTS:
            entry = cache.get(text)
            assert entry is not None
            assert (entry.key, entry.value, entry.tags) == (text, text, frozenset({text}))
        for text in TEXTS:
            cache.invalidate_by_tags({text})
            assert cache.get(text) is None


def test_over_the_bus(redis_url: str, prefix: str) -> None:
    """A listener learns of exactly this key and tag; of one that is too long for a message, of all."""
    notes = Notes()
    with (
        RedisCache(url=redis_url, key_prefix=prefix, timeout=60) as cache,
        RedisCache(url=redis_url, key_prefix=prefix, timeout=60) as other,
    ):
        end = cache.subscribe(notes)
        wait_until(notes.has(2), "the bus is there")
        for text in TEXTS:
            other.set(text, CacheEntry(text, 1))
            other.invalidate_by_tags({text})
        other.set_value("x" * (1 << 20), 1)
        other.set_value("last", 1)
        wait_until(lambda: ("keys", ["last"]) in notes.told, "all have come")
        end()
    told = notes.told[2:]
    assert [body for kind, body in told if kind == "keys"] == [[text] for text in [*TEXTS, "last"]]
    assert [body for kind, body in told if kind == "tags"] == [[text] for text in TEXTS]
    assert notes.gaps == 3
