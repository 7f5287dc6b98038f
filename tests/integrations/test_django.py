"""The Django backend: what Django's own tests do not ask of it."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from forking import in_fork
from racing import race
from redis_server import RedisServer

pytest.importorskip("django", reason="Django is not installed")

import django
from asgiref.sync import async_to_sync
from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="of the tests",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}, "none": {}},
        INSTALLED_APPS=["django.contrib.sessions", "cachekit.integrations.django"],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        ALLOWED_HOSTS=["testserver"],
        CACHES={"default": {"BACKEND": "cachekit.integrations.django.CacheKitCache"}},
    )
    django.setup()

from django.core.cache import InvalidCacheBackendError, caches
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError
from django.db import connection, transaction
from django.http import HttpResponse
from django.template import engines
from django.test import RequestFactory, override_settings
from django.views.decorators.cache import cache_page

from cachekit import IntelligentCache, LoadOptions, MemoryCache, TierUnavailableError
from cachekit.integrations.django import CacheKitCache, location
from cachekit.integrations.django.checks import check_caches
from cachekit.testing import ManualClock

BACKEND = "cachekit.integrations.django.CacheKitCache"
Make = Callable[..., CacheKitCache]

#: A cache of the site's own, for `LOCATION = "...:own"`.
own = IntelligentCache(MemoryCache(), file_cache=None)
clock = ManualClock()
clocked = IntelligentCache(MemoryCache(clock=clock), file_cache=None)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes backends, in a directory of the test unless told otherwise; their caches are closed."""
    before = set(location._caches)
    site = sys.modules[__name__]

    def backend(where: Any = None, /, **params: Any) -> CacheKitCache:
        return CacheKitCache(str(tmp_path / "cache") if where is None else where, params)

    with (
        IntelligentCache(MemoryCache(), file_cache=None) as mine,
        IntelligentCache(MemoryCache(clock=clock), file_cache=None) as timed,
    ):
        monkeypatch.setattr(site, "own", mine)
        monkeypatch.setattr(site, "clocked", timed)
        yield backend
        for key in set(location._caches) - before:
            location._caches.pop(key).cache.close()


def finished(coroutine: Any) -> Any:
    """The result of a coroutine that never waits."""
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value


class TestSharing:
    def test_threads_share_a_cache(self, make: Make) -> None:
        """Django makes a backend for each thread."""
        backends = race(*[lambda: make()] * 6)
        assert len({id(backend.cache) for backend in backends}) == 1
        backends[0].set("k", [1])
        assert backends[1].get("k") == [1]
        assert make("memory").cache is make("memory").cache is make("").cache
        assert make("memory").cache is not make("memory:other").cache
        assert make(OPTIONS={"max_size": 5}).cache is not backends[0].cache

    def test_processes(self, make: Make) -> None:
        """What one deletes the other no longer serves."""
        backend = make()
        backend.set("k", "v", timeout=None)
        backend.set("n", 0, timeout=None)
        assert backend.get("k") == "v"

        def other() -> None:
            assert backend.get("k") == "v"
            assert backend.add("k", "w") is False
            assert backend.delete("k")
            assert backend.incr("n") == 1

        assert in_fork(other)() == 0
        assert backend.get("k") is None
        assert backend.incr("n") == 2

    def test_values_are_copies(self, make: Make) -> None:
        backend = make("memory")
        value = {"a": [1]}
        backend.set("k", value)
        value["a"].append(2)
        found = backend.get("k")
        assert found == {"a": [1]}
        found["a"].append(3)
        assert backend.get("k") == {"a": [1]}

    def test_a_cache_of_the_site(self, make: Make) -> None:
        backend = make(f"{__name__}:own")
        assert backend.cache is own
        backend.set("k", 1)
        assert own.get(":1:k") == 1

    def test_a_frozen_server(self, make: Make, server: RedisServer, tmp_path: Path) -> None:
        """It costs a bounded time, and the host goes on."""
        backend = make([server.url, str(tmp_path / "both")], OPTIONS={"timeout": 0.2})
        backend.set("k", [1])
        with server.frozen():
            assert backend.get("k") == [1]
            backend.set("k", [2])
            assert backend.get("k") == [2]
            assert backend.add("new", 1) is True
            assert backend.incr("new") == 2
            assert backend.get_or_set("loaded", lambda: [3]) == [3]


