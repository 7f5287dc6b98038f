"""The memory tier bounded in bytes: `max_bytes` and `weigher`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cachekit import IntelligentCache, MemoryCache


def weight(key: str, value: object) -> int:
    assert isinstance(value, int)
    return value


class TestBytes:
    """`max_bytes` and `weigher`."""

    def test_the_estimate_is_near_what_values_take(self) -> None:
        """A thousand values of a kilobyte do not fit in half a megabyte, and 330 to 500 do."""
        with MemoryCache(10_000, max_bytes=500_000) as cache:
            for number in range(1000):
                assert cache.set_value(f"k{number}", bytes(1000))
            assert 330 <= cache.size() <= 500
            assert 490_000 < cache.memory_usage() <= 500_000
            assert cache.get_stats().evictions == 1000 - cache.size()
            assert cache.get_value("k999") is not None
            assert cache.get_value("k0") is None

    def test_a_huge_value_takes_nothing_but_its_own_key(self) -> None:
        """What takes more than a quarter is not kept, removes its key's older value, and is counted."""
        with MemoryCache(100, max_bytes=40_000) as cache:
            for number in range(20):
                cache.set_value(f"k{number}", number)
            before = cache.size()
            assert cache.set_value("k0", bytes(10_000)) is False
            assert cache.get_value("k0") is None
            assert cache.size() == before - 1
            assert cache.get_stats().oversized == 1
            assert cache.set_value("k1", bytes(9_000)) is True

    def test_a_load_that_is_too_large_is_returned_and_not_kept(self) -> None:
        """Through a cache: the caller has its value, and the next one loads again."""
        with IntelligentCache(MemoryCache(100, max_bytes=4_000), file_cache=None) as cache:
            loads = [cache.get_or_set("k", lambda: bytes(5_000)) for _ in range(2)]
            assert [len(value) for value in loads] == [5_000, 5_000]
            assert cache.get_stats()["memory"].oversized == 2
            assert cache.set("k", bytes(5_000)) is False

    def test_a_value_that_outgrows_its_place_makes_room(self) -> None:
        """Overwriting by a heavier one evicts others, and never the bound."""
        with MemoryCache(10, max_bytes=16, weigher=weight) as cache:
            for key in "abcd":
                cache.set_value(key, 4)
            cache.set_value("e", 2)
            cache.set_value("f", 2)
            assert cache.memory_usage() == 16
            cache.set_value("e", 4)
            assert cache.memory_usage() == 14
            assert sorted(cache.keys()) == ["c", "d", "e", "f"]

    @pytest.mark.parametrize(
        ("weigher", "error", "words"),
        [
            (lambda key, value: 1.5, TypeError, r"weigher must return an int, not 1\.5 .* for key #"),
            (lambda key, value: True, TypeError, "not True of type bool"),
            (lambda key, value: -1, ValueError, "weigher must return 0 or more, not -1, for key #"),
            (lambda key, value: value.size, AttributeError, "size"),
        ],
    )
    def test_a_wrong_weigher(
        self, weigher: Callable[[str, object], int], error: type[Exception], words: str
    ) -> None:
        """The error names what it returned, and reaches the caller; the older value does not stay."""

        def at_times(key: str, value: object) -> int:
            return 1 if value == "fine" else weigher(key, value)

        with MemoryCache(max_bytes=100, weigher=at_times) as cache:
            cache.set_value("k", "fine")
            cache.set_value("other", "fine")
            with pytest.raises(error, match=words):
                cache.set_value("k", 1)
            assert cache.keys() == ["other"]

    def test_wrong_arguments(self) -> None:
        """Each says what would be right."""
        with pytest.raises(TypeError, match=r"max_bytes must be an int, not '1' of type str"):
            MemoryCache(max_bytes="1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_bytes must be at least 1, not 0; use None for no limit"):
            MemoryCache(max_bytes=0)
        with pytest.raises(ValueError, match="weigher must be None without max_bytes"):
            MemoryCache(weigher=len)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"weigher must be callable as f\(key, value\) -> int, not 3"):
            MemoryCache(max_bytes=9, weigher=3)  # type: ignore[arg-type]
