"""The bus over a real server: what others do is heard; where that is not sure, nothing is trusted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import inside
import pytest
import redis
from bus_notes import Notes
from forking import in_fork
from free_threads import collect
from racing import in_thread
from redis_server import RedisServer, wait_until

from cachekit import CacheEntry, TierUnavailableError
from cachekit.runtime.scheduler import scheduler
from cachekit.tiers.redis import bus, heartbeat
from cachekit.tiers.redis.tier import RedisCache

MakeCache = Callable[..., RedisCache]

pytestmark = pytest.mark.usefixtures("few_buckets")


def listening(cache: RedisCache) -> Notes:
    """Notes of what the cache hears, from now on: it has begun to listen."""
    notes = Notes()
    cache.subscribe(notes)
    wait_until(notes.has(2), "the server has confirmed that it listens")
    assert notes.told == [("all", None)] * 2
    notes.told.clear()
    return notes


def bus_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cachekit-bus"]


@pytest.fixture
def nobody_else() -> None:
    """What earlier tests left without closing it has been collected, and listens no more."""
    wait_until(lambda: collect() and not bus_threads(), "no other test's bus listens")


EVENTS: list[tuple[Callable[[RedisCache], object], list[tuple[str, Any]]]] = [
    (lambda cache: cache.set_value("k", 1), [("keys", ["k"])]),
    (lambda cache: cache.set_value("k", 1, tags={"t"}), [("keys", ["k"])]),
    (lambda cache: cache.set_value("k", 1, ttl=0), [("keys", ["k"])]),
    (lambda cache: cache.delete("k"), [("keys", ["k"])]),
    (lambda cache: cache.remove_many(["a", "\ud800"]), [("keys", ["a", "\ud800"])]),
    (
        lambda cache: cache.put_many(
            {key: CacheEntry(key, 1) for key in "abc"}, {key: cache.successor() for key in "abc"}
        ),
        [("keys", ["a", "b", "c"])],
    ),
    (lambda cache: cache.invalidate_by_tags({"t", "u"}), [("tags", ["t", "u"])]),
    (lambda cache: cache.invalidate_by_pattern("user:.*"), [("pattern", "user:")]),
    (lambda cache: cache.invalidate_by_pattern(re.compile("(?i)user:")), [("pattern", "")]),
    (lambda cache: cache.invalidate_by_pattern(re.compile("user:", re.IGNORECASE)), [("all", None)]),
    (lambda cache: cache.clear(), [("all", None)]),
    (lambda cache: cache.renew(), [("all", None)]),
]


def one_by_one(told: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Each key and tag alone: a Cluster's nodes tell of their own, and in no order."""
    several = sorted((kind, [one]) for kind, body in told if kind in ("keys", "tags") for one in body)
    return several + [(kind, body) for kind, body in told if kind not in ("keys", "tags")]


def hears_everything(cache: RedisCache, other: RedisCache) -> None:
    notes, own = listening(cache), listening(other)
    # Scripts that the server has not seen are sent again, and with them the message.
    other.put_many({"warm": CacheEntry("warm", 1)}, {"warm": other.successor()})
    other.delete("warmed up")
    first = {("keys", "warm"), ("keys", "warmed up")}  # of two nodes of a Cluster: in any order
    wait_until(
        lambda: {(kind, key) for kind, body in notes.told for key in body} == first,
        "the first messages are there",
    )
    for told in (notes.told, own.told):
        told.clear()
    for event, expected in EVENTS:
        event(other)
        # Who listens to the very tier is told before the call returns; and of patterns as they are.
        assert [kind for kind, _ in one_by_one(own.told)] == [kind for kind, _ in one_by_one(expected)]
        assert one_by_one(own.told) == one_by_one(expected) or own.told[0][1] in ("user:.*", "(?i)user:")
        wait_until(lambda: len(one_by_one(notes.told)) >= len(one_by_one(expected)), f"{expected} is heard")  # noqa: B023
        assert one_by_one(notes.told) == one_by_one(expected)
        notes.told.clear()
        own.told.clear()
    # What changes nothing that others could know is not told.
    assert other.add("new", CacheEntry("new", 1), other.origin("new")) is True
    other.get("new")
    other.delete("the last")
    wait_until(notes.has(1), "the last is heard")
    assert notes.told == [("keys", ["the last"])]
    assert own.told == [("keys", ["the last"])], "and not by the bus once more"


