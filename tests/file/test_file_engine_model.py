"""The engine against a plain dict: every operation, close and reopen, growth, crashes."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import inside
import pytest
from exploring import explored
from file_checks import SMALL, check
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cachekit.testing import ManualClock
from cachekit.testing.faults import CrashError, StoppingEffects
from cachekit.tiers.fences import EPOCH, WRITING
from cachekit.tiers.file.engine import index_growth
from cachekit.tiers.file.engine.engine import Engine
from cachekit.tiers.file.engine.format import Record

KEYS = st.sampled_from([f"k{n}" for n in range(12)] + ["", "ключ", "\ud800", "long" * 60])
SIZES = st.sampled_from([0, 1, 31, 200, 900, 1200, 3000])
TAGS = st.sampled_from([(), ("x",), ("x", "y")])
LIVES = st.sampled_from([math.inf, 5.0, 50.0])
ROOMY = replace(SMALL, limit=4 << 20)

#: What a caller of the engine may store with a payload.
FIELDS = ("created", "expiry", "stale_until", "flags", "server_token", "names")


@dataclass
class Expected:
    payload: bytes
    created: float
    expiry: float
    stale_until: float
    flags: int
    server_token: int
    names: bytes
    tags: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}


class EngineAgainstDict(RuleBasedStateMachine):
    """With room for everything, a directory is a dict; a crash leaves the last operation done or undone."""

    geometry = ROOMY
    may_evict = False

    def __init__(self) -> None:
        super().__init__()
        self.path = tempfile.mkdtemp(prefix="cachekit-test-")
        self.clock = ManualClock()
        self.effects = StoppingEffects()
        self.crashed = False
        self.model: dict[str, Expected] = {}
        self.unsure: set[str] = set()
        self.number = 0

    @initialize()
    def open(self) -> None:
        self.effects = StoppingEffects()
        self.engine = Engine(self.path, geometry=self.geometry, clock=self.clock, effects=self.effects)

    def expected(self, payload_size: int, life: float, tags: tuple[str, ...]) -> Expected:
        self.number += 1
        payload = (b"%d:" % self.number).ljust(payload_size, b"*")
        expiry = self.clock.time() + life
        return Expected(
            payload,
            float(self.number),
            expiry,
            expiry + self.number,
            self.number % 65536,
            self.number * 2**40 % 2**64,
            b"n" * (self.number % 40),
            tags,
        )

    def put_(self, key: str, new: Expected) -> None:
        before = self.engine.token(key)
        token = self.engine.put(
            key,
            new.payload,
            **new.fields(),
            tags=self.engine.tag_tokens(new.tags),
        )
        assert token == self.engine.token(key) != before

    @rule(key=KEYS, size=SIZES, life=LIVES, tags=TAGS)
    def put(self, key: str, size: int, life: float, tags: tuple[str, ...]) -> None:
        new = self.expected(size, life, tags)
        self.put_(key, new)
        self.model[key] = new

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        live = self.is_live(key)
        before = self.engine.token(key)
        removed, token = self.engine.delete(key)
        assert removed == live or self.may_evict
        assert token == self.engine.token(key) != before
        self.model.pop(key, None)

    @rule(key=KEYS, other=KEYS, size=SIZES)
    def add(self, key: str, other: str, size: int) -> None:
        token = self.engine.token(key)
        if other != key and size > 200:
            self.put(other, size, math.inf, ())
        new = self.expected(size, math.inf, ())
        current = self.engine.token(key) == token
        current_and_quiet = current and not token & WRITING
        outcome = self.engine.add(key, new.payload, token, **new.fields())
        if not current_and_quiet:
            assert outcome is False
        elif isinstance(outcome, Record):
            assert self.is_live(key)
            self.agree(key, outcome)
        else:
            assert outcome is True
            assert not self.is_live(key) or self.may_evict
            self.model[key] = new
        assert (self.engine.token(key) == token) is current

    @rule(key=KEYS, size=SIZES)
    def put_expecting(self, key: str, size: int) -> None:
        new = self.expected(size, math.inf, ())
        token = self.engine.token(key)
        assert self.engine.put(key, new.payload, expect=token ^ 2) is None
        stored = self.engine.put(key, new.payload, **new.fields(), expect=token)
        assert (stored is None) is bool(token & WRITING)
        if stored:
            self.model[key] = new

    @rule(tag=st.sampled_from(["x", "y", "z"]))
    def invalidate_tag(self, tag: str) -> None:
        words = inside.shard(self.engine).tokens.words
        epoch = words[EPOCH]
        self.engine.invalidate_tags([tag])
        assert words[EPOCH] != epoch
        for key, one in list(self.model.items()):
            if tag in one.tags:
                del self.model[key]

    @rule()
    def clear(self) -> None:
        token = self.engine.token("k1")
        self.engine.clear()
        assert self.engine.token("k1") != token
        self.model.clear()

    @rule()
    def remove_expired(self) -> None:
        self.engine.remove_expired()

    @rule()
    def tick(self) -> None:
        self.engine.tick()

    @rule(seconds=st.sampled_from([1, 10]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        self.open()

    @rule(
        key=KEYS,
        size=SIZES,
        allowed=st.integers(0, 25),
        torn=st.sampled_from([0.0, 0.5]),
        action=st.sampled_from(["put", "delete", "clear", "expire"]),
    )
    def crash(self, key: str, size: int, allowed: int, torn: float, action: str) -> None:
        """Stopped after so many effects, and opened again."""
        new = self.expected(size, math.inf, ())
        self.effects.count, self.effects.allowed, self.effects.torn = 0, allowed, torn
        before = dict(self.model)
        try:
            if action == "put":
                self.model[key] = new
                self.engine.put(key, new.payload, **new.fields())
            elif action == "delete":
                self.model.pop(key, None)
                self.engine.delete(key)
            elif action == "clear":
                self.model.clear()
                self.engine.clear()
            else:
                self.engine.remove_expired()
        except CrashError:
            self.crashed = True
        self.effects.allowed = None
        self.effects = StoppingEffects()
        self.engine.close()
        self.open()
        if action == "clear":
            for name, one in before.items():
                found = self.engine.get(name)
                if found is not None:
                    assert found.payload == one.payload
                    self.model[name] = one
        elif action in ("put", "delete"):
            found = self.engine.get(key)
            if found is not None and key in before and found.payload == before[key].payload:
                self.model[key] = before[key]
            elif found is None and not self.is_live(key, before):
                self.model.pop(key, None)

    def is_live(self, key: str, model: dict[str, Expected] | None = None) -> bool:
        one = (self.model if model is None else model).get(key)
        return one is not None and self.clock.time() < one.expiry

    def agree(self, key: str, found: Record) -> None:
        one = self.model[key]
        assert found.payload == one.payload
        assert found.content[found.names : found.start] == one.names
        fields = {name: getattr(found, name) for name in FIELDS if name != "names"}
        assert fields | {"names": one.names} == one.fields()
        assert len(found.tags) == len(one.tags)

    @invariant()
    def agrees(self) -> None:
        check(self.engine, exact=not self.crashed)
        live = {key for key in self.model if self.is_live(key)}
        found = {key: self.engine.get(key) for key in [*self.model, "k0", "never"]}
        for key, record in found.items():
            if record is None:
                assert key not in live or self.may_evict, key
            else:
                assert key in live, key
                self.agree(key, record)
        keys = list(self.engine.keys())
        assert sorted(keys) == sorted(key for key in {*found, *live} if found.get(key) is not None)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
        shutil.rmtree(self.path)


class SmallEngineAgainstDict(EngineAgainstDict):
    """Without room for everything, an entry may be gone; what is found is still the right one."""

    geometry = SMALL
    may_evict = True


class GrowingEngineAgainstDict(EngineAgainstDict):
    """With an index that stays half copied for most of the time."""

    geometry = replace(ROOMY, capacity=16)


@pytest.fixture(autouse=True, scope="module")
def slot_by_slot() -> Iterator[None]:
    """Each turn with the lock copies one slot of an index that grows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_growth, "_SLICE", 1)
        yield


EngineAgainstDict.TestCase.settings = explored(examples=0.5, steps=1.5)
SmallEngineAgainstDict.TestCase.settings = explored(examples=0.5, steps=1.5)
GrowingEngineAgainstDict.TestCase.settings = explored(examples=0.5, steps=1.5)
TestEngineAgainstDict = EngineAgainstDict.TestCase
TestSmallEngineAgainstDict = SmallEngineAgainstDict.TestCase
TestGrowingEngineAgainstDict = GrowingEngineAgainstDict.TestCase
