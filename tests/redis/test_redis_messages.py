"""What a reader of the bus notices: nothing if all is there, everything if anything is not."""

from __future__ import annotations

import itertools
import json
import re
import tracemalloc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from bus_notes import Notes
from hypothesis import example, given
from hypothesis import strategies as st

from cachekit.model.patterns import literal_beginning
from cachekit.tiers.redis import bus_protocol
from cachekit.tiers.redis.bus_protocol import Inbox, Outbox, portions


def sent(outbox: Outbox, key: str = "k") -> bytes:
    number, text = outbox.message("keys", [key])
    outbox.settle(number)
    return text.encode()


def beat(outbox: Outbox, **how: bool) -> bytes | None:
    due = outbox.heartbeat(**how)
    if due is None:
        return None
    outbox.confirm(due[0])
    return due[1].encode()


def two_beats(outbox: Outbox) -> list[bytes]:
    """A heartbeat speaks of what was settled when the one before was due."""
    return [one for one in (beat(outbox), beat(outbox)) if one is not None]


@given(st.sampled_from(["keys", "tags"]), st.lists(st.text(st.characters(), max_size=8), max_size=4))
def test_messages_are_json(kind: Any, names: list[str]) -> None:
    """Other versions read them, whatever is in a key: quotes, line ends, lone surrogates."""
    outbox = Outbox()
    for body in names, None, ", ".join(names):
        number, text = outbox.message(kind, body)
        assert text == json.dumps([1, outbox.writer, number, kind, body], separators=(",", ":"))


def test_kinds() -> None:
    """Each kind of message reaches the method that it is for."""
    notes, outbox = Notes(), Outbox()
    inbox = Inbox(lambda: notes)
    for kind, body in (("keys", ["a", "\ud800"]), ("tags", ["t"]), ("pattern", "u.*"), ("all", None)):
        inbox.receive(outbox.message(kind, body)[1].encode(), 0)  # type: ignore[arg-type]
    assert notes.told == [("keys", ["a", "\ud800"]), ("tags", ["t"]), ("pattern", "u"), ("all", None)]


def test_what_cannot_be_read_is_a_gap(subtests: pytest.Subtests) -> None:
    """Garbage, other versions, and heartbeats of what never came."""
    rows: list[bytes] = [
        b"",
        b"nothing",
        b"{}",
        b"[]",
        b"[1,2]",
        b'[2,"000000000000000000",1,"keys",["k"]]',
        b'[1,5,1,"keys",["k"]]',
        b'[1,"000000000000000000",1,"keys","k"]',
        b'[1,"000000000000000000",1,"keys",[5]]',
        b'[1,"000000000000000000",1,"other",[]]',
        b'[1,"000000000000000000",1,"tags",null]',
        b'[1,"000000000000000000",0,"beat",[1]]',
        b'[1,"000000000000000000",0,"beat",["a","b"]]',
        b'[1,"000000000000000000",0,"beat",[0,3]]',
        b"\xff",
        b'[1,"000000000000000000",1,"pattern",null]',
        b"[" * 100_000,
        b'[1,"w",1,"keys",["k"]]',
        b'[1,"%s",1,"keys",["k"]]' % (b"0" * 1000),
        b'[1,"000000000000000000",-1,"keys",["k"]]',
        b'[1,"000000000000000000",%d,"keys",["k"]]' % (1 << 70),
        b'[1,"000000000000000000",true,"keys",["k"]]',
        b'[1,"000000000000000000",0,"beat",[0,%d]]' % (1 << 70),
        b'[1,"000000000000000000",1,"keys",["%s"]]' % (b"k" * (1 << 20)),
    ]
    for message in rows:
        with subtests.test(message=message):
            notes = Notes()
            Inbox(lambda: notes).receive(message, 0)  # noqa: B023
            assert notes.told == [("all", None)]


def test_a_lost_message_is_noticed_by_the_heartbeat() -> None:
    """Also the last one, after which nothing else comes."""
    notes, outbox = Notes(), Outbox()
    inbox = Inbox(lambda: notes)
    inbox.receive(sent(outbox), 0)
    sent(outbox)  # lost
    (heartbeat,) = two_beats(outbox)
    assert notes.gaps == 0
    inbox.receive(heartbeat, 1)
    assert notes.gaps == 1


def test_the_only_message_lost_is_noticed_too() -> None:
    """A writer of whom nothing else was ever heard."""
    notes, outbox = Notes(), Outbox()
    sent(outbox)
    (heartbeat,) = two_beats(outbox)
    Inbox(lambda: notes).receive(heartbeat, 1)
    assert notes.gaps == 1


def test_a_heartbeat_that_does_not_come_is_noticed() -> None:
    """The writer, or its way to the server, is gone."""
    notes, outbox = Notes(), Outbox()
    inbox = Inbox(lambda: notes)
    inbox.receive(sent(outbox), 100)
    inbox.tick(100 + bus_protocol.PATIENCE)
    assert notes.gaps == 0
    inbox.tick(100.1 + bus_protocol.PATIENCE)
    assert notes.gaps == 1
    inbox.tick(200)
    assert notes.gaps == 1


