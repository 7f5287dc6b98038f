"""TLS: a server, a Cluster and sentinels with certificates of a CA of our own."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer, free_port, wait_until
from sentinel_servers import PASSWORD, SENTINEL_PASSWORD, Certificates, Fleet, redis_program

from cachekit import TLS, IntelligentCache, MemoryCache, RedisCache
from cachekit.errors import TierUnavailableError
from cachekit.testing import ManualClock, TierContract

pytestmark = pytest.mark.usefixtures("few_buckets")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_port(certificates: Certificates) -> Iterator[int]:
    """Of a server that demands a certificate of its clients."""
    port = free_port()
    with redis_program() as program, RedisServer(*certificates.options(port), program=program):
        yield port


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> TLS:
    return TLS(certificates.ca, certificates.cert, certificates.key)


class TestTierOverTLS(TierContract):
    @pytest.fixture(autouse=True)
    def _place(self, tls_port: int, tls: TLS, prefix: str) -> None:
        self.port, self.tls, self.prefix = tls_port, tls, prefix

    def make_tier(self, clock: ManualClock) -> RedisCache:
        return RedisCache("127.0.0.1", self.port, 0, self.prefix, tls=self.tls, timeout=60, clock=clock)


def test_by_url(tls_port: int, tls: TLS, certificates: Certificates, prefix: str) -> None:
    """With the certificates in `tls`, or in the URL; a copy that was pickled has them too."""
    url = f"rediss://127.0.0.1:{tls_port}/0"
    options = (
        f"ssl_ca_certs={certificates.ca}&ssl_certfile={certificates.cert}&ssl_keyfile={certificates.key}"
    )
    with (
        RedisCache(url=url, key_prefix=prefix, tls=tls, timeout=60) as cache,
        RedisCache(url=f"{url}?{options}", key_prefix=prefix, timeout=60) as other,
        pickle.loads(pickle.dumps(cache)) as copy,
    ):
        cache.set_value("k", 1)
        assert other.get_value("k") == copy.get_value("k") == 1


def test_the_bus(tls_port: int, tls: TLS, prefix: str) -> None:
    """A write on one host is seen in the memory of another."""
    place = {"key_prefix": prefix, "tls": tls, "timeout": 60}
    with (
        IntelligentCache(MemoryCache(), RedisCache("127.0.0.1", tls_port, **place), file_cache=None) as one,  # type: ignore[arg-type]
        IntelligentCache(MemoryCache(), RedisCache("127.0.0.1", tls_port, **place), file_cache=None) as two,  # type: ignore[arg-type]
    ):
        one.set("k", 1)
        assert two.get("k") == 1
        one.set("k", 2)
        wait_until(lambda: two.get("k") == 2, "the write is seen")


def test_what_is_not_trusted(tls_port: int, tls: TLS, certificates: Certificates) -> None:
    """An unknown CA, another name of the host, and a client without a certificate."""
    for host, wanted, words in [
        ("127.0.0.1", TLS(cert=certificates.cert, key=certificates.key), "CERTIFICATE_VERIFY_FAILED"),
        ("localhost", tls, "Hostname mismatch"),
        ("127.0.0.1", TLS(certificates.ca), "CERTIFICATE_REQUIRED|closed|EOF|reset"),
        ("127.0.0.1", None, "closed|reset"),
    ]:
        refused = pytest.raises(TierUnavailableError, match=words)
        with RedisCache(host, tls_port, tls=wanted, timeout=60) as cache, refused:
            cache.get("k")
    unnamed = TLS(certificates.ca, certificates.cert, certificates.key, check_hostname=False)
    with RedisCache("localhost", tls_port, tls=unnamed, timeout=60) as cache:
        cache.ping()


def test_a_cluster(certificates: Certificates, tls: TLS, prefix: str) -> None:
    """Each node is connected to with TLS."""
    port = free_port()
    options = certificates.options(port)
    with (
        redis_program() as program,
        RedisServer(
            *options,
            "--tls-cluster",
            "yes",
            "--tls-replication",
            "yes",
            "--cluster-enabled",
            "yes",
            program=program,
        ) as server,
    ):
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(
                lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "the Cluster works"
            )
        with RedisCache.cluster([("127.0.0.1", port)], prefix, tls=tls, timeout=60) as cache:
            cache.set_value("k", 1, tags={"t"})
            assert cache.get_value("k") == 1


def test_sentinels(certificates: Certificates, tls: TLS, prefix: str) -> None:
    """Sentinels and servers speak TLS to each other and to us."""
    with redis_program() as program:
        fleet = Fleet(program=program, certificates=certificates)
        try:
            with RedisCache.sentinel(
                fleet.nodes, "main", prefix, password=PASSWORD, sentinel_password=SENTINEL_PASSWORD, tls=tls,
                timeout=60,
            ) as cache:  # fmt: skip
                cache.set_value("k", 1)
                assert cache.get_value("k") == 1
            with RedisCache(url=fleet.url, key_prefix=prefix, tls=tls, timeout=60) as cache:
                assert cache.get_value("k") == 1
        finally:
            fleet.close()


def test_wrong_arguments(certificates: Certificates, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Each is refused by name when it is made: later a wrong path would look like an outage."""
    locked = tmp_path / "locked.pem"
    certificates.lock(locked)
    rows = [
        ({"ca": 5}, "ca must be the path of a PEM file, not 5 of type int"),
        ({"ca": "/no/such"}, "ca must be a PEM file with certificates, not '/no/such': .*No such file"),
        ({"ca": certificates.key}, "ca must be a PEM file with certificates"),
        ({"key": certificates.key}, "key must come with cert"),
        (
            {"cert": certificates.cert},
            "cert must be a PEM file with a certificate, with its key there or in key=",
        ),
        ({"cert": certificates.cert, "key": f"{certificates.ca}.key"}, "cert must be .*mismatch"),
        ({"cert": certificates.cert, "key": locked}, "key must be a file without a passphrase"),
        ({"check_hostname": None}, "check_hostname must be True or False"),
    ]
    for arguments, words in rows:
        with subtests.test(words=words), pytest.raises((TypeError, ValueError), match=words):
            TLS(**arguments)  # type: ignore[arg-type]
    wrong = [
        ({"tls": True}, "tls must be a cachekit.TLS, not True"),
        ({"ssl": "yes"}, "ssl must be True or False, not 'yes'"),
        ({"url": "redis://h", "tls": TLS()}, "tls must come with a URL that asks for TLS"),
        ({"url": "redis+sentinel://h/main", "tls": TLS()}, "tls must come with a URL that asks for TLS"),
        ({"url": "unix:///s", "tls": TLS()}, "tls must come with a URL that asks for TLS"),
    ]
    for arguments, words in wrong:
        with subtests.test(words=words), pytest.raises((TypeError, ValueError), match=words):
            RedisCache(**arguments)  # type: ignore[arg-type]
