"""The caches for cachelib and Flask-Caching: what the tests of those do not ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from pickle import PicklingError
from typing import Any

import pytest
from forking import in_fork
from racing import race
from redis_server import RedisServer

pytest.importorskip("cachelib", reason="cachelib is not installed")

from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache
from cachekit.integrations.cachelib import CacheKitCache
from cachekit.testing import ManualClock


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path / "cache")) as made:
        yield made


def test_processes(cache: IntelligentCache) -> None:
    """What one deletes the other no longer serves; counts add up."""
    mine = CacheKitCache(cache)
    mine.set("k", "v")
    assert mine.get("k") == "v"

    def other() -> None:
        assert mine.get("k") == "v"
        assert not mine.add("k", "w")
        assert mine.delete("k")
        assert mine.inc("n", 2) == 2

    assert in_fork(other)() == 0
    assert mine.get("k") is None
    assert mine.dec("n") == 1


def test_threads(cache: IntelligentCache) -> None:
    """One adds, and no count is lost."""
    mine = CacheKitCache(cache)
    assert race(*[lambda: mine.add("k", 1)] * 6).count(True) == 1
    race(*[lambda: [mine.inc("n") for _ in range(20)]] * 4)
    assert mine.get("n") == 80


def test_values_are_copies(cache: IntelligentCache) -> None:
    mine = CacheKitCache(cache)
    value = {"a": [1]}
    assert mine.set("k", value)
    assert mine.set_many({"l": value}) == ["l"]
    value["a"].append(2)
    mine.get("k")["a"].append(3)
    mine.get_many("l")[0]["a"].append(3)
    assert mine.get("k") == mine.get("l") == {"a": [1]}


def test_prefixes_and_tags(cache: IntelligentCache) -> None:
    """Two of one cache do not see each other's keys."""
    one, two = CacheKitCache(cache, key_prefix="a.*"), CacheKitCache(cache, key_prefix="b")
    for mine in (one, two):
        assert mine.set_many({"k": 1, "l": 2}, tags={"t"}) == ["k", "l"]
    assert one.delete_many("k", "none") == ["k", "none"]
    assert one.get_many("k", "l") == [None, 2]
    assert one.clear()
    assert not one.has("l")
    assert two.get_dict("k", "l") == {"k": 1, "l": 2}
    two.cache.invalidate_by_tags({"t"})
    assert not two.has("k")
    assert two.clear()


def test_timeouts() -> None:
    """0 is for ever, None the default, and a timedelta is as good."""
    clock = ManualClock()
    with IntelligentCache(MemoryCache(clock=clock), None, None) as cache:
        mine = CacheKitCache(cache, default_timeout=timedelta(seconds=10))
        mine.set("default", 1)
        mine.set("for ever", 1, 0)
        mine.set("longer", 1, timedelta(minutes=1))
        mine.inc("n")
        clock.advance(11)
        assert mine.get_many("default", "for ever", "longer", "n") == [None, 1, 1, None]
        clock.advance(1e9)
        assert mine.get_many("for ever", "longer") == [1, None]


def test_a_frozen_server(server: RedisServer, tmp_path: Path) -> None:
    """The host goes on, and says that a tier was not reached."""
    redis = RedisCache(url=server.url, timeout=0.2)
    with IntelligentCache(MemoryCache(), redis, FileCache(tmp_path)) as cache:
        mine = CacheKitCache(cache)
        assert mine.set("k", [1])
        with server.frozen():
            assert mine.get("k") == [1]
            assert mine.set("k", [2]) is False
            assert mine.get("k") == [2]
            assert mine.inc("n") == 1


def test_wrong_arguments_and_values(cache: IntelligentCache) -> None:
    """A clear error; that of a value is the one that cachelib promises."""
    wrong: Any = CacheKitCache
    with pytest.raises(TypeError, match="cache must be an IntelligentCache, not 5"):
        wrong(5)
    with pytest.raises(TypeError, match="key_prefix must be a str, not 5"):
        wrong(cache, key_prefix=5)
    with pytest.raises(PicklingError):
        CacheKitCache(cache).set("k", Local())


