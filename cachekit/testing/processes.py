"""Work in several processes at once: started together, ended together, with their errors."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


def fork() -> int:
    """Call `os.fork` without the warning of Python 3.12 about other threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def in_processes(count: int, work: Callable[[int], T]) -> list[T]:
    """Call `work(0)` to `work(count - 1)`, each in a forked process, all from the same moment.

    Args:
        count: The number of processes.
        work: The function; its result must be picklable.

    Returns:
        The results in order.

    Raises:
        AssertionError: one of the calls raised; the message has its traceback.
    """
    go, gate = os.pipe()
    children: list[tuple[int, int]] = []
    try:
        for number in range(count):
            mine, theirs = os.pipe()
            sys.stdout.flush()
            child = fork()
            if not child:
                os.close(gate)
                os.close(mine)
                os.read(go, 1)  # returns when the parent closes the other end
                _end(theirs, work, number)
            os.close(theirs)
            children.append((child, mine))
        os.close(gate)
        gate = -1
        return [_collect(mine, number) for number, (_, mine) in enumerate(children)]
    finally:
        os.close(go)
        if gate >= 0:
            os.close(gate)
        for child, mine in children:
            os.close(mine)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _end(pipe: int, work: Callable[[int], Any], number: int) -> NoReturn:
    try:
        try:
            outcome = pickle.dumps((True, work(number)))
        except BaseException:  # noqa: BLE001  # the parent raises it
            outcome = pickle.dumps((False, traceback.format_exc()))
        with open(pipe, "wb") as file:
            file.write(outcome)
    finally:
        os._exit(0)


def _collect(pipe: int, number: int) -> Any:
    with open(pipe, "rb", closefd=False) as file:
        outcome = file.read()
    assert outcome, f"process {number} died"
    fine, result = pickle.loads(outcome)
    assert fine, f"process {number} raised:\n{result}"
    return result
