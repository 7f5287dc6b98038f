"""How a tier on a server is made, pickled, shown and closed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import inside
import pytest
import redis
import redis.asyncio
from redis.cache import CacheConfig
from redis_looks import Point
from redis_server import RedisServer

from cachekit import CacheEntry
from cachekit.errors import CacheClosedError, TierUnavailableError
from cachekit.tiers.redis import scripts
from cachekit.tiers.redis.address import driver_info
from cachekit.tiers.redis.tier import RedisCache

MakeCache = Callable[..., RedisCache]

SECRET = "a secret of the whole fleet"


class TestConfiguration:
    def test_wrong_arguments(self, subtests: pytest.Subtests) -> None:
        """Each is refused by name, when the cache is made."""
        rows: list[tuple[Any, type[Exception], str]] = [
            (
                {"host": 5},
                TypeError,
                "host must be a str, not 5 of type int; a client of your own goes into client=",
            ),
            ({"host": "redis://h"}, ValueError, "pass a URL as RedisCache"),
            ({"host": ""}, ValueError, "host must not be empty"),
            ({"port": "6379"}, TypeError, "port must be an int, not '6379'"),
            ({"port": 0}, ValueError, "port must be 1 to 65535, not 0"),
            ({"db": -1}, ValueError, "db must be 0 to"),
            ({"key_prefix": ""}, ValueError, "key_prefix must not be empty"),
            ({"key_prefix": "{a}"}, ValueError, "braces"),
            ({"key_prefix": 5}, TypeError, "key_prefix must be a str"),
            ({"timeout": 0}, ValueError, "timeout must be more than 0"),
            ({"timeout": "1"}, TypeError, "timeout must be seconds"),
            ({"default_ttl": 0}, ValueError, "default_ttl must be more than 0"),
            ({"secret": "short"}, ValueError, "secret must be at least 16 bytes"),
            ({"allow": Point}, TypeError, "allow must be a list"),
            ({"codec": "yaml"}, ValueError, "codec must be"),
            ({"url": "http://h"}, ValueError, "url must begin with redis://"),
            ({"url": "redis://h?no_such_option=1"}, ValueError, "the options of url"),
            ({"url": "redis://h?socket_timeout=soon"}, ValueError, "the options of url"),
            ({"url": "redis://" + "h" * 70}, ValueError, "the host of url must be"),
            ({"url": "rediss://h?ssl_cert_reqs=sometimes"}, ValueError, "the options of url"),
            ({"url": "redis://h?protocol=5"}, ValueError, "the options of url"),
            ({"url": "redis://h?maint_notifications_config=x"}, ValueError, "the options of url"),
            ({"url": "redis://h?max_connections=-3"}, ValueError, "the options of url"),
            ({"url": "redis://h?driver_info=x"}, ValueError, "the options of url"),
            ({"url": ""}, ValueError, "url must not be empty"),
            ({"url": "/abc"}, ValueError, "url must begin with redis://"),
            ({"url": "redis://h:99999"}, ValueError, "the port of url must be a number from 1 to 65535"),
            ({"url": "redis://h:0"}, ValueError, "the port of url"),
            ({"url": "redis://h:port"}, ValueError, "the port of url"),
            ({"url": "redis://h/one"}, ValueError, "the database of url"),
            ({"url": "redis://[h"}, ValueError, "the host of url"),
            ({"url": "redis+sentinel://h"}, ValueError, "url must name sentinels"),
            ({"url": "redis+sentinel://h/main?no"}, ValueError, "the options of url"),
            ({"host": "h" * 70}, ValueError, "looked up"),
            ({"host": "h:6380"}, ValueError, r"write RedisCache\('h', 6380\)"),
            ({"url": 5}, TypeError, "url must be a str"),
            ({"url": "redis://h", "port": 5}, ValueError, "leave out host, port"),
            ({"client": object()}, TypeError, "client must be a redis.Redis"),
            ({"client": redis.asyncio.Redis()}, TypeError, "not one of redis.asyncio"),
            ({"client": redis.Redis(decode_responses=True)}, ValueError, "decode_responses"),
            ({"client": redis.Redis(cache_config=CacheConfig())}, ValueError, "cache_config"),
            ({"client": redis.Redis().pipeline()}, TypeError, "not a pipeline"),
            ({"client": redis.Redis(), "host": "h"}, ValueError, "must come without an address"),
        ]
        for arguments, error, words in rows:
            with subtests.test(words=words), pytest.raises(error, match=words):
                RedisCache(**arguments)

    def test_wrong_nodes(self, subtests: pytest.Subtests) -> None:
        """So is a Cluster that is none."""
        rows: list[Any] = [[], "host", [("h",)], ["h:1"], [("h", "1")], None]
        for nodes in rows:
            refused = pytest.raises(TypeError, match=r"nodes must be|port must be")
            with subtests.test(nodes=nodes), refused:
                RedisCache.cluster(nodes)

    def test_a_wrong_url_is_not_repeated(self, subtests: pytest.Subtests) -> None:
        """There may be a password in it."""
        rows: list[str] = [
            "redis://user:hunter2@h:port",
            "redis://:hun/ter2@h",
            "redis://:hunter2",
            "hunter2://h",
            "http://:hunter2@h",
            "redis://:hunter2@h:99999",
        ]
        for url in rows:
            with subtests.test(url=url):
                with pytest.raises(ValueError, match="is not shown") as caught:
                    RedisCache(url=url, timeout=60)
                assert "hun" not in str(caught.value)
                assert caught.value.__cause__ is None

    def test_passwords_are_not_shown(self) -> None:
        """Not in repr, str or what is raised."""
        with RedisServer("--requirepass", "hunter2-hunter2") as server:
            url = server.url.replace("//", "//:hunter2-hunter2@")
            for cache in (
                RedisCache(url=url, timeout=60),
                RedisCache(url=server.url, password="hunter2-hunter2", timeout=60),
            ):
                with cache:
                    cache.set_value("k", 1)
                    assert cache.get_value("k") == 1
                    assert "hunter2" not in repr(cache) + repr(cache._address) + str(inside.server(cache))
            for wrong in (
                RedisCache(url=url.replace("2@", "3@"), timeout=60),
                RedisCache(url=server.url, password="wrong-word", timeout=60),
            ):
                with wrong, pytest.raises(TierUnavailableError) as caught:
                    wrong.get("k")
                assert "WRONGPASS" in str(caught.value)
                cause: BaseException | None = caught.value
                while cause is not None:
                    assert "hunter2" not in str(cause)
                    assert "wrong-word" not in str(cause)
                    cause = cause.__cause__

    def test_a_unix_socket(self) -> None:
        """unix:// works too."""
        with (
            RedisServer() as server,
            RedisCache(url=f"unix://{server.directory}/socket", timeout=60) as cache,
        ):
            cache.set_value("k", 1)
            assert cache.get_value("k") == 1

    def test_options_in_the_url(self, make_cache: MakeCache, redis_url: str) -> None:
        """What redis-py takes there, the cache takes; but values stay bytes."""
        options = "max_connections=2&timeout=3&socket_timeout=4&protocol=2&decode_responses=True"
        cache = make_cache(url=f"{redis_url}?{options}")
        cache.put_many({"k": CacheEntry("k", b"\xff")}, {"k": cache.successor()})
        assert cache.get_value("k") == b"\xff"
        assert cache.keys() == ["k"]
        assert inside.server(cache)._open()._most == 2

    def test_it_pickles_as_its_configuration(self, make_cache: MakeCache) -> None:
        """A copy speaks to the same keys of the same server."""
        cache = make_cache(default_ttl=50, allow=[Point])
        cache.set_value("k", Point(1))
        with pickle.loads(pickle.dumps(cache)) as copy:
            assert copy.get_value("k") == Point(1)
            assert (copy.key_prefix, copy.default_ttl) == (cache.key_prefix, 50)

    def test_what_does_not_pickle(self, make_cache: MakeCache, client: Any) -> None:
        """A secret stays where it is, and so does a connection."""
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(make_cache(secret=SECRET))
        with pytest.raises(TypeError, match="client"):
            pickle.dumps(make_cache(client=client))

    def test_making_one_connects_to_nothing(self) -> None:
        """Nor does asking for figures, a token, or closing it."""
        cache = RedisCache("192.0.2.1")
        assert cache.get_stats().to_dict()["size"] == 0
        assert cache.successor().token > 0
        assert "192.0.2.1:6379/0" in repr(cache)
        cache.close()
        cache.close()

    def test_a_client_is_left_open(self, make_cache: MakeCache, redis_url: str) -> None:
        """Who made it closes it; the cache is closed all the same."""
        client = redis.Redis.from_url(redis_url)
        cache = make_cache(client=client)
        cache.set_value("k", 1)
        cache.close()
        assert client.ping()
        closed: list[Callable[[], object]] = [
            lambda: cache.get("k"),
            lambda: cache.get_many(["k"]),
            lambda: cache.get_many([]),
            lambda: "k" in cache,
            cache.keys,
            cache.size,
            cache.clear,
            cache.renew,
            cache.successor,
            lambda: cache.fence("k"),
            lambda: cache.touch("k"),
            lambda: cache.invalidate_by_tags({"t"}),
            lambda: cache.invalidate_by_pattern("k"),
            lambda: cache.subscribe(None),  # type: ignore[arg-type]
        ]
        for call in closed:
            with pytest.raises(CacheClosedError):
                call()
        client.close()

    def test_arguments_of_methods(self, cache: RedisCache) -> None:
        """Keys are str, tags a set of them, several keys no single str."""
        with pytest.raises(TypeError, match="key must be a str"):
            cache.get(5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="several keys"):
            cache.get_many("abc")
        with pytest.raises(TypeError, match="tags must be"):
            cache.invalidate_by_tags("abc")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="entry must be a CacheEntry"):
            cache.set("k", "value")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="ttl must be"):
            cache.touch("k", "5")  # type: ignore[arg-type]