class TestLoads:
    def test_one_call_of_many(self, make: Make) -> None:
        """Of the threads, and of the tasks, that ask at once, one loads."""
        backend = make()
        calls: list[int] = []
        asked = threading.Barrier(8)

        def load() -> list[int]:
            calls.append(1)
            return [5]

        def ask() -> Any:
            asked.wait(30)
            return backend.get_or_set("k", load, 60)

        assert race(*[ask] * 8) == [[5]] * 8
        assert len(calls) == 1

        async def load_on_the_loop() -> list[int]:
            calls.append(2)
            await asyncio.sleep(0)
            return [6]

        async def ask_together() -> list[Any]:
            return await asyncio.gather(*[backend.aget_or_set("a", load_on_the_loop) for _ in range(8)])

        assert asyncio.run(ask_together()) == [[6]] * 8
        assert calls.count(2) == 1

    def test_stale_values(self, make: Make) -> None:
        """A load that fails is stood in for by the value that has just expired."""
        backend = make(f"{__name__}:clocked", OPTIONS={"stale_ttl": 60})
        assert backend.get_or_set("k", lambda: [1], 5) == [1]

        def fails() -> Any:
            raise ConnectionError

        clock.advance(6)
        assert backend.get("k") is None
        assert backend.get_or_set("k", fails, load=LoadOptions(soft_timeout=60)) == [1]

    def test_a_class_that_is_gone(self, make: Make) -> None:
        """Its values count as missing, and are replaced."""
        backend = make()
        made = type("Gone", (), {"__module__": __name__})
        globals()["Gone"] = made
        backend.set("k", made())
        del globals()["Gone"]
        assert backend.get("k", "default") == "default"
        assert backend.get_many(["k"]) == {}
        with pytest.raises(ValueError, match="not found"):
            backend.incr("k")
        assert backend.get_or_set("k", lambda: "new") == "new"
        assert backend.get("k") == "new"

    def test_a_pickle_of_another_program(self, make: Make) -> None:
        """It is not loaded from a cache whose tiers may not sign."""
        backend = make(f"{__name__}:own")
        backend.set("k", ["mine"])
        assert backend.get("k") == ["mine"]
        for forged in (pickle.dumps(["theirs"]), b"", (own.get(":1:k") or b"")[:-1] + b"!", object()):
            own.set(":1:k", forged)
            assert backend.get("k") is None
        backend.set("k", ["mine"])
        own.set(":1:other", own.get(":1:k"))  # moved to another key
        assert backend.get("other") is None


class TestAsync:
    def test_hits_in_memory_stay_on_the_loop(self, make: Make) -> None:
        backend = make()
        backend.set("k", [1])
        assert finished(backend.aget("k")) == [1]
        assert finished(backend.aget_many(["k"])) == {"k": [1]}
        assert finished(backend.aget_or_set("k", list)) == [1]
        assert finished(backend.ahas_key("k")) is True

    def test_all_methods(self, make: Make) -> None:
        """Each does what its twin does."""

        async def work() -> None:
            backend = make()
            assert await backend.aadd("n", 1)
            assert not await backend.aadd("n", 1)
            assert await backend.aadd("gone", 1, 0)
            assert await backend.aincr("n", 4) == 5
            assert await backend.adecr("n") == 4
            await backend.aset("k", "v", 10, tags={"t"})
            assert await backend.atouch("k", 20)
            assert await backend.aset_many({"a": 1, "b": 2}) == []
            assert await backend.aget_many(["a", "b"]) == {"a": 1, "b": 2}
            await backend.adelete_many(["a"])
            assert await backend.adelete("b")
            assert await backend.adelete_pattern("k*") == 1
            assert await backend.aget_or_set("k", lambda: "w") == "w"
            assert await backend.aincr_version("k") == 2
            assert await backend.aclear()
            assert await backend.aget("n") is None

        async_to_sync(work)()  # plain functions run in this thread, as under WSGI