def test_a_lost_heartbeat_is_noticed_by_the_next() -> None:
    """It could have spoken of messages that were lost as well."""
    notes, outbox = Notes(), Outbox()
    inbox = Inbox(lambda: notes)
    inbox.receive(sent(outbox), 0)
    inbox.receive(two_beats(outbox)[0], 1)
    sent(outbox)
    two_beats(outbox)  # both lost
    inbox.receive(sent(outbox), 2)
    inbox.receive(two_beats(outbox)[0], 3)
    assert notes.gaps == 1


def test_a_writer_that_never_pauses_is_caught_up_with() -> None:
    """Who begins to listen in the middle, or lost one, is a few heartbeats later as good as others."""
    notes, outbox = Notes(), Outbox()
    inbox = Inbox(lambda: notes)
    gaps = []
    for period in range(20):
        for number in range(10):
            message = sent(outbox, f"{period}:{number}")
            if (period, number) not in ((0, 0), (10, 5)):
                inbox.receive(message, period)
        heartbeat = beat(outbox)
        if heartbeat is not None:
            inbox.receive(heartbeat, period)
        inbox.tick(period)
        gaps.append(notes.gaps)
    assert gaps[:3] == [0, 1, 1], "the first message of all is missing"
    assert gaps[3:] == [1] * 8 + [2] * 9, "the later one is noticed, once"


def test_a_late_heartbeat_is_no_second_gap() -> None:
    """Nor does it make anything of what other writers have said."""
    notes, late, quick = Notes(), Outbox(), Outbox()
    inbox = Inbox(lambda: notes)
    inbox.receive(sent(late), 0)
    inbox.receive(sent(quick), bus_protocol.PATIENCE)
    inbox.tick(bus_protocol.PATIENCE + 1)
    assert notes.gaps == 1
    for outbox in (late, quick):
        inbox.receive(two_beats(outbox)[0], bus_protocol.PATIENCE + 1)
    inbox.tick(100)
    assert notes.gaps == 1


def test_a_heartbeat_does_not_speak_of_what_is_in_hand() -> None:
    """A slow thread's message may still come."""
    outbox = Outbox()
    number, slow = outbox.message("keys", ["slow"])
    quick = sent(outbox)
    assert two_beats(outbox) == []
    outbox.settle(number)
    (heartbeat,) = two_beats(outbox)
    notes = Notes()
    inbox = Inbox(lambda: notes)
    for message in (quick, slow.encode(), heartbeat):
        inbox.receive(message, 0)
    assert notes.gaps == 0
    assert outbox.heartbeat() is None


def test_the_last_heartbeat_speaks_of_everything() -> None:
    """A cache that is closed leaves no listener waiting."""
    outbox = Outbox()
    message = sent(outbox)
    heartbeat = beat(outbox, final=True)
    assert heartbeat is not None
    notes = Notes()
    inbox = Inbox(lambda: notes)
    inbox.receive(message, 0)
    inbox.receive(heartbeat, 0)
    inbox.tick(1000)
    assert notes.gaps == 0


def test_a_heartbeat_that_failed_is_made_up_for() -> None:
    """One that was published, though the writer does not know, is no loss either."""
    for arrived in (True, False):
        outbox, notes = Outbox(), Notes()
        inbox = Inbox(weakref.ref(notes))
        inbox.receive(sent(outbox), 0)
        outbox.heartbeat()
        failed = outbox.heartbeat()  # and is not confirmed
        assert failed is not None
        if arrived:
            inbox.receive(failed[1].encode(), 1)
        inbox.receive(sent(outbox), 1)
        heartbeats = [outbox.heartbeat(), outbox.heartbeat()]
        assert heartbeats[1] is not None
        inbox.receive(heartbeats[1][1].encode(), 2)
        inbox.tick(100)
        assert notes.gaps == 0


