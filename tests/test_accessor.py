"""A tier behind its breaker: what an outage costs, what is told of it, and that nothing missed is lost."""

from __future__ import annotations

import itertools
import logging
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import inside
import pytest
import traced
from outages import Outage
from tracing import at_line

from cachekit import CacheEntry, FileCache
from cachekit.coherence.accessor import UNAVAILABLE, TierAccessor
from cachekit.errors import CacheClosedError, LockTimeoutError, TierUnavailableError, ValueTooLargeError
from cachekit.testing import FaultyTier


def test_a_tier_whose_failures_take_long_waits_longer_each_time() -> None:
    """A stopped process holds its locks, say: probes succeed, and the next call is slow in vain."""
    out = Outage()
    pauses = []

    def fail_late(_: str) -> None:
        out.clock.advance(2)
        raise LockTimeoutError("a stopped process holds it")

    for _ in range(8):
        out.accessor.call(fail_late, "k")
        pauses.append(inside.next_probe_in(out.accessor.breaker))
        out.clock.advance(5)
        out.accessor.probe()
        assert not out.accessor.is_out
    for number, pause in enumerate(pauses):  # up to a half of each is left to chance
        assert min(0.1 * 2**number, 5) / 2 <= pause <= min(0.1 * 2**number, 5)


def test_a_lookup_is_counted_once_when_the_outage_ends_meanwhile() -> None:
    """By the accessor that refused it, or by the tier that was asked; wherever the breaker closes."""
    for number in itertools.count(1):
        out = Outage()
        out.begin()
        out.tier.mend()
        before = out.memory.get_stats().requests
        look = partial(out.accessor.call, out.tier.get, "k")
        reached = at_line(number, traced.ACCESS, out.probe, look)
        if not reached:
            assert number > 1
            break
        assert out.accessor.state == "closed"
        assert out.accessor.unavailable + out.memory.get_stats().requests - before == 1, number


def test_a_call_of_a_tier_in_order_is_the_tiers() -> None:
    """Result, arguments and keywords; the breaker stays closed."""
    out = Outage()
    assert out.accessor.call(int, "11", base=2) == 3
    assert out.accessor.state == "closed"
    assert not UNAVAILABLE


def test_an_outage_costs_one_failure_and_no_exception(caplog: pytest.LogCaptureFixture) -> None:
    """After the first failure the tier is not touched; one line in the log, and one when it is back."""
    out = Outage()
    with caplog.at_level(logging.INFO, "cachekit"):
        out.begin()
        assert [out.accessor.call(out.tier.get, "k") for _ in range(9)] == [UNAVAILABLE] * 9
        assert out.tier.calls["get"] == 1
        out.tier.mend()
        out.clock.advance(2)
        assert out.accessor.out_for == pytest.approx(2)
        out.accessor.probe()
        assert out.accessor.state == "closed"
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "file tier unavailable, bypassing it until it recovers: get: out, as the test asked for",
        "file tier recovered after 2.0 s, using it again: 9 calls were refused",
    ]
    # The end has the level of the beginning: a log that shows the one alone would tell of an endless outage.
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert (out.accessor.errors, out.accessor.refused, out.accessor.unavailable) == (1, 9, 9)
    assert (out.accessor.outages, out.accessor._job) == (1, None)


def test_lookups_without_an_answer_are_counted_once() -> None:
    """By the tier if it failed, by the accessor if it was refused; as many as were asked for."""
    for strict in (False, True):
        out = Outage(strict=strict)
        out.tier.fail()
        for _ in range(3):
            try:
                out.accessor.call(out.tier.get, "k")
            except TierUnavailableError:
                assert strict
        assert (out.tier.get_stats().unavailable, out.accessor.unavailable) == (1, 2)
        out.accessor.close()


def test_strict_raises_the_error_and_then_says_since_when() -> None:
    """The tier's own error first; while it is out, one of ours that says for how long."""
    out = Outage(strict=True)
    out.tier.fail()
    with pytest.raises(TierUnavailableError, match="as the test asked for"):
        out.accessor.call(out.tier.get, "k")
    out.clock.advance(3)
    with pytest.raises(TierUnavailableError, match=r"file tier has been unavailable for 3\.0 s"):
        out.accessor.call(out.tier.get, "k")
    out.accessor.close()


@pytest.mark.parametrize("error", [TypeError, ValueError, ValueTooLargeError, CacheClosedError])
def test_other_errors_pass_and_open_nothing(error: type[Exception]) -> None:
    """They say something of the call, not of the tier."""

    def operation() -> None:
        raise error("no")

    out = Outage()
    with pytest.raises(error):
        out.accessor.call(operation)
    assert (out.accessor.state, out.accessor.errors) == ("closed", 0)


def test_a_full_tier_is_read_and_not_written(caplog: pytest.LogCaptureFixture) -> None:
    """Counted, logged once until a write succeeds; the breaker stays closed."""
    out = Outage()
    out.fill("k")
    out.tier.fail("set", full=True)
    for _ in range(3):
        assert out.accessor.call(out.tier.set, "k", CacheEntry("k", 1)) is UNAVAILABLE
        out.accessor.missed_keys(["k"])
    assert out.accessor.state == "closed"
    assert out.accessor.is_full
    assert out.accessor.call(out.tier.get, "k") is None, "what the write should have replaced is served"
    assert out.accessor.is_full, "a read says nothing about room"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert out.accessor.errors == 3
    out.tier.mend()
    assert out.accessor.call(out.tier.set, "k", CacheEntry("k", 1)) is True
    assert not out.accessor.is_full


def test_full_survives_pickling() -> None:
    """Errors cross process boundaries as they are."""
    for error in (TierUnavailableError("x", full=True), LockTimeoutError("x"), TierUnavailableError("x")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.args, copy.full) == (type(error), error.args, error.full)


def test_refused_lookups_are_counted_by_key(tmp_path: Path) -> None:
    """One for each key that was asked for; what is no lookup does not count."""
    tier: Any = FaultyTier(FileCache(tmp_path, 64))
    accessor = TierAccessor("file", tier)
    tier.fail()
    assert accessor.call(tier.size) is UNAVAILABLE
    for operation in (tier.get, tier.look, tier.peek):
        assert accessor.call(operation, "a") is UNAVAILABLE
    assert accessor.call(tier.get_many, ["a", "b"]) is UNAVAILABLE
    accessor.close()
    assert (accessor.refused, accessor.unavailable) == (4, 4)