class Local:
    """No tier below memory can store one."""

    def __deepcopy__(self, memo: object) -> Local:
        return self

    def __reduce__(self) -> str:
        raise TypeError("not this one")


class TestFlask:
    def test_settings(self, tmp_path: Path, redis_url: str) -> None:
        """A directory, a server, a cache of the app's own; the prefix is Flask-Caching's setting."""
        flask = pytest.importorskip("flask", reason="Flask is not installed")
        flask_caching = pytest.importorskip("flask_caching", reason="Flask-Caching is not installed")
        kind = "cachekit.integrations.flask_caching.CacheKitCache"
        own = IntelligentCache(MemoryCache(), None, None)
        for config, tiers in (
            ({"CACHE_DIR": str(tmp_path / "a")}, (False, True)),
            ({"CACHE_REDIS_URL": redis_url, "SECRET_KEY": b"short"}, (True, False)),
            ({"CACHE_OPTIONS": {"cache": own}, "CACHE_KEY_PREFIX": "shop:"}, (False, False)),
        ):
            app = flask.Flask("shop")
            app.config.update({"CACHE_TYPE": kind, "CACHE_DEFAULT_TIMEOUT": 50}, **config)
            extension = flask_caching.Cache(app)
            with app.app_context():
                backend = extension.cache
                made = backend.cache
                assert (made.redis_cache is not None, made.file_cache is not None) == tiers
                assert extension.set("k", {"a": 1})
                assert extension.get("k") == {"a": 1}
                left = made.explain(f"{backend.key_prefix}k").remaining
                assert left is not None
                assert 0 < left <= 50
                assert extension.unlink("k") == ["k"]
                assert extension.add("k", 1)
                assert not extension.add("k", 2)
                assert extension.has("k")
                assert extension.clear()
            made.close()
        assert backend.key_prefix == "shop:"

    def test_views_and_memoized_functions(self, tmp_path: Path) -> None:
        """Each is worked out once, and again after it was deleted; a result of None counts if asked for."""
        flask = pytest.importorskip("flask", reason="Flask is not installed")
        flask_caching = pytest.importorskip("flask_caching", reason="Flask-Caching is not installed")
        with IntelligentCache(MemoryCache(), None, FileCache(tmp_path)) as made:
            app = flask.Flask("shop")
            app.config["CACHE_TYPE"] = "cachekit.integrations.flask_caching.CacheKitCache"
            app.config["CACHE_OPTIONS"] = {"cache": made}
            extension = flask_caching.Cache(app)
            calls: list[str] = []

            def double(number: int) -> int:
                calls.append("double")
                return 2 * number

            def nothing() -> None:
                calls.append("nothing")

            doubled = extension.memoize(60)(double)
            none = extension.memoize(60, cache_none=True)(nothing)
            app.route("/")(extension.cached(60)(lambda: str(doubled(4))))
            with app.test_client() as client:
                assert [client.get("/").text for _ in range(3)] == ["8"] * 3
                assert [none(), none()] == [None, None]
                assert calls == ["double", "nothing"]
                extension.delete_memoized(doubled)
                assert client.get("/").text == "8"
                assert doubled(4) == 8
                assert calls == ["double", "nothing", "double"]

    def test_sessions(self, tmp_path: Path) -> None:
        """Flask-Session keeps them in it."""
        flask = pytest.importorskip("flask", reason="Flask is not installed")
        flask_session = pytest.importorskip("flask_session", reason="Flask-Session is not installed")
        pytest.importorskip("msgspec", reason="Flask-Session needs msgspec, which is not installed")
        with IntelligentCache(MemoryCache(), None, FileCache(tmp_path)) as made:
            app = flask.Flask("shop")
            app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=CacheKitCache(made))
            flask_session.Session(app)

            def visit() -> str:
                flask.session["visits"] = flask.session.get("visits", 0) + 1
                return str(flask.session["visits"])

            app.route("/")(visit)
            with app.test_client() as client:
                assert [client.get("/").text for _ in range(3)] == ["1", "2", "3"]
            with app.test_client() as another:
                assert another.get("/").text == "1"