@given(
    st.lists(st.sampled_from(["send", "beat"]), min_size=1, max_size=40),
    st.integers(0, 40),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_a_loss_is_always_noticed(steps: list[str], lost: int, loses: bool, random: Any) -> None:
    """Whatever is lost, sent twice or swapped within a heartbeat's time: a gap if and only if one is lost."""
    outbox, notes = Outbox(), Notes()
    inbox = Inbox(lambda: notes)
    periods: list[list[bytes]] = [[]]
    messages = 0
    for step in [*steps, "beat", "beat"]:
        if step == "send":
            messages += 1
            if not (loses and messages == lost):
                periods[-1] += [sent(outbox, f"k{messages}")] * random.choice([1, 1, 2])
            else:
                sent(outbox)
        else:
            heartbeat = beat(outbox)
            periods.append([heartbeat] if heartbeat is not None else [])
    for period in periods:
        random.shuffle(period)
        for message in period:
            inbox.receive(message, 0)
    inbox.tick(1000)
    assert (notes.gaps > 0) == (loses and 0 < lost <= messages)


def test_a_listener_that_fails_is_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """What it raises is logged; it may have kept something, so it is told to drop all; it hears the next."""

    class Failing(Notes):
        def keys_changed(self, keys: Sequence[str]) -> None:
            super().keys_changed(keys)
            raise RuntimeError("no")

    notes, outbox = Failing(), Outbox()
    inbox = Inbox(lambda: notes)
    inbox.receive(sent(outbox, "a"), 0)
    inbox.receive(sent(outbox, "b"), 0)
    assert notes.told == [("keys", ["a"]), ("all", None), ("keys", ["b"]), ("all", None)]
    assert "bus listener failed" in caplog.text


def test_patterns_are_not_run(subtests: pytest.Subtests) -> None:
    """Another client's might take for ever, or not compile: what begins as all that it matches is dropped."""
    rows: list[tuple[str, str]] = [
        ("(a+)+$", ""),
        ("user:(a+)+$", "user:"),
        ("(unclosed", ""),
        (r"a\.b|c", ""),
        (r"a\.b.*", r"a\.b"),
    ]
    for pattern, told in rows:
        with subtests.test(pattern=pattern):
            notes, outbox = Notes(), Outbox()
            _, text = outbox.message("pattern", pattern)
            Inbox(lambda: notes).receive(text.encode(), 0)  # noqa: B023
            assert notes.told == [("pattern", told)]


def test_writers_who_fall_silent_are_forgotten() -> None:
    """A reader's memory does not grow with all the writers that ever were."""
    notes = Notes()
    inbox = Inbox(lambda: notes)
    for number in range(50):
        outbox = Outbox()
        inbox.receive(sent(outbox), number)
        heartbeat = beat(outbox, final=True)
        assert heartbeat is not None
        inbox.receive(heartbeat, number)
    assert len(inbox._writers) == 50
    inbox.tick(10_000)
    assert (len(inbox._writers), notes.gaps) == (0, 0)


def test_portions() -> None:
    """Many keys become several messages of bounded size; a long key goes alone; none is left out."""
    keys = [f"key:{number}" for number in range(20_000)] + ["x" * 100_000, "y"]
    parts = portions(dict.fromkeys(keys, 0))
    assert [key for part in parts for key in part] == keys
    assert all(len(json.dumps(part)) < 70_000 or len(part) == 1 for part in parts)
    assert max(map(len, parts)) == 250
    assert len(parts) == 82
    assert portions({"a": 900_000, "b": 900_000, "c": 5, "d": 9_000_000}) == [["a"], ["b", "c"], ["d"]]
    assert portions({}) == []


def test_what_others_publish_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that no cache has are not kept, nor more numbers than caches send between two heartbeats."""
    monkeypatch.setattr(bus_protocol, "_MOST_OF_ALL", 500)
    notes = Notes()
    inbox = Inbox(lambda: notes)
    tracemalloc.start()
    try:
        for number in range(200):
            inbox.receive(b'[1,"%06d%s",1,"keys",["a"]]' % (number, b"x" * 100_000), 0)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
    for writer, number in itertools.product(range(8), range(90)):
        inbox.receive(b'[1,"%018x",%d,"keys",["a"]]' % (writer, number + 1), 0)
        held = sum(len(one.numbers) for one in inbox._writers.values())
        assert inbox._pending == held <= 500
    assert notes.gaps == 201


PATTERNS = st.text(st.sampled_from("ab1:\\.*+?{}|()[]^$ ü"), max_size=12)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of `re`, about patterns such as "[["
@example(256, "?", "a")
@example(256, "{0,1}", "a")
@example(256, "|b", "a")
@given(st.integers(250, 260), PATTERNS, st.text(st.sampled_from("a1:"), min_size=1, max_size=2))
def test_a_long_pattern_is_cut(length: int, rest: str, unit: str) -> None:
    """What is left of it matches all that it matched, wherever it is cut."""
    pattern = unit * length + rest
    try:
        compiled = re.compile(pattern)
    except re.error:
        return
    beginning = literal_beginning(pattern)
    assert len(beginning) <= 256
    for text in (unit * length, unit * (length - 1), (unit * length)[:-1], pattern, "a", "b", ""):
        for key in (text, text + "b", text + rest):
            if compiled.match(key):
                assert key.startswith(beginning)


def test_a_pattern_of_megabytes() -> None:
    """A listener makes little of it; that of alternatives drops everything, wherever they begin."""
    notes = Notes()
    inbox = Inbox(lambda: notes)
    for pattern in ("abc" * 200_000, "a" * 200_000 + "|b"):
        inbox.receive(b'[1,"000000000000000000",1,"pattern","%s"]' % pattern.encode(), 0)
    assert notes.told == [("pattern", ("abc" * 100)[:256]), ("pattern", "")]


def test_a_message_that_would_be_too_long_says_all() -> None:
    outbox = Outbox()
    number, text = outbox.message("keys", ["k" * (1 << 20)])
    assert json.loads(text) == [1, outbox.writer, number, "all", None]
