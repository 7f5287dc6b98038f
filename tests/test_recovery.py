"""How a tier is used again after an outage: what it missed is carried out first, and nothing is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
from exploring import explored
from forking import in_fork
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from outages import Outage
from racing import frequent_switches, in_thread, race
from redis_server import wait_until

from cachekit import CacheEntry, MemoryCache
from cachekit.coherence.accessor import UNAVAILABLE, TierAccessor
from cachekit.coherence.pending_invalidations import PendingInvalidations
from cachekit.testing import FaultyTier, ManualClock
from cachekit.tiers.redis.tier import RedisCache


def test_what_was_missed_is_gone_before_a_call_goes_through() -> None:
    """Keys, tags and patterns; then the cache is told; and only then is the breaker closed."""
    out = Outage()
    out.fill("a", "b", "p:1")
    out.fill("t", tags=("tag",))
    out.begin()
    out.accessor.missed_keys(["a"])
    out.accessor.missed_tags({"tag"})
    out.accessor.missed_pattern("p:")
    assert out.accessor.pending == 3
    out.tier.mend()
    out.probe()
    assert out.accessor.state == "closed"
    assert list(out.memory.keys()) == ["b"]
    assert out.events == ["recovered while probing, 0 pending", "recovered while closed, 0 pending"]


def test_patterns_take_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scan goes through all keys. What cannot be joined has a scan of its own, and keeps its meaning."""
    out = Outage()
    out.fill("a:1", "b:1", "xx", "xy", "Z:1", "z:1", "c:1", "kept", "other.a:1")
    scans: list[object] = []
    invalidate = MemoryCache.invalidate_by_pattern

    def counted(self: MemoryCache, pattern: str) -> int:
        scans.append(pattern)
        return invalidate(self, pattern)

    monkeypatch.setattr(MemoryCache, "invalidate_by_pattern", counted)
    out.begin()
    for pattern in ("a:", "b|c", r"(.)\1", "(?i)Z:"):
        out.accessor.missed_pattern(pattern)
    out.tier.mend()
    out.probe()
    assert out.accessor.state == "closed"
    assert sorted(out.memory.keys()) == ["kept", "other.a:1", "xy"]
    assert scans == ["(?:a:)|(?:b|c)|(?i:Z:)", r"(.)\1"]


@pytest.mark.parametrize(("kind", "bound"), [("keys", 10_000), ("tags", 1_000), ("patterns", 100)])
def test_too_much_is_everything(kind: str, bound: int) -> None:
    """The journal does not grow without bound."""
    out = Outage()
    out.fill("never written")
    out.begin()
    missed: dict[str, Callable[[str], object]] = {
        "keys": lambda name: out.accessor.missed_keys([name]),
        "tags": lambda name: out.accessor.missed_tags([name]),
        "patterns": out.accessor.missed_pattern,
    }
    for number in range(bound):
        missed[kind](str(number))
    assert out.accessor.pending == bound
    missed[kind]("one more")
    assert out.accessor.pending == 1
    out.tier.mend()
    out.probe()
    assert out.memory.size() == 0


def test_a_fleet_is_told_of_many_keys_at_once(redis_url: str, prefix: str) -> None:
    """A real server; and of everything, which also breaks what fences it handed out."""
    with RedisCache(url=redis_url, key_prefix=prefix, timeout=60) as redis:
        tier = FaultyTier(redis)
        clock = ManualClock()
        accessor = TierAccessor("redis", tier, clock=clock)  # type: ignore[type-var]
        for everything in (False, True):
            for key in ("a", "b", "c"):
                redis.set(key, CacheEntry(key, "old"))
            fence = redis.fence("c")
            tier.fail()
            assert accessor.call(tier.size) is UNAVAILABLE
            assert accessor._job is not None
            accessor._job.cancel()
            accessor.missed_keys(["a", "b"])
            if everything:
                accessor.missed_everything()
            tier.mend()
            clock.advance(5)
            accessor.probe()
            assert accessor.state == "closed"
            assert [redis.get(key) is None for key in ("a", "b", "c")] == [True, True, everything]
            assert fence.is_current() is not everything
        assert (tier.calls["remove_many"], tier.calls["delete"]) == (1, 0)
        assert (tier.calls["ping"], tier.calls["size"]) == (2, 2), "size is no probe: it looks at every key"


def test_a_closed_accessor_probes_no_more() -> None:
    """Nor is its cache told anything."""
    out = Outage()
    out.begin()
    out.tier.mend()
    out.accessor.close()
    out.probe()
    assert (out.tier.calls["peek"], out.events) == (0, [])


def test_a_replay_that_fails_goes_on_later() -> None:
    """Nothing leaves the journal before it was carried out."""
    out = Outage()
    out.fill("a", "b")
    out.begin()
    out.accessor.missed_keys(["a", "b"])
    out.tier.mend()
    out.tier.fail("delete")
    out.probe()
    assert (out.accessor.state, out.accessor.pending, out.events) == ("open", 2, [])
    out.tier.mend()
    out.probe()
    assert (out.accessor.state, out.memory.size()) == ("closed", 0)


