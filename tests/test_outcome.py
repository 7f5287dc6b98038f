"""Outcome: an error that many callers get stays as it was when it was stored."""

from __future__ import annotations

import contextlib
import gc
import traceback
import weakref

import pytest

from cachekit.runtime.outcome import Outcome


class Held:
    """What a failing function has a local name for."""


held: list[weakref.ref[Held]] = []


def failing() -> str:
    mine = Held()
    held.append(weakref.ref(mine))
    try:
        raise KeyError("the cause")
    except KeyError:
        raise LookupError("no")  # noqa: B904  # its context is the question


def outcome_of_failing() -> Outcome[str]:
    try:
        return Outcome(failing())
    except LookupError as error:
        return Outcome(error=error)


def get_while_handling(outcome: Outcome[str]) -> LookupError:
    """Get the outcome in the middle of handling something else, and return the error."""
    try:
        raise RuntimeError("the caller's")
    except RuntimeError:
        with pytest.raises(LookupError) as caught:
            outcome.get()
    return caught.value


def test_a_value() -> None:
    outcome: Outcome[str] = Outcome("value")
    assert outcome.get() == outcome.get() == "value"
    assert outcome.error is None


def test_each_caller_gets_the_error_as_it_was_stored() -> None:
    """Neither the frames nor the context of one caller reach the next."""
    outcome = outcome_of_failing()
    errors = [get_while_handling(outcome) for _ in range(3)]
    assert errors[0] is errors[1] is errors[2]
    assert isinstance(errors[0].__context__, KeyError)
    assert len(traceback.extract_tb(errors[0].__traceback__)) < 6


def test_an_error_that_was_raised_is_in_no_cycle() -> None:
    """What the failing function held goes with the error, without the garbage collector."""
    gc.disable()
    try:
        outcome = outcome_of_failing()
        with contextlib.suppress(LookupError):
            outcome.get()
        assert held[-1]() is not None
        del outcome
        assert held[-1]() is None
    finally:
        gc.enable()
