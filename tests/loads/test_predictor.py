"""The predictor: which keys follow, and how much it may waste."""

from __future__ import annotations

from random import Random
from typing import Any

from cachekit import MemoryCache
from cachekit.loading.predictor import Predictor, PrefetchCounters, Unproven
from cachekit.loading.successors import SuccessorRow


def test_threads_and_tasks_have_sequences_of_their_own() -> None:
    """Callers that alternate at random teach what each of them asks for next."""
    random = Random(1)
    predictor = Predictor(1000, 1, 0.25, 10_000, Unproven(10_000), PrefetchCounters())
    for _ in range(3):
        left = {flow: [f"{flow}:{number}" for number in range(30)] for flow in range(4)}
        wrong = right = 0
        while left:
            flow = random.choice(list(left))
            key = left[flow].pop(0)
            ahead = predictor.missed(key, flow, 0)
            right += ahead == left[flow][:1] != []
            wrong += bool(left[flow]) and ahead not in ([], left[flow][:1])
            for one in ahead:
                predictor.dropped(one)
            if not left[flow]:
                del left[flow]
    assert (right, wrong) == (4 * 29, 0)


def test_a_successor_comes_in_two_of_three_cases() -> None:
    """One that comes in half of them would cost more loads than it saves."""
    for others, expected in ((0, "b"), (1, "b"), (2, "")):
        row = SuccessorRow()
        for key in ["b", *(f"other {number}" for number in range(others)), "b"]:
            row.add(key)
        assert row.next() == expected


class Simulated:
    """A predictor over a memory tier into which a prefetch lands at once."""

    def __init__(self, size: int, **options: Any) -> None:
        numbers: dict[str, Any] = {"rows": 4 * size, "depth": 4, "max_waste": 0.25} | options
        self.memory = MemoryCache(size, cleanup_interval=None)
        self.predictor = Predictor(**numbers, size=size, unproven=Unproven(size), totals=PrefetchCounters())
        self.unproven: set[str] = set()
        self.requests = self.misses = 0
        self.prefetching = False
        self.memory.on_removal(self._removed)

    def _removed(self, key: str, *_: object) -> None:
        if key in self.unproven:
            self.unproven.discard(key)
            self.predictor.lost(key)
        elif self.prefetching:
            self.predictor.pushed_out(key)

    def request(self, key: str) -> None:
        self.requests += 1
        ahead: list[str] = []
        if self.memory.get_value(key) is None:
            self.misses += 1
            ahead = self.predictor.missed(key, 0, self.requests)
            self.memory.set_value(key, 1)
        elif key in self.unproven:
            self.unproven.discard(key)
            ahead = self.predictor.hit(key, 0)
        for one in ahead:
            if one in self.memory:
                self.predictor.dropped(one)
                continue
            self.predictor.begins()
            self.prefetching = True
            self.memory.set_value(one, 1)
            self.prefetching = False
            self.unproven.add(one)
            self.predictor.landed(one, True)

    @property
    def loads(self) -> int:
        return self.misses + self.predictor.info().issued


def test_a_stream_made_to_deceive() -> None:
    """Each key has one successor three times, and then another one: the waste stays within its bound."""
    random, simulated, plain = Random(1), Simulated(100), Simulated(100, rows=1)
    for _ in range(40):
        keys = [f"k{number}" for number in range(600)]
        random.shuffle(keys)
        pairs = [keys[at : at + 2] for at in range(0, len(keys), 2)]
        for _ in range(3):
            random.shuffle(pairs)
            for pair in pairs:
                for key in pair:
                    simulated.request(key)
                    plain.request(key)
    info = simulated.predictor.info()
    assert info.wasted <= 32 + simulated.requests / 200 + 0.25 * info.useful
    assert info.wasted > 32
    assert simulated.loads <= 1.03 * plain.misses


def test_a_wrong_key_is_tried_rarely() -> None:
    """After two wrong predictions in a row, one time in 16."""
    predictor = Predictor(100, 1, 1.0, 10_000, Unproven(10_000), PrefetchCounters())

    def predicted() -> bool:
        found = predictor.missed("a", 0, 0)
        if found:
            predictor.lost("b")
        predictor._last.clear()  # so that it learns nothing of what comes instead
        return bool(found)

    for _ in range(2):
        predictor.missed("a", 0, 0)
        predictor.missed("b", 0, 0)
        predictor._last.clear()
    outcomes = [predicted() for _ in range(98)]
    assert outcomes[:2] == [True, True]
    assert sum(outcomes[2:]) == 96 / 16


def test_a_tenth_of_memory_is_unproven_at_most() -> None:
    """The prefetchers of one cache share it."""
    unproven, totals = Unproven(40), PrefetchCounters()
    both = [Predictor(1000, 1, 0.25, 40, unproven, totals) for _ in range(2)]
    begun = 0
    for predictor in both:
        for turn in range(3):
            for number in range(20):
                predictor._last.clear()
                predictor.missed(f"a{number}", 0, 0)
                if turn < 2:
                    predictor.missed(f"b{number}", 0, 0)
        begun += len(predictor._prefetched)
    assert begun == unproven.count == 4
    assert both[0].info().paused.startswith("a tenth of memory")
    for predictor in both:
        predictor.close()
    assert unproven.count == 0


def test_a_miss_of_what_was_pushed_out_costs() -> None:
    """Within one size of requests."""
    predictor = Predictor(100, 1, 0.25, 50, Unproven(50), PrefetchCounters())
    predictor.pushed_out("a")
    predictor.pushed_out("b")
    predictor.missed("a", 0, 10)
    predictor.missed("b", 0, 60)
    predictor.missed("a", 0, 61)
    assert predictor.info().pushed_out == 1
    assert predictor.info().saved_loads_net == -1


def test_the_depth_follows_the_latency() -> None:
    """It doubles while most useful ones are late, up to its bound, and falls when none is."""
    predictor = Predictor(1000, 16, 0.25, 10_000, Unproven(10_000), PrefetchCounters())
    keys = [f"k{number}" for number in range(100)]
    for _ in range(2):
        predictor._last.clear()
        for key in keys:
            predictor.missed(key, 0, 0)
    depths = set()
    for _ in range(8):
        for key in keys:
            predictor.missed(key, 0, 0)
            depths.add(predictor.info().depth)
    assert depths == {1, 2, 4, 8, 16}
    for _ in range(8):
        for key in keys:
            if key in predictor._prefetched:
                predictor.landed(key, True)
                predictor.hit(key, 0)
            else:
                predictor.missed(key, 0, 0)
    assert predictor.info().depth == 1


def test_what_is_never_asked_for_grows_old() -> None:
    """In a memory tier where nothing is evicted it would stay unproven for ever."""
    predictor = Predictor(100, 1, 0.25, 10, Unproven(10), PrefetchCounters())
    for turn in range(3):
        predictor._last.clear()
        predictor.missed("a", 0, turn)
        if turn < 2:
            predictor.missed("b", 0, turn)
    predictor.landed("b", True)
    assert predictor._unproven.count == 1
    predictor.missed("z", 0, 100)
    assert predictor._unproven.count == 0
    assert predictor.info().wasted == 1


def test_it_keeps_no_more_than_its_rows() -> None:
    """Whatever is asked for."""
    predictor = Predictor(50, 4, 0.25, 20, Unproven(20), PrefetchCounters())
    for number in range(5_000):
        predictor.missed(f"k{number}", number, number)
        predictor.pushed_out(f"p{number}")
    assert len(predictor._rows) <= 50
    assert len(predictor._last) <= 256
    assert len(predictor._pushed_out) <= 20
    assert len(predictor._wrong) <= 50