class TestInvalidation:
    def test_patterns(self, make: Make) -> None:
        """They see the keys of their prefix and version, as the caller wrote them."""
        here, there = make(KEY_PREFIX="a[b]."), make(KEY_PREFIX="c")
        for backend in (here, there):
            backend.set_many({"user:1": 1, "user:2": 2, "post:1": 3, "user": 4})
            backend.set("user:1", 5, version=2)
        assert here.delete_pattern("user:?") == 2
        assert here.get_many(["user:1", "user:2", "post:1", "user"]) == {"post:1": 3, "user": 4}
        assert here.get("user:1", version=2) == 5
        assert here.delete_pattern("*", version=2) == 1
        assert there.get("user:1") == 1
        hashing = make(KEY_FUNCTION=lambda key, prefix, version: str(hash((key, prefix, version))))
        with pytest.raises(ValueError, match=r"KEY_FUNCTION changes it; use tags"):
            hashing.delete_pattern("a*")

    def test_tags_wait_for_the_commit(self, make: Make) -> None:
        backend, other_site = make(KEY_PREFIX="a"), make(KEY_PREFIX="b")
        for one in (backend, other_site):
            one.set("k", 1, tags={"t"})
        with transaction.atomic():
            backend.invalidate_tags("t", "u")
            assert backend.get("k") == 1
        assert backend.get("k") is None
        assert other_site.get("k") == 1
        backend.set("k", 2, tags={"t"})
        with transaction.atomic():
            backend.invalidate_tags("t")
            transaction.set_rollback(True)
        assert backend.get("k") == 2
        backend.invalidate_tags("t")
        assert backend.get("k") is None
        connection.close()

    def test_tags_of_a_site_without_a_database(self, make: Make) -> None:
        """No transaction can be open, and asking for one is an error there."""
        backend = make()
        backend.set("a", 1, tags={"t"})
        backend.invalidate_tags("t", using="none")
        assert backend.get("a") is None


class TestSite:
    def test_pages_and_fragments(self, tmp_path: Path) -> None:
        """`cache_page`, `{% cache %}` and sessions work."""
        params = {"BACKEND": BACKEND, "LOCATION": str(tmp_path / "site")}
        with override_settings(CACHES={"default": params}):
            calls: list[int] = []

            def page(request: Any) -> HttpResponse:
                calls.append(1)
                return HttpResponse(f"page {len(calls)}")

            view = cache_page(60)(page)
            answers = [view(RequestFactory().get("/page")).content for _ in range(3)]
            assert answers == [b"page 1"] * 3
            text = "{% load cache %}{% cache 60 part user %}{{ call }}{% endcache %}"
            template = engines["django"].from_string(text)
            parts = [template.render({"user": user, "call": n}) for n, user in enumerate("aab")]
            assert parts == ["0", "0", "2"]
            from django.contrib.sessions.backends.cache import SessionStore

            session = SessionStore()
            session["cart"] = ["apple"]
            session.save()
            assert SessionStore(session.session_key)["cart"] == ["apple"]
            session.delete()
            assert not SessionStore().exists(session.session_key)
            backend: Any = caches["default"]
            backend.cache.close()
            location._caches.clear()

    def test_the_command(self, make: Make, tmp_path: Path) -> None:
        backend = make()
        params = {"BACKEND": BACKEND, "LOCATION": str(tmp_path / "cache")}
        dummy = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
        with override_settings(CACHES={"default": params, "other": dummy}):

            def said(*arguments: str) -> str:
                out = StringIO()
                call_command("cachekit", *arguments, stdout=out)
                return out.getvalue()

            backend.set("user:1", 1, tags={"t"})
            backend.set("k", 1, tags={"t"})
            assert "file: 2 entries" in said("info")
            assert "health: healthy" in said("info")
            assert said("delete-pattern", "user:*") == "removed 1\n"
            said("invalidate-tags", "t")
            assert backend.get("k") is None
            backend.set("k", 1)
            said("clear")
            assert backend.get("k") is None
            for alias in ("other", "none"):
                with pytest.raises(CommandError, match="no alias of that name has the backend"):
                    said("--cache", alias, "info")


def checks(**params: Any) -> list[CheckMessage]:
    with override_settings(CACHES={"default": {"BACKEND": BACKEND} | params}):
        return check_caches()


