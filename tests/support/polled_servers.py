"""What every tier on a server without messages must do: tests that the test class of such a tier inherits."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Barrier
from typing import Any, Protocol, TypeAlias

import pytest
from forking import in_fork
from killed_writer import killed_at
from redis_server import wait_until

from cachekit import CacheEntry, FileCache, IntelligentCache, LoadOptions, MemoryCache
from cachekit.errors import TierUnavailableError, ValueTooLargeError
from cachekit.tiers.polled import PolledTier


class Server(Protocol):
    """A server of a test's own."""

    def start(self) -> None: ...
    def signal(self, number: int) -> None: ...
    def kill(self) -> None: ...


#: What another host does.
Hook: TypeAlias = Callable[[], object]
Two: TypeAlias = tuple[PolledTier, PolledTier]


class PolledServerTests:
    """Subclass it, and say how a tier is made, and what other clients do to its items."""

    #: What a message about a value that is too large says.
    too_large: str

    def own_server(self) -> AbstractContextManager[Server]:
        """Start a server for one test."""
        raise NotImplementedError

    def make(self, prefix: str, server: Any = None, **options: Any) -> PolledTier:
        """Make a tier; on the server that all tests share, unless there is another one."""
        raise NotImplementedError

    def lose(self, tier: PolledTier, name: str) -> None:
        """Let the server drop an item that is there."""
        raise NotImplementedError

    def forge(self, tier: PolledTier, name: str, data: bytes) -> None:
        """Store bytes as another program would."""
        raise NotImplementedError

    def losing(self, prefix: str) -> AbstractContextManager[tuple[PolledTier, Callable[[Hook], None]]]:
        """Make a tier, and what breaks its connection: its next write is carried out, and has no answer.

        The hook is called between the two.
        """
        raise NotImplementedError

    @pytest.fixture
    def caches(self, prefix: str) -> Iterator[Two]:
        with self.make(prefix) as one, self.make(prefix) as two:
            yield one, two

    def test_loads_of_another_host(self, caches: Two, subtests: pytest.Subtests) -> None:
        """Each write and invalidation on one host refuses the loads in progress on another."""
        one, two = caches
        entry = CacheEntry("user:1", "loaded", tags={"t"})
        writes: dict[str, Callable[[], object]] = {
            "set": lambda: two.set_value("user:1", "new"),
            "delete": lambda: two.delete("user:1"),
            "tags": lambda: two.invalidate_by_tags({"t"}),
            "pattern": lambda: two.invalidate_by_pattern("user:"),
            "any pattern": lambda: two.invalidate_by_pattern(".*1"),
            "clear": two.clear,
            "touch": lambda: two.set_value("user:1", 1) and two.touch("user:1", 50),
        }
        for name, write in writes.items():
            with subtests.test(name=name):
                two.delete("user:1")
                origin = one.origin("user:1", frozenset({"t"}))
                write()
                assert one.add("user:1", entry, origin) is not True
                assert getattr(two.get("user:1"), "value", None) != "loaded"

    def test_a_value_of_an_earlier_generation_stays_dead(self, caches: Two) -> None:
        """Nothing brings it back, nor a load that began before."""
        one, two = caches
        one.set_value("user:1", "old", tags={"t"})
        drops: list[Callable[[], object]] = [
            two.clear,
            lambda: two.invalidate_by_tags({"t"}),
            lambda: two.invalidate_by_pattern("user:"),
        ]
        for drop in drops:
            one.set_value("user:1", "old", tags={"t"})
            origin = one.origin("user:1", frozenset({"t"}))
            drop()
            assert one.get("user:1") is None
            assert one.touch("user:1") is False
            assert one.add("user:1", CacheEntry("user:1", "old", tags={"t"}), origin) is False
            assert one.create("user:1", CacheEntry("user:1", "new"), one.successor()) is True
            assert two.get_value("user:1") == "new"

    def test_a_write_that_compares(self, caches: Two) -> None:
        """One of two writers that expect the same token stores its value."""
        one, two = caches
        one.set_value("k", 0)
        expect = one.origin("k")
        assert one.put("k", CacheEntry("k", 1), one.successor(), expect=expect) is True
        assert two.put("k", CacheEntry("k", 2), two.successor(), expect=expect) is False
        assert two.get_value("k") == 1

    def test_many_keys(self, caches: Two) -> None:
        """More than one request takes, some of them twice."""
        one, two = caches
        entries = {f"k:{number}": CacheEntry(f"k:{number}", number) for number in range(120)}
        one.put_many(entries, {key: one.successor() for key in entries})
        found = two.get_many([*entries, "absent", "k:0"])
        assert {key: entry.value for key, entry in found.items()} == {
            key: entry.value for key, entry in entries.items()
        }
        assert sorted(two.remove_many(["k:1", "absent", "k:1"])) == ["k:1"]

    def test_items_that_the_server_drops(self, prefix: str) -> None:
        """Each is a miss, and lets no older load in."""
        with self.make(prefix) as cache:
            for name in (
                cache._names.of_key("a:k"), cache._names.of_generation(), cache._names.of_segment("a"),
                cache._names.of_tag("t"),
            ):  # fmt: skip
                cache.set_value("a:k", "old", tags={"t"})
                origin = cache.origin("a:k", frozenset({"t"}))
                self.lose(cache, name)
                assert cache.get("a:k") is None
                assert cache.add("a:k", CacheEntry("a:k", "old", tags={"t"}), origin) is False
                cache.set_value("a:k", "new", tags={"t"})
                assert cache.get_value("a:k") == "new"

    @pytest.mark.parametrize("watched", ["generation", "segment", "tag"])
    def test_a_token_that_no_cache_wrote(self, prefix: str, watched: str) -> None:
        """It confirms nothing: what was invalidated does not come back when the server drops the item."""
        with self.make(prefix) as cache:
            names = cache._names
            name = {"generation": names.of_generation(), "segment": names.of_segment("a")}.get(
                watched, names.of_tag("t")
            )
            self.forge(cache, name, b"junk")
            cache.set_value("a:k", "old", tags={"t"})
            assert cache.get_value("a:k") == "old"
            drops: dict[str, Callable[[], object]] = {
                "generation": cache.clear,
                "segment": lambda: cache.invalidate_by_pattern("a:"),
                "tag": lambda: cache.invalidate_by_tags({"t"}),
            }
            drops[watched]()
            assert cache.get("a:k") is None
            self.lose(cache, name)
            assert cache.get("a:k") is None

    def test_a_token_that_is_gone_at_once(self, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that was emptied as a token was made: values without a token do not count, nor loads."""
        with self.make(prefix) as cache, self.make(prefix) as other:
            name = cache._names.of_tag("t")
            add = cache._store.add

            def add_nothing(given: str, data: bytes, life: float | None) -> bool:
                return given != name and add(given, data, life)

            monkeypatch.setattr(cache._store, "add", add_nothing)  # another host was first, and it is gone
            cache.set_value("a:k", "old", tags={"t"})
            origin = cache.origin("a:new", frozenset({"t"}))
            other.invalidate_by_tags({"t"})
            self.lose(other, name)
            assert other.get("a:k") is None
            assert cache.add("a:new", CacheEntry("a:new", "old", tags={"t"}), origin) is False

    def test_a_second_try_brings_nothing_back(self, prefix: str) -> None:
        """It comes after what other hosts have done since the first one, and must not undo that."""
        done: list[str] = []
        with self.losing(prefix) as (tier, lose), self.make(prefix) as other:

            def tags() -> None:
                other.set_value("k", "old", tags={"t"})
                other.invalidate_by_tags({"t"})
                done.append("tags")

            lose(tags)
            tier.invalidate_by_tags({"t"})
            assert other.get_value("k") is None
            fences = []

            def deletion() -> None:
                fences.append(other.fence("k"))
                other.delete("k")
                done.append("deletion")

            lose(deletion)
            tier.delete("k")
            assert not other.set_if("k", CacheEntry("k", "old"), fences[0])
            assert other.get_value("k") is None
            lose(lambda: done.append("value"))
            tier.set_value("k", "new", tags={"t"})
            assert other.get_value("k") == "new"
            assert done == ["tags", "deletion", "value"]
            assert tier.get_stats().errors == 0

    def test_a_tag_with_the_name_of_something_else(self, caches: Two) -> None:
        for name in ("\0generation", "\0segment"):
            for call in (
                lambda: caches[0].set_value("k", 1, tags={name}),  # noqa: B023
                lambda: caches[0].fence("k", {name}),  # noqa: B023
            ):
                with pytest.raises(ValueError, match="tags must not be"):
                    call()
        assert caches[0].get("k") is None

    def test_what_no_cache_wrote(self, prefix: str) -> None:
        """Other bytes, and another key's value, are misses and count as errors; writes replace them."""
        with self.make(prefix) as cache:
            name = cache._names.of_key("k")
            cache.set_value("other", 1)
            other = cache._names.of_key("other")
            stolen = cache._store.read([other])[other].data
            for data in (b"", b"V", b"T12345678+", b"x" * 30, b"V12345678" + b"junk", stolen):
                self.forge(cache, name, data)
                errors = cache.get_stats().errors
                assert cache.get("k") is None, data
                assert cache.get_stats().errors == errors + 1
                fence = cache.fence("k")
                assert cache.set_if("k", CacheEntry("k", 2), fence), data
                assert cache.get_value("k") == 2

    def test_values_that_are_too_large(self, prefix: str) -> None:
        """They are refused by name, and the older value does not stay."""
        with self.make(prefix, compression=None) as cache:
            cache.set_value("k", "old")
            with pytest.raises(ValueTooLargeError, match=self.too_large):
                cache.set_value("k", b"x" * (2 << 20))
            assert cache.get("k") is None
            with IntelligentCache(None, cache, file_cache=None, close_tiers=False) as over:
                assert over.get_or_set("large", lambda: b"x" * (2 << 20)) == b"x" * (2 << 20)

    def test_an_outage(self, prefix: str) -> None:
        """A cache goes on without it, keeps its invalidations for it, and is back by itself."""
        with self.own_server() as server:
            # A call that works has as much time as it needs.
            tier, patient = self.make(prefix, server, timeout=0.25), self.make(prefix, server)
            with patient, IntelligentCache(None, tier, file_cache=None) as cache:
                wait_until(lambda: cache.set("k", "old") and patient.peek("k"), "the tier is used")
                server.signal(signal.SIGSTOP)
                with pytest.raises(TierUnavailableError, match=r"127\.0\.0\.1"):
                    tier.peek("k")
                assert cache.get_or_set("other", lambda: 1) == 1
                cache.delete("k")  # the server does not learn of it yet
                server.signal(signal.SIGCONT)
                wait_until(lambda: cache.set("back", 1) and patient.peek("back"), "the tier is back")
                assert patient.get("k") is None
                server.kill()
                assert cache.get_or_set("other", lambda: 2) in (1, 2)
                server.start()
                wait_until(lambda: cache.set("back", 1) and patient.peek("back"), "the tier is back")

    @pytest.mark.parametrize("kind", [TimeoutError, BaseException])
    def test_an_interrupt_of_the_caller(self, prefix: str, kind: type[BaseException]) -> None:
        """A time limit of the program that strikes while a server does not answer is no failure of it."""

        class Struck(kind):  # type: ignore[misc, valid-type]
            pass

        def strike(number: int, frame: object) -> None:
            raise Struck

        def limited(call: Callable[[], object]) -> None:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            call()

        before = signal.signal(signal.SIGALRM, strike)
        try:
            with self.own_server() as server, self.make(prefix, server) as tier:
                tier.set_value("k", 1)
                for call in (
                    lambda: tier.peek("k"),
                    lambda: tier.set_value("k", 2),
                    lambda: tier.delete("k"),
                ):
                    errors = tier.get_stats().errors
                    server.signal(signal.SIGSTOP)
                    for _ in range(12):  # no connection is lost with them
                        with pytest.raises(Struck):
                            limited(call)
                    server.signal(signal.SIGCONT)
                    assert tier.get_stats().errors == errors
                assert tier.get_value("k") in (None, 1, 2)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def test_the_first_call_of_many_threads(self, prefix: str) -> None:
        """They share what it makes."""
        with self.make(prefix) as tier, ThreadPoolExecutor(8) as pool:
            together = Barrier(8)

            def call(number: int) -> object:
                together.wait()
                tier.set_value(f"k:{number}", number)
                return tier.get_value(f"k:{number}")

            assert list(pool.map(call, range(8))) == list(range(8))

    def test_copies_in_memory_end_with_max_staleness(self, prefix: str) -> None:
        """Other hosts are not notified, so their copies are dropped again and again."""
        with (
            self.make(prefix, max_staleness=0.2) as tier,
            self.make(prefix) as other,
            IntelligentCache(MemoryCache(), tier, file_cache=None) as cache,
        ):
            other.set_value("k", "old")
            assert cache.get("k") == "old"
            other.set_value("k", "new")
            wait_until(lambda: cache.get("k") == "new", "the copy is dropped")

    def test_notices(self, prefix: str) -> None:
        """Copies in memory end soon after another host has changed their keys, and the others stay."""
        with (
            self.make(prefix, max_staleness=3600, poll=0.05) as tier,
            self.make(prefix, max_staleness=3600, poll=0.05) as other,
            IntelligentCache(MemoryCache(), tier, file_cache=None) as cache,
        ):
            assert cache.memory_cache is not None
            changes: list[Callable[[], object]] = [
                lambda: other.set_value("a:k", "new"),
                lambda: other.delete("a:k"),
                lambda: other.invalidate_by_tags({"t"}),
                lambda: other.invalidate_by_pattern("a:"),
                other.clear,
            ]
            for change in changes:
                cache.set("a:k", "old", tags={"t"})
                assert cache.get("a:k") == "old"
                change()
                wait_until(lambda: cache.get("a:k") != "old", "the copy is dropped")

    def test_a_writer_that_dies_before_its_notice(self, prefix: str) -> None:
        """Copies of what it wrote over end with `max_staleness`."""
        with (
            self.make(prefix, max_staleness=0.5, poll=0.1) as tier,
            self.make(prefix) as writer,
            IntelligentCache(MemoryCache(), tier, file_cache=None) as cache,
        ):
            writer.set_value("k", "old")
            assert cache.get("k") == "old"

            def die(kind: str, names: object) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            def write() -> None:
                writer._listeners.note = die  # type: ignore[method-assign]
                writer.set_value("k", "new")

            assert os.WTERMSIG(in_fork(write)()) == signal.SIGKILL
            wait_until(lambda: cache.get("k") == "new", "the copy is dropped")

    def test_caches_of_one_process(self, caches: Two) -> None:
        """Those over one tier see each other's writes at once."""
        tier, _ = caches
        with (
            IntelligentCache(MemoryCache(), tier, file_cache=None, close_tiers=False) as one,
            IntelligentCache(MemoryCache(), tier, file_cache=None, close_tiers=False) as two,
        ):
            one.set("k", 1, tags={"t"})
            assert two.get("k") == 1
            one.set("k", 2, tags={"t"})
            assert two.get("k") == 2
            one.invalidate_by_tags({"t"})
            assert two.get("k") is None

    def test_leases(self, caches: Two) -> None:
        """One holder at a time, and one load per key among hosts."""
        one, two = caches
        held = one.lease("k", 60)
        assert held is not None
        assert two.lease("k", 60) is None
        held.release()
        again = two.lease("k", 60)
        assert again is not None
        held.release()  # which is another holder's by now
        assert one.lease("k", 60) is None
        again.release()
        with IntelligentCache(None, one, file_cache=None, close_tiers=False) as cache:
            assert cache.get_or_set("loaded", lambda: 1, load=LoadOptions(lease="fleet")) == 1

    def test_files_below(self, caches: Two, tmp_path: Path) -> None:
        """Copies in files are compared with the server, and go back to it."""
        tier, other = caches
        with FileCache(tmp_path) as files, IntelligentCache(None, tier, files, close_tiers=False) as cache:
            drops: list[Callable[[], object]] = [
                other.clear,
                lambda: other.invalidate_by_tags({"t"}),
                lambda: other.delete("user:1"),
            ]
            for drop in drops:
                cache.set("user:1", "old", tags={"t"})
                drop()
                assert cache.get("user:1") is None, (
                    "a copy in a file outlived an invalidation of another host"
                )
            cache.set("user:1", "kept")
            other.invalidate_by_pattern("page:")
            assert files.get("user:1") is not None
            assert cache.get("user:1") == "kept"

    def test_it_pickles_as_its_configuration(self, caches: Two) -> None:
        """A copy speaks to the same keys of the same servers; a secret stays where it is."""
        tier, _ = caches
        tier.set_value("k", 1)
        with pickle.loads(pickle.dumps(tier)) as copy:
            assert copy.get_value("k") == 1
            assert (copy.key_prefix, copy.max_staleness, copy.default_ttl) == (tier.key_prefix, 5.0, None)
            assert repr(copy) == repr(tier)
        with self.make(tier.key_prefix, secret="a secret of the fleet") as signed:
            with pytest.raises(TypeError, match="secret"):
                pickle.dumps(signed)
            assert "a secret" not in repr(signed)

    def test_a_signed_tier(self, prefix: str) -> None:
        """What is not signed with its secret is a miss."""
        with self.make(prefix) as unsigned, self.make(prefix, secret="a secret of the fleet") as signed:
            unsigned.set_value("k", 1)
            assert signed.get("k") is None
            assert signed.get_stats().errors == 1
            signed.set_value("k", 2)
            assert signed.get_value("k") == 2
            assert unsigned.get("k") is None

    def test_after_a_fork(self, caches: Two) -> None:
        """The child has connections of its own."""
        tier, other = caches
        tier.set_value("k", 1)
        assert in_fork(lambda: tier.set_value("k", 2))() == 0
        assert tier.get_value("k") == other.get_value("k") == 2

    def test_writers_that_are_killed(self, caches: Two) -> None:
        """What is there is their last write or the one in flight; loads go on, and their leases end."""
        tier, other = caches

        def write(number: int) -> object:
            return tier.set_value("a:k", number, tags={"t"}) if number % 3 else tier.delete("a:k")

        def begin() -> None:
            assert tier.lease("loading", 1) is not None

        for operations in (1, 4, 9):
            done, begun = killed_at(operations, begin, write)
            left = other.get_value("a:k")
            assert left in [number if number % 3 else None for number in (done, begun)]
            other.invalidate_by_tags({"t"})
            assert other.get("a:k") is None
            origin = other.origin("a:k", frozenset({"t"}))
            assert other.add("a:k", CacheEntry("a:k", "loaded", tags={"t"}), origin) is True

            def freed() -> bool:
                lease = other.lease("loading", 60)
                if lease is not None:
                    lease.release()
                return lease is not None

            wait_until(freed, "the lease of the dead writer ends")