def test_a_cache_that_fails_to_recover_keeps_the_breaker_open() -> None:
    """A copy that could not be dropped is not to be trusted."""
    out = Outage()
    out.begin()
    out.tier.mend()

    def recovered() -> None:
        raise MemoryError

    out.accessor._recovered = recovered
    with pytest.raises(MemoryError):
        out.probe()
    assert out.accessor.state == "open"


def test_a_busy_cache_does_not_keep_its_tier_out() -> None:
    """What is missed while the cache is told is made good in the same probe.

    And what is missed while that is done, by whoever missed it: he adds nothing to the journal.
    """
    out = Outage()
    out.fill("a", "b")
    out.begin()
    out.tier.mend()
    out.accessor._recovered = lambda: out.accessor.missed_tags(["late"])
    out.tier.hang("invalidate_by_tags")
    probing = in_thread(out.probe)
    out.tier.wait_for_hanging()
    assert out.accessor.state == "closing"
    assert out.accessor.call(out.tier.get, "b") is UNAVAILABLE
    out.accessor.missed_keys(["a"])
    assert (out.memory.get("a"), out.accessor.pending) == (None, 1)
    out.tier.mend()
    probing()
    assert (out.accessor.state, out.accessor.pending, out.tier.calls["peek"]) == ("closed", 0, 1)


def test_a_failure_while_it_closes_loses_nothing() -> None:
    """What could not be carried out is noted, and the breaker stays open for it."""
    out = Outage()
    out.fill("a")
    out.begin()
    out.tier.mend()
    out.accessor._recovered = lambda: out.accessor.missed_tags(["late"])
    out.tier.hang("invalidate_by_tags")
    probing = in_thread(out.probe)
    out.tier.wait_for_hanging()
    out.tier.fail("delete")
    out.accessor.missed_keys(["a"])
    out.tier.mend()
    probing()
    assert (out.accessor.state, out.accessor.pending, out.accessor.outages) == ("open", 1, 1)
    out.probe()
    assert (out.accessor.state, out.memory.size()) == ("closed", 0)


def test_an_outage_whose_beginning_was_cut_off_is_probed_all_the_same() -> None:
    """A fork, or a signal, between the failure and the start of the probing."""
    out = Outage()
    out.begin()
    out.accessor._probe_with(None)
    assert out.accessor.call(out.tier.get, "k") is UNAVAILABLE
    assert out.accessor._job is not None
    out.accessor.close()
    assert out.accessor._job is None
    assert out.accessor.call(out.tier.get, "k") is UNAVAILABLE
    assert out.accessor._job is None, "a closed one has no more background work"


def test_what_is_missed_while_nothing_is_out_is_carried_out_at_once() -> None:
    """A call that failed late, after the outage: its key is gone before it returns."""
    out = Outage()
    out.fill("a")
    out.accessor.missed_keys(["a"])
    assert (out.memory.size(), out.accessor.state) == (0, "closed")
    out.fill("a")
    out.tier.fail("delete", full=True)
    out.accessor.missed_keys(["a"])
    assert (out.accessor.state, out.accessor.pending) == ("open", 1)
    out.accessor.close()


def test_a_key_missed_during_its_own_replay_stays() -> None:
    """The replay may have passed it already."""
    journal = PendingInvalidations()
    journal.add_keys(["a", "b"])
    part = journal.next_batch(10)
    journal.add_keys(["a"])
    journal.acknowledge(part)
    assert list(journal.next_batch(10).keys) == ["a"]
    journal.add_everything()
    part = journal.next_batch(10)
    journal.add_keys(["c"])
    journal.add_everything()
    journal.acknowledge(part)
    assert journal.next_batch(10).everything


def test_writers_that_journal_during_the_replay_lose_nothing() -> None:
    """Threads write old values and miss keys all through outages; what is missed is never served after."""
    out = Outage()
    stop = threading.Event()

    def misses(thread: int) -> int:
        number = 0
        while not stop.is_set():
            number += 1
            key = f"{thread}:{number % 500}"
            out.fill(key)
            out.accessor.missed_keys([key])
            # Told, or noted: if calls go through now, the key is gone.
            if not out.accessor.breaker.refuses:
                assert out.memory.get(key) is None
        return number

    with frequent_switches():
        finish = [in_thread(lambda thread=thread: misses(thread)) for thread in range(3)]  # type: ignore[misc]
        try:
            for _ in range(40):
                out.begin()
                out.tier.mend()
                while out.accessor.state != "closed":
                    out.probe()
        finally:
            stop.set()
            counts = [done() for done in finish]
    assert all(counts)
    # A removal that met the last outage may have told of it after its end: that began another.
    while out.accessor.state != "closed":
        out.probe()
    assert (out.accessor.pending, out.memory.size()) == (0, 0)