def test_everything_is_heard(make_cache: MakeCache) -> None:
    """Each write and invalidation, once: those of another cache, and those of one's own at once."""
    hears_everything(make_cache(), make_cache())


def test_everything_is_heard_in_a_cluster(cluster_nodes: list[tuple[str, int]], prefix: str) -> None:
    """Whatever the node that it was written on."""
    with (
        RedisCache.cluster(cluster_nodes, prefix, timeout=60) as cache,
        RedisCache.cluster(cluster_nodes, prefix, timeout=60) as other,
    ):
        hears_everything(cache, other)


def test_many_keys_are_a_few_messages(make_cache: MakeCache) -> None:
    """No message grows without bound."""
    notes, other = listening(make_cache()), make_cache()
    keys = [f"a key with quite a long name {number}" for number in range(5000)]
    other.remove_many(keys)
    wait_until(lambda: sum(len(body) for _, body in notes.told) >= 5000, "all are heard")
    heard = [key for _, body in notes.told for key in body]
    assert set(heard) == set(keys)
    assert 2 < len(notes.told) < 30


def test_other_prefixes_are_not_heard(make_cache: MakeCache, prefix: str) -> None:
    """Each prefix has a bus of its own."""
    notes = listening(make_cache())
    make_cache(key_prefix=f"{prefix}x").set_value("k", 1)
    make_cache().set_value("mine", 1)
    wait_until(notes.has(1), "the own prefix is heard")
    assert notes.told == [("keys", ["mine"])]


def hears_again(notes: Notes, other: RedisCache) -> None:
    """What is written is heard, from some moment on: an attempt to listen that fails is a gap too."""
    wait_until(lambda: other.set_value("k", 1) and ("keys", ["k"]) in notes.told, "it hears again")


def test_a_lost_connection_is_a_gap(server: RedisServer) -> None:
    """What was written until it was back was not told; the driver makes a new one by itself."""
    with RedisCache(url=server.url, timeout=60) as cache, RedisCache(url=server.url, timeout=60) as other:
        notes = listening(cache)
        with server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        wait_until(lambda: notes.gaps >= 1, "it is noticed")
        hears_again(notes, other)


def test_a_restarted_server_is_a_gap(server: RedisServer) -> None:
    """After kill -9 and restart the listener is back by itself."""
    with RedisCache(url=server.url, timeout=60) as cache, RedisCache(url=server.url, timeout=60) as other:
        notes = listening(cache)
        server.kill()
        wait_until(lambda: notes.gaps >= 1, "it is noticed")
        notes.told.clear()
        assert server.start()
        hears_again(notes, other)
        assert notes.gaps >= 1, "what was written before it listened was not told"


def test_a_server_that_is_not_there_yet(server: RedisServer) -> None:
    """Subscribing does not wait for it; the listener finds it when it comes."""
    server.kill()
    notes = Notes()
    with RedisCache(url=server.url, timeout=60) as cache:
        cache.subscribe(notes)
        wait_until(notes.has(2), "it has tried")
        assert server.start()
        with RedisCache(url=server.url, timeout=60) as other:
            hears_again(notes, other)


