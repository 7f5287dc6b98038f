"""`TierContract`: what every tier must do, as tests that the author of a tier inherits.

    class TestMyTier(TierContract):
        def make_tier(self, clock):
            return MyTier(clock=clock)

It uses plain asserts and does not import pytest, so `cachekit.testing` works without pytest.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cachekit.errors import CacheClosedError
from cachekit.model.entry import CacheEntry
from cachekit.model.types import FOREVER
from cachekit.testing.clock import ManualClock
from cachekit.tiers.base import InvalidatesPatterns, InvalidatesTags, Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def _raises(kind: type[Exception], *words: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        message = str(error)
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
    for word in words:
        assert word in message, f"{word!r} is missing in the message {message!r}"


class TierContract:
    """Subclass it and implement `make_tier`. Each test gets a new tier, and a clock that stands still.

    Attributes:
        lists_keys: whether the tier can list and count its entries. If not, `keys` is empty, `size` is 0, and
            an invalidation by pattern may drop more and counts nothing.
    """

    lists_keys = True

    def make_tier(self, clock: ManualClock) -> Tier:
        """Return an empty tier that reads this clock and has space for at least 100 entries."""
        raise NotImplementedError

    @contextmanager
    def _tier(self) -> Iterator[tuple[Tier, ManualClock]]:
        clock = ManualClock()
        tier = self.make_tier(clock)
        try:
            yield tier, clock
        finally:
            tier.close()

    def _entry(self, clock: ManualClock, key: str, value: object = "v", **more: object) -> CacheEntry:
        return CacheEntry(key, value, clock.time(), **more)  # type: ignore[arg-type]

    def test_it_is_a_tier(self) -> None:
        """The tier has every method of the protocol."""
        with self._tier() as (tier, _):
            assert isinstance(tier, Tier)

    def test_what_goes_in_comes_out(self) -> None:
        """Value, type, tags and time are read as they were stored; None is a value."""
        values = [None, 0, 1, True, 1.5, "", "text", b"bytes", (1, 2), [1, 2], {1, 2}, {"a": (1,)}]
        with self._tier() as (tier, clock):
            for index, value in enumerate(values):
                key = f"k{index}"
                assert tier.set(key, self._entry(clock, key, value, ttl=60, tags={"t"})) is True
                entry = tier.get(key)
                assert entry is not None
                assert entry.value == value
                assert type(entry.value) is type(value)
                assert entry.key == key
                assert entry.ttl == 60
                assert entry.tags == {"t"}
                assert entry.created_timestamp == clock.time()

    def test_unusual_keys(self) -> None:
        """Any str is a key: empty, long, of any script, with control characters."""
        keys = ["", " ", "\0", "a" * 10_000, "ключ", "🔑", "a/b\\c:d", "\ud800", "line\nbreak"]
        with self._tier() as (tier, clock):
            for index, key in enumerate(keys):
                tier.set(key, self._entry(clock, key, index))
            for index, key in enumerate(keys):
                entry = tier.get(key)
                assert entry is not None
                assert entry.value == index
            assert sorted(tier.keys()) == (sorted(keys) if self.lists_keys else [])

    def test_a_miss_is_none(self) -> None:
        """A key that was never set gives None, and counts as a miss."""
        with self._tier() as (tier, _):
            assert tier.get("nothing") is None
            assert tier.get_stats().misses == 1

    def test_replacing(self) -> None:
        """The last value set is returned."""
        with self._tier() as (tier, clock):
            tier.set("k", self._entry(clock, "k", "old", tags={"a"}))
            tier.set("k", self._entry(clock, "k", "new", tags={"b"}))
            entry = tier.get("k")
            assert entry is not None
            assert entry.value == "new"
            assert tier.size() == int(self.lists_keys)

    def test_another_keys_entry_is_refused(self) -> None:
        """An entry is stored under its own key only."""
        with self._tier() as (tier, clock), _raises(ValueError, "key"):
            tier.set("b", self._entry(clock, "a"))

    def test_expiry(self) -> None:
        """An entry is served until it expires, and not at that moment."""
        with self._tier() as (tier, clock):
            tier.set("k", self._entry(clock, "k", ttl=10))
            clock.advance(9.5)
            assert tier.get("k") is not None
            clock.advance(0.5)
            assert tier.get("k") is None
            assert list(tier.keys()) == []

    def test_forever(self) -> None:
        """Entries with FOREVER or without a TTL do not expire."""
        with self._tier() as (tier, clock):
            tier.set("a", self._entry(clock, "a", ttl=FOREVER))
            tier.set("b", self._entry(clock, "b"))
            clock.advance(1e9)
            assert tier.get("a") is not None
            assert tier.get("b") is not None

    def test_a_copy_keeps_the_age_of_its_original(self) -> None:
        """An entry created earlier lives only for the rest of its life."""
        with self._tier() as (tier, clock):
            entry = self._entry(clock, "k", ttl=10)
            clock.advance(6)
            tier.set("k", entry)
            clock.advance(3.5)
            assert tier.get("k") is not None
            clock.advance(0.5)
            assert tier.get("k") is None

    def test_an_entry_that_is_over_removes_the_key(self) -> None:
        """Storing an expired entry removes the key."""
        with self._tier() as (tier, clock):
            dead = self._entry(clock, "k", "dead", ttl=5)
            clock.advance(5)
            tier.set("k", self._entry(clock, "k", "live"))
            tier.set("k", dead)
            assert tier.get("k") is None

    def test_an_entry_from_the_future_lives_its_ttl_at_the_most(self) -> None:
        """The clock of another machine may be ahead; that prolongs no life."""
        with self._tier() as (tier, clock):
            tier.set("k", CacheEntry("k", "v", clock.time() + 1000, ttl=10))
            clock.advance(10)
            assert tier.get("k") is None

    def test_delete(self) -> None:
        """A deleted key is missing; deleting says whether it was there."""
        with self._tier() as (tier, clock):
            tier.set("k", self._entry(clock, "k"))
            assert tier.delete("k") is True
            assert tier.delete("k") is False
            assert tier.get("k") is None

    def test_clear(self) -> None:
        """No key is left."""
        with self._tier() as (tier, clock):
            for index in range(10):
                tier.set(f"k{index}", self._entry(clock, f"k{index}"))
            assert tier.clear() is True
            assert tier.size() == 0
            assert list(tier.keys()) == []

    def test_keys_with_a_pattern(self) -> None:
        """A pattern matches from the start of the key."""
        with self._tier() as (tier, clock):
            for key in ("user:1", "user:2", "superuser:1"):
                tier.set(key, self._entry(clock, key))
            if self.lists_keys:
                assert sorted(tier.keys("user:")) == ["user:1", "user:2"]
                assert sorted(tier.keys(r".*:1$")) == ["superuser:1", "user:1"]
            with _raises(ValueError, "regular expression"):
                list(tier.keys("("))

    def test_lookups_add_up(self) -> None:
        """Every lookup is a hit, a miss or unavailable."""
        with self._tier() as (tier, clock):
            tier.set("k", self._entry(clock, "k"))
            for key in ("k", "x", "k", "y"):
                tier.get(key)
            stats = tier.get_stats()
            assert (stats.hits, stats.misses, stats.unavailable, stats.sets) == (2, 2, 0, 1)

    def test_a_current_fence_lets_a_value_in(self) -> None:
        """A value that was loaded while its key and tags did not change is stored."""
        with self._tier() as (tier, clock):
            fence = tier.fence("k", {"t"})
            assert fence.is_current()
            assert tier.set_if("k", self._entry(clock, "k", tags={"t"}), fence) is True
            assert fence.is_current(), "storing a loaded value breaks no fence"
            assert tier.get("k") is not None

    def test_a_write_breaks_the_fence(self) -> None:
        """A value is refused after a set, a delete or a clear during its load."""
        with self._tier() as (tier, clock):
            writes: list[Callable[[], bool]] = [
                lambda: tier.set("k", self._entry(clock, "k", "written")),
                lambda: tier.delete("k"),
                tier.clear,
            ]
            for write in writes:
                tier.delete("k")
                fence = tier.fence("k")
                write()
                assert not fence.is_current()
                before = tier.get("k")
                assert tier.set_if("k", self._entry(clock, "k", "loaded"), fence) is False
                after = tier.get("k")
                assert (before and before.value) == (after and after.value)

    def test_an_expired_set_breaks_the_fence_too(self) -> None:
        """A set whose TTL is over is a write like any other."""
        with self._tier() as (tier, clock):
            fence = tier.fence("k")
            tier.set("k", self._entry(clock, "k", ttl=0))
            assert not fence.is_current()

    def test_other_keys_do_not_break_a_quiet_tiers_fence(self) -> None:
        """Writes of a few other keys do not break the fence."""
        with self._tier() as (tier, clock):
            fence = tier.fence("k")
            tier.set("other", self._entry(clock, "other"))
            assert tier.set_if("k", self._entry(clock, "k"), fence) is True

    def test_a_fence_is_for_its_key_and_tags(self) -> None:
        """A fence that was taken for another key or other tags is refused."""
        with self._tier() as (tier, clock):
            fence = tier.fence("k", {"t"})
            with _raises(ValueError, "key"):
                tier.set_if("other", self._entry(clock, "other"), fence)
            with _raises(ValueError, "tags"):
                tier.set_if("k", self._entry(clock, "k", tags={"t", "u"}), fence)

    def test_tags(self) -> None:
        """An invalidation by tag removes exactly its entries, and breaks the fences that name the tag."""
        with self._tier() as (tier, clock):
            if not isinstance(tier, InvalidatesTags):
                return
            tier.set("a", self._entry(clock, "a", tags={"x", "y"}))
            tier.set("b", self._entry(clock, "b", tags={"y"}))
            tier.set("c", self._entry(clock, "c"))
            fence, unconcerned = tier.fence("d", {"x"}), tier.fence("e", {"z"})
            tier.invalidate_by_tags({"x"})
            assert [tier.get(key) is None for key in "abc"] == [True, False, False]
            assert not fence.is_current()
            assert unconcerned.is_current()
            assert tier.set_if("d", self._entry(clock, "d", tags={"x"}), fence) is False
            assert tier.set_if("e", self._entry(clock, "e", tags={"z"}), unconcerned) is True

    def test_a_replaced_entrys_tags_are_forgotten(self) -> None:
        """Tags belong to the entry, not to the key."""
        with self._tier() as (tier, clock):
            if not isinstance(tier, InvalidatesTags):
                return
            tier.set("k", self._entry(clock, "k", "old", tags={"x"}))
            tier.set("k", self._entry(clock, "k", "new", tags={"y"}))
            tier.invalidate_by_tags({"x"})
            assert tier.get("k") is not None
            tier.invalidate_by_tags({"y"})
            assert tier.get("k") is None

    def test_patterns(self) -> None:
        """An invalidation by pattern removes matching keys, and breaks the fences of matching keys."""
        with self._tier() as (tier, clock):
            if not isinstance(tier, InvalidatesPatterns):
                return
            for key in ("user:1", "user:2", "page:1"):
                tier.set(key, self._entry(clock, key))
            fence = tier.fence("user:3")
            assert tier.invalidate_by_pattern("user:") == (2 if self.lists_keys else 0)
            assert [key for key in ("user:1", "user:2", "page:1") if tier.get(key)] == ["page:1"]
            assert not fence.is_current()
            assert tier.set_if("user:3", self._entry(clock, "user:3"), fence) is False

    def test_after_close(self) -> None:
        """A closed tier refuses work, may be closed again, and still returns its statistics."""
        with self._tier() as (tier, clock):
            entry = self._entry(clock, "k")
            tier.set("k", entry)
            tier.close()
            tier.close()
            with _raises(CacheClosedError):
                tier.get("k")
            with _raises(CacheClosedError):
                tier.set("k", entry)
            with _raises(CacheClosedError):
                tier.delete("k")
            assert tier.get_stats().sets == 1
