"""What a memory tier estimates of other sizes: beside caches of those sizes, and what it may cost."""

from __future__ import annotations

import gc
import random
import re
import subprocess
import sys
import threading
import tracemalloc
from collections import deque
from itertools import accumulate
from typing import Any

import pytest
from free_threads import HAS_GIL

from cachekit import CacheStrategy, IntelligentCache, MemoryCache, SizeEstimate
from cachekit.testing import ManualClock
from cachekit.tiers.fences import CHANGES
from cachekit.tiers.memory.key_sample import KeySample
from cachekit.tiers.memory.sampling import HITS, SPREAD, WRITTEN, SampledFence
from cachekit.tiers.memory.size_simulation import Simulation
from cachekit.tiers.memory.tier import store_of

SIZE = 64  # of which every key is in the sample


def stream(requests: int, keys: int, seed: int = 1, skew: float = 0.9) -> list[str]:
    weights = list(accumulate(rank**-skew for rank in range(1, keys + 1)))
    return [
        f"k{number}" for number in random.Random(seed).choices(range(keys), cum_weights=weights, k=requests)
    ]


def sample_of(cache: MemoryCache) -> KeySample:
    sample = cache._sample
    assert sample is not None
    return sample


def request(cache: MemoryCache, key: str, ttl: float | None = None) -> bool:
    if cache.get_value(key) is not None:
        return True
    cache.set_value(key, 1, ttl)
    return False


def run(cache: MemoryCache, keys: list[str], every: int = 500) -> float:
    """The hit rate of a stream; notes are simulated every so many requests, as time passes."""
    hits = 0
    for number, key in enumerate(keys):
        hits += request(cache, key)
        if cache._sample is not None and not number % every:
            sample_of(cache).simulate()
    return hits / len(keys)