def test_upkeep_finds_out_that_the_tier_is_back() -> None:
    """By itself, with the real clock and thread; the job ends with the outage."""
    back = threading.Event()
    tier = FaultyTier(MemoryCache())
    accessor = TierAccessor("file", tier, recovered=back.set)  # type: ignore[type-var]
    tier.fail()
    assert accessor.call(tier.size) is UNAVAILABLE
    tier.mend()
    assert back.wait(60)
    wait_until(lambda: accessor.state == "closed", "the breaker is closed")
    assert accessor.call(tier.size) == 0


def test_a_frozen_tier_costs_each_thread_in_it_one_wait() -> None:
    """Those that are in it when it freezes, and nobody after them."""
    out = Outage()
    out.tier.hang("get")
    finish = [in_thread(lambda: out.accessor.call(out.tier.get, "k")) for _ in range(4)]
    out.tier.wait_for_hanging(4)
    out.tier.fail("get")
    assert [done() for done in finish] == [UNAVAILABLE] * 4
    race(*[lambda: out.accessor.call(out.tier.get, "k")] * 8)
    assert (out.tier.calls["get"], out.accessor.outages) == (4, 1)
    out.accessor.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_keeps_what_was_missed_also_from_the_middle_of_a_replay() -> None:
    """Its copy of the tier is its own, as a connection would be; the journal came along whole."""
    out = Outage()
    out.fill("a")
    out.begin()
    out.accessor.missed_keys(["a"])
    out.tier.mend()
    out.tier.hang("delete")
    probing = in_thread(out.probe)
    out.tier.wait_for_hanging()

    def in_child() -> None:
        assert (out.accessor.state, out.accessor.pending) == ("open", 1)
        out.tier = out.accessor.tier = FaultyTier(out.memory)
        out.probe()
        assert (out.accessor.state, out.memory.size()) == ("closed", 0)

    assert in_fork(in_child)() == 0
    out.tier.mend()
    probing()
    assert out.accessor.state == "closed"


class BreakerAndJournal(RuleBasedStateMachine):
    """Whenever calls go through, the tier holds nothing that was missed."""

    keys = st.sampled_from(["a", "b", "ca", "cb"])

    def __init__(self) -> None:
        super().__init__()
        self.out = Outage()
        self.missed: set[str] = set()
        self.down = False

    @rule(key=keys)
    def write(self, key: str) -> None:
        entry = CacheEntry(key, "old", tags={key[0]})
        if self.out.accessor.call(self.out.tier.set, key, entry) is UNAVAILABLE:
            self.out.accessor.missed_keys([key])
            self.missed |= {key} & set(self.out.memory.keys())
        else:
            self.missed.discard(key)
        self.only_probed_here()

    @rule(tag=st.sampled_from("abc"))
    def invalidate_tag(self, tag: str) -> None:
        if self.out.accessor.call(self.out.tier.tier.invalidate_by_tags, [tag]) is UNAVAILABLE:  # type: ignore[attr-defined]
            self.out.accessor.missed_tags([tag])
        self.missed |= {key for key in self.out.memory.keys() if key[0] == tag}  # noqa: SIM118
        self.only_probed_here()

    @rule()
    def invalidate_pattern(self) -> None:
        if self.out.accessor.call(self.out.tier.tier.invalidate_by_pattern, ".b") is UNAVAILABLE:  # type: ignore[attr-defined]
            self.out.accessor.missed_pattern(".b")
        self.missed |= {"cb"} & set(self.out.memory.keys())
        self.only_probed_here()

    @rule()
    def invalidate_everything(self) -> None:
        if self.out.accessor.call(self.out.tier.clear) is UNAVAILABLE:
            self.out.accessor.missed_everything()
        self.missed |= set(self.out.memory.keys())
        self.only_probed_here()

    @rule(methods=st.sampled_from([(), ("delete",), ("set",), ("clear",), ("invalidate_by_tags", "size")]))
    def fail(self, methods: tuple[str, ...]) -> None:
        self.out.tier.fail(*methods)

    @rule()
    def mend(self) -> None:
        self.out.tier.mend()

    @precondition(lambda self: self.out.accessor.state == "open")
    @rule()
    def probe(self) -> None:
        self.out.probe()

    def only_probed_here(self) -> None:
        if self.out.accessor._job is not None:
            self.out.accessor._job.cancel()

    @invariant()
    def nothing_missed_can_be_read(self) -> None:
        if self.out.accessor.state == "closed":
            assert not self.missed & set(self.out.memory.keys())
            assert self.out.accessor.pending == 0
            self.missed.clear()

    def teardown(self) -> None:
        self.out.accessor.close()


TestBreakerAndJournal = BreakerAndJournal.TestCase
TestBreakerAndJournal.settings = explored(steps=2.5)
