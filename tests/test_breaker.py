"""The circuit breaker, on a clock that a test moves."""

from __future__ import annotations

import os

import inside
import pytest
from forking import in_fork
from racing import race

from cachekit.coherence.breaker import FIRST_PAUSE, LONGEST_PAUSE, CircuitBreaker
from cachekit.testing import ManualClock


def breaker_at(clock: ManualClock, jitter: float = 0.0) -> CircuitBreaker:
    return CircuitBreaker(clock.monotonic, jitter=lambda: jitter)


@pytest.fixture
def probed(clock: ManualClock) -> CircuitBreaker:
    """One that is open, and may be probed."""
    breaker = breaker_at(clock)
    breaker.trip()
    clock.advance(1)
    return breaker


def test_it_opens_at_the_first_failure() -> None:
    """One failure is an outage; further ones belong to it."""
    breaker = breaker_at(ManualClock())
    assert (breaker.state, breaker.refuses, breaker.outages) == ("closed", False, 0)
    assert breaker.trip()
    assert not breaker.trip()
    assert (breaker.state, breaker.refuses, breaker.outages) == ("open", True, 1)


def test_of_many_threads_one_begins_the_outage() -> None:
    """So one of them logs it."""
    breaker = breaker_at(ManualClock())
    assert sorted(race(*[breaker.trip] * 8)) == [False] * 7 + [True]


def test_pauses_double_up_to_the_longest() -> None:
    """From 0.1 s to 5 s, each counted from the failure before it."""
    clock = ManualClock()
    breaker = breaker_at(clock)
    breaker.trip()
    pauses = []
    for _ in range(8):
        pauses.append(round(inside.next_probe_in(breaker), 6))
        assert not breaker.begin_probe()
        clock.advance(inside.next_probe_in(breaker))
        assert breaker.begin_probe()
        breaker.probe_failed()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE, LONGEST_PAUSE)
    assert breaker.open_for == pytest.approx(sum(pauses))


def test_jitter_shortens_a_pause_by_up_to_half() -> None:
    """Processes that saw one failure do not come back in one moment."""
    breaker = breaker_at(ManualClock(), jitter=0.9)
    breaker.trip()
    assert inside.next_probe_in(breaker) == pytest.approx(0.055)


def test_one_probes_at_a_time(probed: CircuitBreaker) -> None:
    """A frozen tier is waited for once per pause, not once per thread."""
    assert sorted(race(*[probed.begin_probe] * 8)) == [False] * 7 + [True]


def test_it_closes_if_the_condition_holds(clock: ManualClock, probed: CircuitBreaker) -> None:
    """And begins again with the shortest pause, when it was in order for a while."""
    assert probed.begin_probe()
    probed.probe_failed()
    clock.advance(2)
    assert probed.begin_probe()
    assert probed.close_if(lambda: True) is None, "closed in the middle of a probe"
    assert probed.begin_closing()
    assert probed.close_if(lambda: False) is None
    assert probed.refuses
    assert probed.close_if(lambda: True) == pytest.approx(3)
    assert (probed.state, probed.refuses, probed.open_for) == ("closed", False, 0.0)
    clock.advance(1)
    probed.trip()
    assert inside.next_probe_in(probed) == pytest.approx(FIRST_PAUSE)
    assert probed.outages == 2


def test_what_fails_as_soon_as_it_is_trusted_waits_longer_each_time() -> None:
    """A server that answers a probe and refuses what callers need costs no outage every tenth of a second."""
    clock = ManualClock()
    breaker = breaker_at(clock)
    pauses = []
    for _ in range(8):
        breaker.trip()
        pauses.append(round(inside.next_probe_in(breaker), 6))
        clock.advance(inside.next_probe_in(breaker))
        assert breaker.begin_probe()
        assert breaker.begin_closing()
        assert breaker.close_if(lambda: True) is not None
        clock.advance(0.05)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    clock.advance(LONGEST_PAUSE)
    breaker.trip()
    assert inside.next_probe_in(breaker) == pytest.approx(FIRST_PAUSE)


def test_a_failure_while_it_closes_keeps_it_open(probed: CircuitBreaker) -> None:
    """Nothing is trusted that has failed since the probe succeeded."""
    assert probed.begin_probe()
    assert probed.begin_closing()
    assert not probed.trip()
    assert probed.close_if(lambda: True) is None
    assert (probed.state, probed.outages) == ("open", 1)


def test_a_failed_probe_of_a_closed_breaker_changes_nothing() -> None:
    """It is not an outage."""
    breaker = breaker_at(ManualClock())
    breaker.probe_failed()
    assert not breaker.begin_closing()
    assert breaker.state == "closed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_may_probe_when_the_parent_was_about_to(probed: CircuitBreaker) -> None:
    """Its prober stayed behind; the parent's goes on."""
    assert probed.begin_probe()

    def in_child() -> None:
        assert probed.refuses
        assert probed.begin_probe()

    assert in_fork(in_child)() == 0
    assert probed.state == "probing"