def test_a_frozen_server_is_a_gap(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is open and says nothing is asked, and given up."""
    with RedisCache(url=server.url, timeout=60) as cache, RedisCache(url=server.url, timeout=60) as other:
        notes = listening(cache)
        monkeypatch.setattr(bus, "PATIENCE", 1.5)
        with server.frozen():
            wait_until(lambda: notes.gaps >= 1, "the silence is noticed")
            seen = notes.gaps
        hears_again(notes, other)
        assert notes.gaps > seen, "what was written before it listened was not told"


def test_a_lost_message_is_a_gap(make_cache: MakeCache) -> None:
    """A write whose message never came: the connection is fine, the heartbeat tells."""
    notes, other = listening(make_cache()), make_cache()
    other.set_value("k", 1)
    outbox = inside.outbox(other)
    number, _ = outbox.message("keys", ["lost"])
    outbox.settle(number)
    wait_until(lambda: notes.gaps >= 1, "the heartbeat tells that something is missing")
    assert notes.told == [("keys", ["k"]), ("all", None)]


def test_nothing_lost_is_no_gap(make_cache: MakeCache) -> None:
    """Several threads write; numbers come in any order; heartbeats confirm them all."""
    notes, other = listening(make_cache()), make_cache()
    bus = inside.bus(other)

    def write() -> None:
        for number in range(100):
            other.set_value(f"k{number}", 1)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: bus.outbox._confirmed == 400, "the last heartbeat is sent")
    other.delete("end")
    wait_until(lambda: ("keys", ["end"]) in notes.told, "all is heard")
    assert len(notes.told) == 401
    assert notes.gaps == 0


def test_a_quiet_bus_is_no_gap(server: RedisServer) -> None:
    """With the timeout that users have, a connection lasts longer than one exchange may."""
    notes = Notes()
    with RedisCache(url=server.url) as cache, server.client() as client:
        end = cache.subscribe(notes)
        wait_until(notes.has(2), "the bus is there")

        def pings() -> int:
            return int(client.info("commandstats").get("cmdstat_ping", {}).get("calls", 0))

        wait_until(lambda: pings() >= 2 or notes.gaps > 2, "the bus was quiet for two pings")
        assert notes.gaps == 2
        end()


def test_listening_while_another_writes_all_the_time(make_cache: MakeCache) -> None:
    """Who comes in the middle trusts what it has after a few heartbeats, though the writer never pauses."""
    other = make_cache()

    def period() -> None:
        for number in range(10):
            other.set_value(f"k{number}", 1)
        inside.heartbeat(other).beat()

    for _ in range(3):
        period()
    notes = listening(make_cache())
    gaps = []
    for half in ("first", "second"):
        for _ in range(5):
            period()
        other.delete(half)
        wait_until(lambda: ("keys", [half]) in notes.told, "all is heard")  # noqa: B023
        gaps.append(notes.gaps)
    assert gaps[0] == gaps[1] <= 2


def test_a_write_that_is_refused_is_no_loss(make_cache: MakeCache) -> None:
    """A refresh that comes second, which is everyday: the others need not forget all that they have."""
    notes, other = listening(make_cache()), make_cache()
    other.set_value("k", 1)
    assert other.put("k", CacheEntry("k", 2), other.successor(), expect=other.successor()) is False
    for _ in range(2):
        inside.heartbeat(other).beat()
    other.delete("end")
    wait_until(lambda: ("keys", ["end"]) in notes.told, "all is heard")
    assert notes.told == [("keys", ["k"])] * 2 + [("keys", ["end"])]


def test_long_upkeep_does_not_hold_up_the_heartbeats(make_cache: MakeCache) -> None:
    """A sweep of many entries, or a slow loader of what is kept warm: no loss, for which all would forget."""
    go_on = threading.Event()

    class Sweep:
        def run(self) -> None:
            assert go_on.wait(60)

    sweep, cache = Sweep(), make_cache()
    job = scheduler.every(0, sweep.run)
    try:
        cache.delete("k")
        outbox = inside.outbox(cache)
        wait_until(lambda: outbox._confirmed == 1, "the heartbeat is sent")
    finally:
        go_on.set()
        job.cancel()


def test_a_heartbeat_that_failed_is_sent_in_time(server: RedisServer) -> None:
    """A server that was frozen for a moment: nothing was lost, so who listens need not forget anything."""
    with RedisCache(url=server.url, timeout=1) as writer, RedisCache(url=server.url, timeout=60) as reader:
        notes = listening(reader)
        beats = inside.heartbeat(writer)
        writer.set_value("k", 1)
        with server.frozen():
            for _ in range(2):
                beats.beat()
        writer.set_value("k", 2)
        wait_until(lambda: beats._outbox._confirmed == 2, "the heartbeat is sent")
        writer.set_value("end", 1)
        wait_until(lambda: ("keys", ["end"]) in notes.told, "all is heard")
        assert notes.told == [("keys", ["k"])] * 2 + [("keys", ["end"])]


@pytest.mark.parametrize("fails", [False, True])
def test_a_long_scan_does_not_hold_up_the_heartbeats(
    make_cache: MakeCache, redis_url: str, fails: bool
) -> None:
    """What others write meanwhile is confirmed, however many keys the server has to look at."""
    scanning, go_on = threading.Event(), threading.Event()

    class Slow(redis.Connection):
        def send_command(self, *args: Any, **options: Any) -> None:
            if args[0] == "SCAN":
                scanning.set()
                assert go_on.wait(60)
                if fails:
                    raise redis.ConnectionError("cut off")
            super().send_command(*args, **options)  # type: ignore[no-untyped-call]

    notes = listening(make_cache())
    with redis.Redis.from_url(redis_url, connection_class=Slow) as client:
        slow = make_cache(client=client)
        finish = in_thread(lambda: slow.invalidate_by_pattern("user:.*"))
        assert scanning.wait(60)
        slow.set_value("k", 1)
        for _ in range(2):
            inside.heartbeat(slow).beat()
        confirmed = inside.confirmed(slow)
        go_on.set()
        if fails:
            with pytest.raises(TierUnavailableError):
                finish()
            wait_until(lambda: notes.gaps, "what was cut off is noticed")
        else:
            finish()
            wait_until(lambda: ("pattern", "user:") in notes.told, "the pattern is heard")
            assert notes.gaps == 0
        assert confirmed > 0


def test_garbage_is_a_gap(make_cache: MakeCache, redis_url: str, prefix: str) -> None:
    """The worst that another client can do is to make caches forget."""
    notes = listening(make_cache())
    with redis.Redis.from_url(redis_url) as client:
        client.publish(prefix + "!", b"\xff\x00")
        wait_until(notes.has(1), "it is heard")
        make_cache().delete("k")
        wait_until(notes.has(2), "it still listens")
    assert notes.told == [("all", None), ("keys", ["k"])]


@pytest.mark.usefixtures("nobody_else")
def test_it_ends(make_cache: MakeCache) -> None:
    """At the end of each subscription, and at close, thread and connection are gone; twice is no harm."""
    cache = make_cache()
    one, two = Notes(), Notes()
    end_one, _ = cache.subscribe(one), cache.subscribe(two)
    wait_until(lambda: len(one.told) == len(two.told) == 2, "both listen")
    assert len(bus_threads()) == 2
    end_one()
    end_one()
    assert len(bus_threads()) == 1
    make_cache().delete("k")
    wait_until(two.has(3), "the other one still listens")
    assert len(one.told) == 2
    cache.close()
    assert bus_threads() == []


@pytest.mark.usefixtures("nobody_else")
def test_it_ends_with_the_last_who_holds_it(make_cache: MakeCache) -> None:
    """The tier holds no listener: one that is dropped, with the function that ends it, ends by itself."""
    cache = make_cache()
    notes, dropped = Notes(), Notes()
    told = weakref.ref(dropped)
    ends = [cache.subscribe(notes), cache.subscribe(dropped)]
    wait_until(notes.has(2), "one listens")
    wait_until(dropped.has(2), "the other one listens")
    del dropped
    assert told() is not None, "the function holds it"
    cache.delete("k")
    assert [one.told[-1] for one in (notes, told()) if one] == [("keys", ["k"])] * 2
    ends.clear()
    wait_until(lambda: told() is None and len(bus_threads()) == 1, "one thread has ended")
    make_cache().delete("k")
    wait_until(notes.has(4), "who still holds its listener still hears")


@pytest.mark.usefixtures("nobody_else")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_dropped_listener_is_not_woken_by_a_fork(make_cache: MakeCache) -> None:
    """A child has threads for those who are still there."""
    cache = make_cache()
    notes = listening(cache)
    cache.subscribe(Notes())
    finish = in_fork(lambda: wait_until(lambda: len(bus_threads()) == 1 and notes.gaps >= 2, "one listens"))
    assert finish() == 0


def test_an_interrupted_write_is_told_all_the_same(make_cache: MakeCache) -> None:
    """A signal handler that raises while one listener is told keeps nothing from the others."""
    cache = make_cache()

    class Interrupted(Notes):
        def keys_changed(self, keys: Sequence[str]) -> None:
            super().keys_changed(keys)
            if len(self.told) == 1:
                raise KeyboardInterrupt

    first, second = Interrupted(), listening(cache)
    inside.bus(cache)._readers = (
        bus._BusReader(inside.bus(cache), inside.server(cache), first),
        *inside.bus(cache)._readers,
    )
    with pytest.raises(KeyboardInterrupt):
        cache.delete("k")
    assert second.told == [("keys", ["k"])]


def test_a_listener_may_end_its_own_subscription(make_cache: MakeCache) -> None:
    """From within the call."""
    cache = make_cache()
    ended = threading.Event()

    class Ends(Notes):
        def keys_changed(self, keys: Sequence[str]) -> None:
            super().keys_changed(keys)
            end()
            ended.set()

    notes = Ends()
    end = cache.subscribe(notes)
    wait_until(notes.has(2), "it listens")
    make_cache().delete("k")
    assert ended.wait(60)
    cache.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_listens_too(make_cache: MakeCache) -> None:
    """It is another writer, trusts nothing at first, and hears the parent, which hears it."""
    cache, other = make_cache(), make_cache()
    parents = listening(cache)
    writer = inside.outbox(cache).writer
    ready, go = os.pipe()

    def child() -> None:
        assert inside.outbox(cache).writer != writer
        wait_until(lambda: parents.gaps >= 2, "the child listens again")
        os.write(go, b"x")
        wait_until(lambda: ("keys", ["of the parent"]) in parents.told, "the child hears the parent")
        cache.set_value("of the child", 1)
        cache.close()

    finish = in_fork(child)
    assert os.read(ready, 1) == b"x"
    other.delete("of the parent")
    assert finish() == 0
    wait_until(lambda: ("keys", ["of the child"]) in parents.told, "the parent hears the child")
    assert parents.gaps == 0
    os.close(ready)
    os.close(go)


#: A worker of `multiprocessing`, which ends without what other programs do at their end: it opens its own
#: cache, or goes on with the one that it was forked with, which has written already.
WORKER = """
import multiprocessing
worker = multiprocessing.get_context("fork").Process(target=work, args={given})
worker.start()
worker.join()
assert worker.exitcode == 0
"""


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "runs",
    [
        "work()",
        "work().close()",
        WORKER.format(given="()"),
        "cache = opened(); cache.get('k'); cache.delete('k')" + WORKER.format(given="(cache,)"),
    ],
)
def test_a_program_that_ends_leaves_no_listener_waiting(redis_url: str, prefix: str, runs: str) -> None:
    """Closed or not, its last heartbeat confirms all that it has sent."""
    program = f"""
from cachekit import RedisCache

def opened():
    return RedisCache(url={redis_url!r}, key_prefix={prefix!r}, timeout=60)

def work(cache=None):
    cache = cache or opened()
    for number in range(10):
        cache.set_value('k', number)
    return cache

{runs}
"""
    heard: list[Any] = []
    with redis.Redis.from_url(redis_url) as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(prefix + "!")

        def last_is_heard() -> bool:
            message = pubsub.get_message(timeout=0.1)
            if message is not None:
                heard.append(json.loads(message["data"])[2:])
            return any(kind == "beat" and body[1] == 10 for _, kind, body in heard)

        pubsub.get_message(timeout=60)
        subprocess.run([sys.executable, "-c", program], check=True)
        wait_until(last_is_heard, "the last heartbeat is heard")
    assert {one[0] for one in heard if one[1] == "keys" and one[2] == ["k"]} >= set(range(1, 11))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_beside_the_first_message(cache: RedisCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread forks while another begins its heartbeats: neither waits for the other for ever."""
    every = heartbeat.heartbeat_scheduler.every

    def forks_meanwhile(*arguments: Any) -> Any:
        finish = in_thread(lambda: in_fork(lambda: None)())
        assert finish() == 0
        return every(*arguments)

    monkeypatch.setattr("cachekit.tiers.redis.heartbeat.heartbeat_scheduler.every", forks_meanwhile)
    cache.delete("k")
    assert inside.heartbeat(cache)._job is not None