def test_no_descriptor_is_free_for_the_simulation() -> None:
    """A write loads its module. It stores its value all the same, and estimates begin later."""
    code = """
import builtins, os, resource
from cachekit import MemoryCache

imported, attempts = builtins.__import__, []

def importing(name, *others, **more):
    if "size_simulation" in name:
        attempts.append(name)
    return imported(name, *others, **more)

builtins.__import__ = importing
memory = MemoryCache(max_size=50)
resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
open_files = []
try:
    while True:
        open_files.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for number in range(3000):
    assert memory.set_value(f"k{number % 90}", number) and memory.get_value(f"k{number % 90}") == number
reason = memory.estimate().reason
assert reason == "the simulation could not be loaded: Too many open files", reason
assert len(attempts) < 100, "only rounds try again"
for file in open_files:
    os.close(file)
for _ in range(3):  # it begins again, warms up, and counts
    memory.estimate()
    for number in range(1000):
        if memory.get_value(f"k{number % 90}") is None:
            memory.set_value(f"k{number % 90}", number)
assert memory.estimate().rates, memory.estimate()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# A cache of another size that is ADAPTIVE may choose another shape.
@pytest.mark.parametrize("strategy", [one for one in CacheStrategy if one is not CacheStrategy.ADAPTIVE])
def test_it_is_exact_where_every_key_is_sampled(strategy: CacheStrategy) -> None:
    """Each size has the rate that a cache of that size has; notes are few enough for every hit to be one."""
    keys = stream(3_000, 600)
    with MemoryCache(SIZE, strategy) as cache:
        run(cache, keys, every=4)
        found = cache.estimate()
    assert found.sampled == 1.0
    assert set(found.rates) == {SIZE // 2, SIZE, 2 * SIZE, 10 * SIZE}
    for size, rate in found.rates.items():
        with MemoryCache(size, strategy, estimates=False) as other:
            assert rate == pytest.approx(run(other, keys), abs=1e-9), size
        assert found.plus_minus[size] == 0


def test_entries_that_are_read_often_count_in_full() -> None:
    """An entry loses its mark after a few hits of a round, and its own count stands in for notes."""
    keys = stream(20_000, 400, skew=1.4)
    with MemoryCache(SIZE) as cache:
        measured = run(cache, keys, every=2_000)
        found = cache.estimate()
        assert found.rates[SIZE] == measured
        noted = sum(sample_of(cache)._simulation._noted)  # type: ignore[union-attr]
    assert noted == len(keys), "nothing is lost, and nothing counts twice"
    with MemoryCache(2 * SIZE, estimates=False) as other:
        assert found.rates[2 * SIZE] == pytest.approx(run(other, keys), abs=0.01)


def test_a_sample_is_right_to_two_points() -> None:
    keys = stream(40_000, 20_000)
    with MemoryCache(2_000) as cache:
        run(cache, keys)
        found = cache.estimate()
    assert 0.04 < found.sampled < 0.06
    for size in (4_000, 20_000):
        with MemoryCache(size, estimates=False) as other:
            assert found.rates[size] == pytest.approx(run(other, keys), abs=0.035), size


HASHES = """
import sys
from cachekit.tiers.memory.sampling import SPREAD
limit = SPREAD // 20
print(sum(hash(f"user:{number}") % SPREAD < limit for number in range(20_000)), hash("x"))
"""


def test_the_sample_is_fair_whatever_the_seed_of_hashes_is() -> None:
    """A twentieth of similar keys, within five standard deviations; and other keys for each seed."""
    seen = set()
    for seed in ("0", "1", "2", "3"):
        ended = subprocess.run(
            [sys.executable, "-c", HASHES], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        count, hashed = ended.stdout.split()
        assert 845 <= int(count) <= 1_155
        seen.add(hashed)
    assert len(seen) == 4


def test_expired_entries_are_not_taken_for_evicted() -> None:
    """Where all misses come from TTLs, more room brings nothing."""
    clock = ManualClock()
    with MemoryCache(SIZE, clock=clock) as cache:
        for _ in range(40):
            for number in range(SIZE):
                request(cache, f"k{number}", ttl=10)
                request(cache, f"k{number}", ttl=10)
            cache.estimate()
            clock.advance(10)
        found = cache.estimate()
    assert found.rates[SIZE] == pytest.approx(0.5, abs=0.01)
    assert found.gain(10 * SIZE) == pytest.approx(0, abs=0.01)
    assert found.advice() == (f"max_size={SIZE // 2} would lose 0.0 points of hit rate",)


@pytest.mark.parametrize("how", ["delete", "tags", "pattern", "clear"])
def test_what_is_invalidated_is_gone_at_every_size(how: str) -> None:
    """Also a key that this cache has evicted, and a larger one would hold."""
    with MemoryCache(SIZE) as cache:
        for _ in range(20):
            for number in range(4 * SIZE):
                key = f"k{number}"
                if cache.get_value(key) is None:
                    cache.set_value(key, 1, tags=["t"])
            match how:
                case "delete":
                    for number in range(4 * SIZE):
                        cache.delete(f"k{number}")
                case "tags":
                    cache.invalidate_by_tags(["t"])
                case "pattern":
                    cache.invalidate_by_pattern("k")
                case _:
                    cache.clear()
        found = cache.estimate()
    assert found.rates[SIZE] == 0
    assert found.rates[10 * SIZE] == 0


def test_keys_that_are_never_stored_are_misses_at_every_size() -> None:
    with MemoryCache(SIZE) as cache:
        for _ in range(20):
            for number in range(4 * SIZE):
                cache.get_value(f"k{number}")
        for number in range(400):
            request(cache, f"once {number}")
        found = cache.estimate()
    assert found.requests == 5_520
    assert list(found.rates.values()) == [pytest.approx(0.0, abs=1e-9)] * 4


def test_writes_are_no_requests() -> None:
    """A stream of writes alone would be served by no cache."""
    with MemoryCache(SIZE) as cache:
        for _ in range(10):
            for number in range(4 * SIZE):
                cache.set_value(f"k{number}", 1)
        found = cache.estimate()
        assert not found
        assert found.reason == "too few requests"
        for number in range(400):
            cache.get_value(f"none {number}")
            request(cache, f"once {number}")
        assert list(cache.estimate().rates.values()) == [pytest.approx(0.0, abs=1e-9)] * 4


def test_a_longer_life_counts_at_every_size() -> None:
    clock = ManualClock()
    with MemoryCache(SIZE, clock=clock) as cache:
        request(cache, "k", ttl=10)
        clock.advance(9)
        assert cache.touch("k", 100)
        clock.advance(50)
        for number in range(1_000):
            request(cache, "k")
            request(cache, f"other {number}", ttl=1)
            cache.estimate()
        found = cache.estimate()
    assert found.rates[SIZE] == pytest.approx(0.5, abs=0.01)
    assert found.gain(SIZE // 2) == 0


def test_a_window_forgets_what_was_before() -> None:
    """After the hit rate has changed, the last requests say so and the whole does not."""
    with MemoryCache(SIZE) as cache:
        run(cache, [f"k{number % 32}" for number in range(20_000)])
        run(cache, [f"k{number % 128}" for number in range(20_000)])
        whole, last = cache.estimate(), cache.estimate(5_000)
    assert 5_000 <= last.requests <= 7_000
    assert whole.requests == 40_000
    assert whole.rates[SIZE] == pytest.approx(0.5, abs=0.02)
    assert last.rates[SIZE] == pytest.approx(0.0, abs=0.02)
    assert last.gain(2 * SIZE) == pytest.approx(1.0, abs=0.02)


def test_a_bound_in_bytes_is_estimated_in_bytes() -> None:
    keys = stream(8_000, 1_000)

    def made(factor: int, **more: Any) -> MemoryCache:
        return MemoryCache(SIZE * factor, max_bytes=10 * SIZE * factor // 2, weigher=lambda key, value: 10)

    with made(1) as cache:
        run(cache, keys, every=4)
        found = cache.estimate()
    bound = 10 * SIZE // 2
    assert found.unit == "bytes"
    assert set(found.rates) == {bound // 2, bound, 2 * bound, 10 * bound}
    with made(2) as other:
        assert found.rates[2 * bound] == pytest.approx(run(other, keys), abs=0.01)
    assert any(line.startswith(f"max_bytes={2 * bound}, and 2 times the max_size") for line in found.advice())


def test_a_small_bound_in_bytes_has_a_large_enough_sample() -> None:
    """`max_size` says nothing of how many entries there are; the sample follows what is held."""
    with MemoryCache(1_000_000, max_bytes=10_000, weigher=lambda key, value: 10) as cache:
        run(cache, stream(40_000, 5_000), every=200)
        found = cache.estimate()
    assert found.sampled * 1_000 >= 50
    assert found.rates[20_000] > found.rates[10_000] > found.rates[5_000]


def test_reasons() -> None:
    """There is no estimate without a reason."""
    policy: Any = type("Mine", (), {
        "begin": lambda self, capacity: None, "insert": lambda self, key, deadline: None,
        "hit": lambda self, key: None, "prolong": lambda self, key, deadline: None,
        "evict": lambda self, incoming: incoming, "remove": lambda self, key: None,
    })  # fmt: skip
    rows: list[tuple[dict[str, Any], str]] = [
        ({"estimates": False}, "estimates=False"),
        ({"cleanup_interval": None}, "no background thread"),
        ({"strategy": policy}, "a policy of yours"),
        ({}, "too few requests"),
    ]
    for options, reason in rows:
        with MemoryCache(**options) as cache:
            found = cache.estimate()
        assert not found
        assert reason in (found.reason or ""), options
        assert found.advice() == ()
        assert found.more_room() is None
    assert "closed" in (cache.estimate().reason or "")


@pytest.mark.parametrize(
    ("last", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_the_window_is_checked(last: Any, error: type[Exception]) -> None:
    with MemoryCache() as cache, pytest.raises(error, match="last must be"):
        cache.estimate(last)
    wrong: Any = 1
    with pytest.raises(TypeError, match="estimates must be True or False, not 1"):
        MemoryCache(estimates=wrong)


def test_a_peek_is_not_noted() -> None:
    with MemoryCache(SIZE) as cache:
        cache.set_value("k", 1)
        sample_of(cache).notes.clear()
        assert cache.peek("k") is not None
        assert "k" in cache
        assert cache.keys() == ["k"]
        assert cache.remove_expired() == 0
        assert not sample_of(cache).notes
        cache.get_value("k")
        assert list(sample_of(cache).notes) == ["k"]


@pytest.mark.parametrize("strategy", [CacheStrategy.LRU, CacheStrategy.S3_FIFO])
def test_a_hit_that_is_also_the_first_is_noted_once(strategy: CacheStrategy) -> None:
    """A fence that reports the first hit does not hide the mark, however often entries are marked again."""
    with MemoryCache(SIZE, strategy) as cache:
        store, sample, reported = store_of(cache), sample_of(cache), list[str]()
        cache.set_value("k", 1)
        assert store.on_first_hit("k", lambda: reported.append("k"))
        store.mark(store.all_held())
        sample.notes.clear()
        for _ in range(3):
            cache.get_value("k")
        assert reported == ["k"]
        assert list(sample.notes) == ["k"] * 3
        store.sampled = 0
        store.mark(store.all_held())
        cache.get_value("k")
        assert list(sample.notes) == ["k"] * 3, "no longer in the sample"


@pytest.mark.parametrize("strategy", [CacheStrategy.LRU, CacheStrategy.S3_FIFO])
def test_a_write_of_an_entry_without_its_mark_is_noted(strategy: CacheStrategy) -> None:
    """An entry that is read often has no mark until the next round. Its hits and its next value count."""
    with MemoryCache(SIZE, strategy) as cache:
        sample = sample_of(cache)
        cache.set_value("k", 1)
        sample.notes.clear()
        for _ in range(40):
            cache.get_value("k")
        noted = list(sample.notes)
        assert noted == ["k"] * len(noted)
        sample.notes.clear()
        cache.set_value("k", 2)
        more, written = sample.notes
        assert more == (HITS, "k", 40 - len(noted))
        assert written[:2] == (WRITTEN, "k")
        sample.notes.clear()
        cache.get_value("k")
        assert list(sample.notes) == ["k"]


def test_requests_that_come_faster_than_a_round_halve_the_sample() -> None:
    """Notes that were lost during a round leave no estimate of a stream that was not."""
    with MemoryCache(SIZE, clock=ManualClock()) as cache:
        sample, store = sample_of(cache), store_of(cache)
        sample._is_busy = True  # a round of another thread
        for number in range(5_000):
            request(cache, f"k{number % 200}")
        for _ in range(1_000):
            sample.notes.popleft()  # that round goes on
        sample._is_busy = False
        sample.simulate()
        assert store.sampled == SPREAD // 2


def test_an_entry_that_is_not_sampled_has_no_fence() -> None:
    """So a hit on it takes not one step more."""
    with MemoryCache(100_000) as cache:
        for number in range(5_000):
            cache.set_value(f"k{number}", 1)
        store = store_of(cache)
        marked = [held for held in store.all_held() if held.shared_fence is not None]
        assert 0 < len(marked) < 60
        assert all(hash(held.key) % SPREAD < store.sampled for held in marked)
        assert SampledFence.words[CHANGES] != SampledFence.seen


def test_memory_is_bounded() -> None:
    """Less than a megabyte, also with keys of any length that never come back."""
    rng = random.Random(1)
    with MemoryCache(2_000) as cache:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(12_000):
                sample = sample_of(cache)
                key = f"{rng.random()}{'x' * 1_000}"
                if hash(key) % SPREAD < store_of(cache).sampled:
                    cache.get_value(key)
                    cache.set_value(key, None)
                if not number % 100:
                    cache.estimate()
            held = sum(sys.getsizeof(one.key) + 600 for one in store_of(cache).all_held())
            del key
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert sample.seconds > 0
    assert grown - held < 1_000_000


def test_the_share_of_a_core_is_bounded() -> None:
    """At a million requests a second the sample becomes smaller, until its price fits; then it pauses."""
    clock = ManualClock()
    with MemoryCache(1_000, clock=clock) as cache:
        sample, rng, elapsed = sample_of(cache), random.Random(1), 0.0
        for _ in range(60):
            for _ in range(1_000):
                request(cache, f"k{rng.randrange(100_000)}")
            clock.advance(0.001)
            elapsed += 0.001
            sample.simulate()
        spent = sample.seconds
        assert spent <= 0.5 + 0.02 * elapsed + 0.1, "half a second of credit, then two hundredths"
        sample._credit = -1.0
        for _ in range(4):
            for number in range(100):
                request(cache, f"k{number}")
            sample._credit = -1.0
            sample.simulate()
        found = cache.estimate()
        assert found.reason is not None
        assert "too many requests a second" in found.reason
        assert store_of(cache).sampled == 0
        clock.advance(61)
        run(cache, stream(20_000, 5_000))
        assert cache.estimate(), "it begins again"


def test_writes_that_simulate_make_the_sample_smaller() -> None:
    """Each time that it takes more than the credit, by half; with credit left, it only takes from that."""
    with MemoryCache(4_000, clock=ManualClock()) as cache:
        sample, store = sample_of(cache), store_of(cache)
        sample.sleeps = False  # no other thread simulates
        for number in range(4_000):
            cache.set_value(f"k{number}", 1)
        sample.simulate()

        def simulates(credit: float) -> float:
            """Simulate fifty notes of many; return the processor time that it took."""
            sample.notes.extend(["k1"] * 1_100)
            before, sample._credit = sample.seconds, credit
            sample.wake()
            return sample.seconds - before

        first = store.sampled
        took = simulates(10.0)
        assert took > 0
        assert sample._credit == pytest.approx(10.0 - took)
        assert (store.sampled, len(sample.notes)) == (first, 1_050)
        for limit, credit in ((first // 2, -1.0), (first // 4, 0.0)):
            simulates(credit)
            assert (store.sampled, sample._credit, len(sample.notes)) == (limit, 0.0, 0)
        assert simulates(10.0) > 0
        assert store.sampled == first // 4


def test_nothing_runs_after_close() -> None:
    cache = MemoryCache(SIZE)
    run(cache, stream(3_000, 500), every=10_000)
    sample = sample_of(cache)
    assert sample._task is not None
    cache.close()
    assert sample._task is None
    assert not sample.notes
    assert store_of(cache).sampled == 0


@pytest.mark.skipif(not HAS_GIL, reason="requests come faster there than the estimate can follow")
def test_threads() -> None:
    """Requests, invalidations and estimates at once: every sampled request counts, once."""
    # A busy machine may leave a round so little time that the sample is reduced.
    assert any(every_request_counted() for _ in range(10))


def every_request_counted() -> bool:
    """Whether the sample stayed as it was; then all must have been counted."""
    with MemoryCache(SIZE, CacheStrategy.S3_FIFO) as cache:
        begin = threading.Barrier(5)
        failed: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                begin.wait()
                for key in stream(5_000, 200, seed):
                    request(cache, key)
            except BaseException as error:
                failed.append(error)

        def judge() -> None:
            try:
                begin.wait()
                for number in range(300):
                    cache.estimate()
                    cache.delete(f"k{number % 7}")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        threads.append(threading.Thread(target=judge))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        found = cache.estimate()
        if store_of(cache).sampled < SPREAD:
            return False
        noted = sum(sample_of(cache)._simulation._noted)  # type: ignore[union-attr]
        assert found.requests == 20_000
        # A hit whose entry leaves at the same time may be lost: up to 5 % where threads wait long for a CPU.
        assert noted == pytest.approx(20_000, rel=0.1)
        store_of(cache).check()
        return True


def test_a_write_simulates_few_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller, and with it an event loop, waits for no more. All is simulated in the end."""
    here, most = threading.get_ident(), []
    real = Simulation.run

    def counted(self: Simulation, notes: deque[Any], some: int) -> None:
        if threading.get_ident() == here:
            most.append(min(len(notes), some))
        real(self, notes, some)

    monkeypatch.setattr(Simulation, "run", counted)
    with MemoryCache(SIZE, clock=ManualClock()) as cache:
        for number in range(6_000):
            request(cache, f"k{number % 150}")
        assert len(most) > 0
        assert max(most) <= 50
        assert cache.estimate().requests == 6_000
        assert sum(sample_of(cache)._simulation._noted) == 6_000  # type: ignore[union-attr]


