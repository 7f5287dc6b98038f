"""How many load at once, in all processes together."""

from __future__ import annotations

import gc
import itertools
import mmap
import os
import time
from pathlib import Path
from typing import Any

import pytest
import traced
from forking import in_fork
from holders import kill, orphan_of, process_with
from racing import race
from tracing import at_line

from cachekit.errors import TierUnavailableError
from cachekit.loading.slots import LoadSlots
from cachekit.runtime.backoff import wait_for
from cachekit.testing.processes import in_processes

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]


def all_free(directory: Path, limit: int) -> bool:
    these = LoadSlots("loads", limit, directory)
    held = [these.try_acquire() for _ in range(limit)]
    for slot in held:
        if slot is not None:
            slot.release()
    return None not in held


def test_there_are_as_many_as_the_limit_says(tmp_path: Path) -> None:
    """In one process, over two objects; whoever releases makes room for one."""
    slots = [LoadSlots("loads", 3, tmp_path), LoadSlots("loads", 3, tmp_path)]
    held = race(*[slots[number % 2].try_acquire for number in range(8)])
    got = [slot for slot in held if slot is not None]
    assert 1 <= len(got) <= 3  # of those that try in one moment, one may find a slot taken that is given up
    while len(got) < 3:
        more = slots[0].try_acquire()
        assert more is not None
        got.append(more)
    assert slots[1].try_acquire() is None
    got[0].release()
    got[0].release()
    assert [slot.is_held() for slot in got] == [False, True, True]
    again = slots[1].try_acquire()
    assert again is not None
    assert slots[0].try_acquire() is None
    for slot in [*got, again]:
        slot.release()
    assert all_free(tmp_path, 3)


def test_other_names_are_other_slots(tmp_path: Path) -> None:
    """Each bounds its own."""
    first, second = (LoadSlots(name, 1, tmp_path).try_acquire() for name in ("a", "b"))
    assert first is not None
    assert second is not None
    first.release()
    second.release()


def test_processes_share_them(tmp_path: Path) -> None:
    """4 processes, 2 slots: never more than two hold one, and everybody has a turn."""
    board = memoryview(mmap.mmap(-1, 4))

    def work(process: int) -> int:
        these = LoadSlots("loads", 2, tmp_path)
        most = 0
        for _ in range(40):
            slot = wait_for(these.try_acquire, time.monotonic() + 60)
            assert slot is not None
            board[process] = 1
            for _ in range(20):
                most = max(most, sum(board))
                os.sched_yield()
            board[process] = 0
            slot.release()
        return most

    assert max(in_processes(4, work)) <= 2
    assert all_free(tmp_path, 2)


def test_kill_9_frees_a_slot(tmp_path: Path) -> None:
    """At once."""
    these = LoadSlots("loads", 1, tmp_path)
    with process_with(LoadSlots("loads", 1, tmp_path).try_acquire) as holder:
        assert these.try_acquire() is None
        kill(holder)
        slot = these.try_acquire()
        assert slot is not None
        slot.release()


def test_a_child_holds_and_releases_nothing_of_its_parents(tmp_path: Path) -> None:
    """Its own slot is its own."""
    these = LoadSlots("loads", 2, tmp_path)
    slot = these.try_acquire()
    assert slot is not None

    def in_child() -> None:
        assert not slot.is_held()
        slot.release()
        mine = these.try_acquire()
        assert mine is not None
        assert these.try_acquire() is None

    assert in_fork(in_child)() == 0
    assert slot.is_held()
    assert not all_free(tmp_path, 2)
    slot.release()
    assert all_free(tmp_path, 2)


def test_a_surviving_child_does_not_keep_a_dead_parents_slot(tmp_path: Path) -> None:
    """It closed what it inherited."""
    with orphan_of(LoadSlots("loads", 1, tmp_path).try_acquire):
        assert all_free(tmp_path, 1)


def test_a_directory_that_fails_is_an_error_of_the_tier(tmp_path: Path) -> None:
    """And is used again when it is there."""
    these = LoadSlots("loads", 1, tmp_path / "gone")
    with pytest.raises(TierUnavailableError, match="gone"):
        these.try_acquire()
    (tmp_path / "gone").mkdir()
    slot = these.try_acquire()
    assert slot is not None
    slot.release()


@pytest.mark.parametrize(
    ("name", "limit", "error", "text"),
    [
        ("loads", 0, ValueError, "limit must be at least 1, not 0"),
        ("loads", True, TypeError, "limit must be an int, not True"),
        ("loads", 2.0, TypeError, "limit must be an int, not 2.0"),
        ("../x", 1, ValueError, "name must be of letters"),
        ("", 1, ValueError, "name must be of letters"),
    ],
)
def test_wrong_arguments(tmp_path: Path, name: str, limit: Any, error: type[Exception], text: str) -> None:
    """Named, with the value and what is right."""
    with pytest.raises(error, match=text):
        LoadSlots(name, limit, tmp_path)


def test_an_interrupted_call_leaves_nothing_taken(tmp_path: Path) -> None:
    """Wherever the signal strikes, while a slot is taken or given back; nor does a slot nobody has."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    def take_and_give() -> None:
        slot = these.try_acquire()
        kept.append(slot)  # its finalizer is not to be struck: what it raises is nobody's
        assert slot is not None
        slot.release()

    these = LoadSlots("loads", 1, tmp_path)
    kept: list[object] = []
    for number in itertools.count(1):
        try:
            struck = at_line(number, traced.LOAD_SLOTS, interrupt, take_and_give)
        except KeyboardInterrupt:
            struck = True
        kept.clear()
        gc.collect()  # what a traceback holds, or its finalizer would be struck the next time
        assert all_free(tmp_path, 1), f"line {number}"
        if not struck:
            break
    assert number > 8
    these.try_acquire()
    assert all_free(tmp_path, 1)
