"""Any sequence of calls, changes, failures and invalidations: what verification counts, and what it tells."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from cachekit import IntelligentCache, LoadOptions, MemoryCache
from cachekit.testing import ManualClock

LIFE = 10.0
PAUSE = 0.1  # between two verifications of a function

Act: TypeAlias = tuple[str, Any]
Maybe: TypeAlias = tuple[bool, Act]
Call: TypeAlias = tuple[Maybe, float, tuple[str, int], bool, Maybe]

#: More of one, so that most calls are hits.
entries = st.sampled_from([("f", 0), ("f", 0), ("f", 0), ("f", 1), ("g", 0)])
acts = st.one_of(
    st.tuples(st.just("change"), entries),
    st.tuples(st.just("invalidate"), entries),
    st.tuples(st.just("set"), entries),
    st.tuples(st.just("touch"), entries),
    st.tuples(st.sampled_from(["tag", "clear"]), st.none()),
    st.tuples(st.just("advance"), st.sampled_from([0.2, 3.0, 3.0, LIFE])),
)
#: What happens before a call, and during the load of its verification, if anything.
sometimes = st.tuples(st.sampled_from([True, False]), acts)
pauses = st.sampled_from([0.2, 0.2, 0.2, 0.0, 0.05])
fails = st.sampled_from([False, False, False, False, True])
calls = st.lists(st.tuples(sometimes, pauses, entries, fails, sometimes), min_size=4, max_size=20)


class Told:
    """What the world answers. It is never equal to itself by `==`, because it holds a NaN."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.rest = float("nan")


class Story:
    """A cache of two functions, and a model of what it holds and counts."""

    def __init__(self, replaces: bool) -> None:
        self.clock = ManualClock()
        self.told: list[tuple[object, object]] = []
        self.cache = IntelligentCache(
            MemoryCache(clock=self.clock),
            file_cache=None,
            load=LoadOptions(
                verify=1.0,
                verify_budget=1.0,
                verify_action="replace" if replaces else "report",
                on_mismatch=lambda _, cached, fresh: self.told.append((cached.answer, fresh.answer)),
            ),
        )
        self.f: Any = self.cache.cached(name="f", ttl=LIFE, tags={"f"})(partial(self.load, "f"))
        self.fails = False
        self.meanwhile: Act | None = None
        # The model. The world's answer and the stored one with its end, for each entry.
        self.replaces = replaces
        self.world = {(name, key): 0 for name in "fg" for key in (0, 1)}
        self.held: dict[tuple[str, int], tuple[object, float]] = {}
        self.due = {"f": 0.0, "g": 0.0}
        self.counts = {"f": [0, 0], "g": [0, 0]}
        self.expected: list[tuple[object, object]] = []
        self.broken: set[tuple[str, int]] = set()  # entries that were written or removed since the call

    def load(self, name: str, key: int) -> Told:
        act, self.meanwhile = self.meanwhile, None
        if act is not None and threading.current_thread() is not threading.main_thread():
            self.act(*act)
        if self.fails:
            raise LookupError
        return Told(self.world[name, key])

    # -- what happens ----------------------------------------------------------------------------------------

    def act(self, what: str, subject: Any) -> None:
        """Do something to the cache and to the model."""
        if what == "change":
            self.world[subject] += 1
        elif what == "advance":
            self.clock.advance(subject)
        elif what == "set":
            self.cache.set(self.key(subject), Told("set"), ttl=LIFE, tags={subject[0]})
            self.held[subject] = "set", self.now() + LIFE
            self.broken.add(subject)
        elif what == "touch":
            self.cache.touch(self.key(subject), LIFE)
            if self.is_held(subject):
                self.held[subject] = self.held[subject][0], self.now() + LIFE
                self.broken.add(subject)
        else:
            gone = (
                [subject]
                if what == "invalidate"
                else [one for one in self.world if what == "clear" or one[0] == "f"]
            )
            for one in gone:
                self.held.pop(one, None)
                self.broken.add(one)
            if what == "invalidate":
                self.cache.delete(self.key(subject))
            elif what == "tag":
                self.cache.invalidate_by_tags({"f"})
            else:
                self.cache.clear()

    def call(self, entry: tuple[str, int], meanwhile: Act | None) -> None:
        """Call a function, wait for its verification, and expect what the model does."""
        name, key = entry
        self.meanwhile = meanwhile
        hit = self.is_held(entry)
        expected = self.held[entry][0] if hit else self.world[entry]
        began, self.broken = self.now(), set()
        try:
            got = self.f(key) if name == "f" else self.ask(key)
            assert got.answer == expected
        except LookupError:
            assert self.fails
            assert not hit
            return
        for thread in threading.enumerate():
            if thread.name == "cachekit-load":
                thread.join(60)
        if not hit:
            self.held[entry] = expected, began + LIFE
        elif began >= self.due[name]:
            self.verified(entry, expected, began)

    def ask(self, key: int) -> Any:
        return self.cache.get_or_set(self.key(("g", key)), partial(self.load, "g", key), ttl=LIFE, tags={"g"})

    # -- the model ------------------------------------------------------------------------------------

    def verified(self, entry: tuple[str, int], cached: object, began: float) -> None:
        name = entry[0]
        self.due[name] = began + max(PAUSE, self.now() - began)
        if self.fails or entry in self.broken or not self.is_held(entry):
            return
        self.counts[name][0] += 1
        fresh = self.world[entry]
        if cached != fresh:
            self.counts[name][1] += 1
            self.expected.append((cached, fresh))
            if self.replaces:
                self.held[entry] = fresh, self.now() + LIFE

    def now(self) -> float:
        return self.clock.monotonic()

    def is_held(self, entry: tuple[str, int]) -> bool:
        return entry in self.held and self.held[entry][1] > self.now()

    def key(self, entry: tuple[str, int]) -> str:
        return str(self.f.key(entry[1])) if entry[0] == "f" else f"g{entry[1]}"

    def check(self) -> None:
        """Expect the statistics, the figures of each function and the reported differences of the model."""
        figures = [list(one) for one in self.cache.verifications().values() if one.verified]
        assert sorted(figures) == sorted(one for one in self.counts.values() if one[0])
        combined = self.cache.get_stats()["combined"]
        assert [combined.verified, combined.mismatches] == [
            sum(one) for one in zip(*self.counts.values(), strict=True)
        ]
        assert self.told == self.expected

    def check_health(self) -> None:
        """Expect a reason for each function with a difference."""
        reasons = [one for one in self.cache.health().reasons if one.cause == "mismatches"]
        assert len(reasons) == sum(bool(mismatches) for _, mismatches in self.counts.values())


@given(calls, st.booleans())
def test_any_sequence(calls: list[Call], replaces: bool) -> None:
    """A difference counts exactly if the world answers something else, and the entry is as it was."""
    story = Story(replaces)
    with story.cache:
        for (is_before, before), pause, entry, fails, (is_meanwhile, meanwhile) in calls:
            if is_before:
                story.act(*before)
            story.clock.advance(pause)
            story.fails = fails
            story.call(entry, meanwhile if is_meanwhile else None)
            story.check()
        story.check_health()