def test_health_and_advice_say_what_more_room_would_bring() -> None:
    """A cache that is too small is told by how much; without a gain no larger one is proposed."""
    with IntelligentCache(MemoryCache(SIZE), file_cache=None) as cache:
        for _ in range(30):
            for number in range(2 * SIZE - 8):
                if cache.get(f"k{number}") is None:
                    cache.set(f"k{number}", 1)
        (reason,) = cache.health().reasons
        assert re.fullmatch(
            rf"max_size={2 * SIZE} would answer \d+ \+- 0 points more of the lookups in memory", reason.remedy
        )
        advice = cache.optimize_cache().advice
        assert any(line.startswith(f"max_size={2 * SIZE}: +9") for line in advice), advice
    with IntelligentCache(MemoryCache(SIZE), file_cache=None) as cache:
        for number in range(3_000):
            cache.get(f"k{number}")
            cache.set(f"k{number}", 1)
        (reason,) = cache.health().reasons
        assert "ten times the room in memory would not help" in reason.remedy
        assert [line for line in cache.optimize_cache().advice if line.startswith("max_size=640")] == []


def test_a_difference_within_the_noise_is_no_advice() -> None:
    found = SizeEstimate(
        100, {50: 0.4, 100: 0.5, 200: 0.52, 1000: 0.53}, {50: 0.0, 100: 0.0, 200: 0.03, 1000: 0.02}, 9, 0.1
    )
    assert found.advice() == ("max_size=1000: +3.0 +- 2.0 points of hit rate",)
    assert found.more_room() == "max_size=1000 would answer 3 +- 2 points more of the lookups in memory"