def test_system_checks(make: Make, tmp_path: Path) -> None:
    """Errors for what does not work, warnings for what loses data, nothing for the rest."""
    assert [message.id for message in checks()] == ["cachekit.W001"]
    assert checks(LOCATION=str(tmp_path)) == []
    assert checks(LOCATION="redis://localhost") == []
    (warning,) = checks(LOCATION=str(tmp_path), OPTIONS={"CULL_FREQUENCY": 3})
    assert warning.id == "cachekit.W002"
    for where in ("cache", "relative/path", 5, ["redis://a", "redis://b"], "redis:/a", ["memory", "a:b"]):
        (error,) = checks(LOCATION=where)
        assert error.id == "cachekit.E001"
        assert "LOCATION" in error.msg
    for name, value in (
        ("max_sise", 5),
        ("max_size", "5"),
        ("strict", 1),
        ("secret", 5),
        ("max_bytes", True),
    ):
        (error,) = checks(LOCATION=str(tmp_path), OPTIONS={name: value})
        assert error.id == "cachekit.E001"
        assert repr(name) in error.msg
    (error,) = checks(LOCATION=f"{__name__}:own", OPTIONS={"max_size": 5})
    assert "a cache of your own does not take" in error.msg
    with override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}):
        assert check_caches() == []
    (error,) = checks(LOCATION="http://user:secret@host")
    assert "secret" not in error.msg


def test_wrong_settings(make: Make) -> None:
    """The backend says the same, and what only opening shows."""
    for where, options, what in (
        ("nowhere", {}, "LOCATION 'nowhere' must be"),
        ("memory", {"eviction": 5}, "OPTIONS: "),
        ("memory", {"max_size": 0}, "max_size"),
        ("nowhere.at:all", {}, "cannot be imported"),
        (f"{__name__}:BACKEND", {}, "must name an IntelligentCache"),
    ):
        backend = make(where, OPTIONS=options)  # Django's own check makes it, before it shows ours
        for use in ("cache", "async_cache"):
            with pytest.raises(InvalidCacheBackendError, match=what):
                getattr(backend, use)
        with pytest.raises(InvalidCacheBackendError, match=what):
            backend.set("k", 1)
        with pytest.raises(AttributeError, match="'CacheKitCache' object has no attribute 'nothing'"):
            getattr(backend, "nothing")  # noqa: B009
    with override_settings(SECRET_KEY=""), pytest.raises(ImproperlyConfigured, match="SECRET_KEY"):
        make().get("k")


def test_a_backend_that_cannot_be_opened_tries_again_at_the_next_use(make: Make, tmp_path: Path) -> None:
    """Django keeps it as long as its thread."""
    (tmp_path / "file").write_text("")
    backend = make(str(tmp_path / "file"))
    with pytest.raises(TierUnavailableError, match="Not a directory"):
        backend.get("k")
    (tmp_path / "file").unlink()
    backend.set("k", 1)
    assert backend.get("k") == 1


def test_manage_check_shows_our_errors(tmp_path: Path) -> None:
    """Also those that only opening shows: Django's own check of caches must not end before."""
    (tmp_path / "file").write_text("")
    for params, what in (
        ({"LOCATION": "nowhere"}, "LOCATION 'nowhere' must be"),
        ({"OPTIONS": {"max_sise": 5}}, "OPTIONS has 'max_sise'"),
        ({"OPTIONS": {"max_size": 0}}, "max_size must be"),
        ({"LOCATION": "nowhere.at:all"}, "cannot be imported"),
        ({"LOCATION": f"{__name__}:no_cache_of_this_name"}, "cannot be imported"),
        ({"LOCATION": str(tmp_path / "file")}, "Not a directory"),
    ):
        caches_ = {"default": {"BACKEND": BACKEND} | params}
        with (
            override_settings(CACHES=caches_),
            pytest.raises(SystemCheckError, match=r"cachekit\.E001") as said,
        ):
            call_command("check")
        assert what in str(said.value)


def test_secret_keys_can_be_rotated(make: Make, tmp_path: Path) -> None:
    """Values that an older key signed are read while it is a fallback."""
    make().set("k", ["old"])
    location._caches.popitem()[1].cache.close()
    with override_settings(SECRET_KEY="a new one", SECRET_KEY_FALLBACKS=["of the tests"]):
        assert make().get("k") == ["old"]
        location._caches.popitem()[1].cache.close()
    with override_settings(SECRET_KEY="a third"):
        assert make().get("k") is None