def test_scripts_are_read_before_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is forked while another thread reads one would find the import system locked for ever."""
    monkeypatch.delattr(scripts, "files")
    every = scripts.PUT, scripts.REPLACE, scripts.ADD, scripts.REMOVE, scripts.TOKENS
    assert all(script.text for script in every)


class TestTheFirstCallImportsNothing:
    """A call, perhaps on a loop, does not wait for an import; a fork meets none that is under way."""

    @staticmethod
    def check(made: str, *calls: str) -> None:
        steps = "\n    ".join(calls)
        program = f"""
import sys
from cachekit import RedisCache, TierUnavailableError
assert "redis" not in sys.modules
cache = {made}
before = set(sys.modules)
try:
    {steps}
except TierUnavailableError:
    pass
print(sorted(name for name in set(sys.modules) - before if name.startswith(("redis", "cachekit"))))
"""
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert ended.stdout.strip() == "[]"

    @pytest.mark.parametrize("made", ["RedisCache(port=1)", "RedisCache.cluster([('127.0.0.1', 1)])"])
    def test_without_a_server(self, made: str) -> None:
        self.check(made, "cache.get('k')")

    def test_of_a_server(self, redis_url: str, prefix: str) -> None:
        calls = "cache.set_value('k', 1)", "assert cache.get_value('k') == 1", "cache.delete('k')"
        self.check(f"RedisCache(url={redis_url!r}, key_prefix={prefix!r})", *calls)

    def test_of_a_cluster(self, cluster_nodes: list[tuple[str, int]], prefix: str) -> None:
        calls = "cache.set_value('k', 1)", "assert cache.get_value('k') == 1", "cache.delete('k')"
        self.check(f"RedisCache.cluster({cluster_nodes!r}, {prefix!r})", *calls)


class TestWhatServersAreTold:
    """The name and version of redis-py, with each connection."""

    @pytest.fixture
    def make(self, redis_url: str, prefix: str, cluster_nodes: list[tuple[str, int]]) -> dict[str, Any]:
        return {
            "single": lambda: RedisCache(url=redis_url, key_prefix=prefix),
            "cluster": lambda: RedisCache.cluster(cluster_nodes, prefix),
        }

    @pytest.mark.parametrize("name", ["single", "cluster"])
    def test_the_version_is_read_once(
        self, make: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """redis-py reads it from the disk for each connection, which takes longer than to connect."""
        driver_info()

        def read_again() -> str:
            raise AssertionError("the version is read again")

        monkeypatch.setattr("redis.utils.get_lib_version", read_again)
        with make[name]() as cache:
            cache.set_value("k", 1)
            assert cache.get_value("k") == 1

    @pytest.mark.filterwarnings(
        "ignore:.*lib_name:DeprecationWarning", "ignore:.*lib_version:DeprecationWarning"
    )
    def test_of_a_url(self, redis_url: str, client: Any) -> None:
        for options, expected in (
            ("", {"lib-name": "redis-py", "lib-ver": redis.__version__}),
            ("?lib_name=mine&lib_version=7", {"lib-name": "mine", "lib-ver": "7"}),
        ):
            with RedisCache(url=redis_url + options) as cache:
                before = {one["id"] for one in client.client_list()}
                cache.ping()
                (made,) = [one for one in client.client_list() if one["id"] not in before]
                if "lib-name" not in made:
                    pytest.skip("the server lists no libraries, as before Redis 7.2")
                assert {name: made[name] for name in expected} == expected
