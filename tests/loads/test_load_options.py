"""LoadOptions: what they refuse, and that a cache refuses what its tiers cannot carry out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachekit import FileCache, IntelligentCache, LoadOptions, MemoryCache, RedisCache, cache_result
from cachekit.loading.options import OFF


def test_all_is_off_unless_said() -> None:
    """Options are equal by what they say, frozen, hashable, and pickle."""
    some = LoadOptions(soft_timeout=1, lease="process")
    assert LoadOptions() == OFF
    assert repr(LoadOptions()) == "LoadOptions()"
    assert repr(some) == "LoadOptions(soft_timeout=1, lease='process')"
    assert some == LoadOptions(soft_timeout=1.0, lease="process") != OFF
    assert hash(some) == hash(LoadOptions(soft_timeout=1, lease="process"))
    assert pickle.loads(pickle.dumps(some)) == some
    assert some.shared_by("thread") == LoadOptions(soft_timeout=1)
    with pytest.raises(AttributeError, match="frozen"):
        some.lease = "thread"
    with pytest.raises(AttributeError, match="frozen"):
        del some.lease


def test_options_are_checked(subtests: pytest.Subtests) -> None:
    rows: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"soft_timeout": 0}, ValueError, r"soft_timeout must be from 0.001 to 1e\+09 seconds, not 0; None"),
        ({"hard_timeout": float("nan")}, ValueError, "hard_timeout must be from 0.001"),
        ({"hard_timeout": float("inf")}, ValueError, "hard_timeout must be from 0.001 to 1e"),
        ({"hard_timeout": 1e10}, ValueError, "hard_timeout must be from 0.001 to 1e.*, not 10000000000.0"),
        ({"lease_timeout": 0.0005}, ValueError, "lease_timeout must be from 0.001 to 1e.*, not 0.0005"),
        ({"hard_timeout": "1"}, TypeError, "hard_timeout must be a number of seconds, not '1' of type str"),
        ({"lease_timeout": None}, TypeError, "lease_timeout must be a number of seconds, not None"),
        ({"refresh_ahead": 1}, ValueError, "refresh_ahead is the last part of a life, from 0 to less than 1"),
        ({"refresh_ahead": True}, TypeError, "refresh_ahead must be a number, not True"),
        ({"lease": "host"}, ValueError, "lease must be one of 'thread', 'process', 'fleet', not 'host'"),
        ({"max_concurrent_loads": 0}, ValueError, "max_concurrent_loads must be at least 1, not 0; None"),
        ({"max_concurrent_loads": 1.5}, TypeError, "max_concurrent_loads must be an int or None, not 1.5"),
    ]
    for said, error, message in rows:
        with subtests.test(said=said), pytest.raises(error, match=message):
            LoadOptions(**said)


def test_refreshing_ahead_needs_memory(tmp_path: Path) -> None:
    """Whose copies it looks at; without it, it would be said and do nothing."""
    file = FileCache(tmp_path, 1)
    with pytest.raises(ValueError, match="refresh_ahead needs a memory tier"):
        IntelligentCache(None, file_cache=file, load=LoadOptions(refresh_ahead=0.1))
    with IntelligentCache(None, file_cache=file) as cache:
        for ask in ASK[:2]:
            with pytest.raises(ValueError, match="refresh_ahead needs a memory tier"):
                ask(cache, {"load": LoadOptions(refresh_ahead=0.1)})


ASK: list[Callable[[IntelligentCache, dict[str, Any]], object]] = [
    lambda cache, said: cache.get_or_set("k", int, **said),
    lambda cache, said: cache.get_or_set_many(["k"], lambda keys: dict.fromkeys(keys, 0), **said),
    lambda cache, said: cache.cached(**said)(test_all_is_off_unless_said),
]


def test_what_stands_beside_the_key_is_checked(subtests: pytest.Subtests) -> None:
    """On every way in, whether or not the key is there."""
    rows: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"stale_ttl": -1}, ValueError, "stale_ttl must be 0 or more, not -1"),
        ({"stale_ttl": "x"}, TypeError, "stale_ttl must be seconds"),
        ({"jitter": 1}, ValueError, "jitter is the share of a ttl .*, from 0 to less than 1, not 1"),
        ({"jitter": "x"}, TypeError, "jitter must be a number, not 'x'"),
        ({"load": {"lease": "process"}}, TypeError, r"load must be LoadOptions\(...\), not"),
    ]
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        cache.set("k", 1)
        for number, ask in enumerate(ASK):
            for said, error, message in rows:
                with subtests.test(said=said, way=number), pytest.raises(error, match=message):
                    ask(cache, said)


def test_an_option_that_needs_a_tier_is_refused_without_it(subtests: pytest.Subtests) -> None:
    """For a cache when it is made, for a call when it is made."""
    rows: list[tuple[LoadOptions, str]] = [
        (LoadOptions(lease="process"), r"lease='process' needs a directory, .* file_cache=FileCache"),
        (LoadOptions(lease="fleet"), r"lease='fleet' needs a server, .* redis_cache=RedisCache"),
        (LoadOptions(max_concurrent_loads=2), r"max_concurrent_loads needs a directory, .* file_cache="),
    ]
    for options, message in rows:
        with subtests.test(options=options):
            with pytest.raises(ValueError, match=message):
                IntelligentCache(MemoryCache(), file_cache=None, load=options)
            with IntelligentCache(MemoryCache(), file_cache=None) as cache:
                with pytest.raises(ValueError, match=message):
                    cache.get_or_set("k", int, load=options)
                with pytest.raises(ValueError, match=message):
                    cache.get_or_set_many(["k"], lambda keys: {}, load=options)

                @cache_result(cache=cache, load=options)
                def answer() -> int:
                    return 1

                with pytest.raises(ValueError, match=message):
                    answer()


def test_stale_values_need_a_memory_tier(tmp_path: Path) -> None:
    cache = IntelligentCache(None, file_cache=FileCache(tmp_path / "d", 64))
    with cache, pytest.raises(ValueError, match="stale_ttl needs a memory tier"):
        cache.get_or_set("k", int, stale_ttl=1)


def test_options_are_those_of_the_call_or_else_of_the_cache(
    tmp_path: Path, make_cache: Callable[..., RedisCache]
) -> None:
    """A cache with all tiers takes all of them, and pickles with them."""
    options = LoadOptions(lease="fleet", max_concurrent_loads=2)
    with IntelligentCache(
        MemoryCache(), make_cache(), FileCache(tmp_path / "d", 64), load=options, close_tiers=False
    ) as cache:
        assert cache.get_or_set("k", lambda: 1) == 1
        assert cache.get_or_set("j", lambda: 2, load=LoadOptions(lease="process")) == 2
        made = cache.__reduce__()[1]
        assert options in made
        cache.file_cache.close()  # type: ignore[union-attr]
