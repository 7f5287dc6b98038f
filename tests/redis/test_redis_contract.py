"""The Redis tier passes the suite that every tier passes: on one server, with and without a signature.

`-m soak` runs it on a client of the caller, on Valkey and on a Cluster as well.
"""

from __future__ import annotations

import pytest
import redis
from redis_server import RedisServer

from cachekit.testing import ManualClock, TierContract
from cachekit.tiers.base import ServerTier
from cachekit.tiers.redis.tier import RedisCache

pytestmark = pytest.mark.usefixtures("few_buckets")


class TestRedisCache(TierContract):
    @pytest.fixture(autouse=True)
    def _place(self, redis_url: str, prefix: str) -> None:
        self.url, self.prefix = redis_url, prefix

    def make_tier(self, clock: ManualClock) -> RedisCache:
        return RedisCache(url=self.url, key_prefix=self.prefix, timeout=60, clock=clock)

    def test_it_is_a_fleet_tier(self) -> None:
        """It has every method of the port."""
        with RedisCache() as cache:
            assert isinstance(cache, ServerTier)


class TestSignedRedisCache(TestRedisCache):
    def make_tier(self, clock: ManualClock) -> RedisCache:
        return RedisCache(
            url=self.url, key_prefix=self.prefix, timeout=60, clock=clock, secret="a secret of the fleet"
        )


@pytest.mark.soak
class TestRedisCacheOnAClient(TestRedisCache):
    def make_tier(self, clock: ManualClock) -> RedisCache:
        return RedisCache(client=redis.Redis.from_url(self.url), key_prefix=self.prefix, clock=clock)


@pytest.mark.soak
class TestRedisCacheOnValkey(TierContract):
    """The other family of servers, where the first one is not that."""

    @pytest.fixture(autouse=True)
    def _place(self, valkey_server: RedisServer, prefix: str) -> None:
        self.url, self.prefix = valkey_server.url, prefix

    def make_tier(self, clock: ManualClock) -> RedisCache:
        return RedisCache(url=self.url, key_prefix=self.prefix, timeout=60, clock=clock)


@pytest.mark.soak
class TestRedisCacheOnACluster(TierContract):
    @pytest.fixture(autouse=True)
    def _place(self, cluster_nodes: list[tuple[str, int]], prefix: str) -> None:
        self.nodes, self.prefix = cluster_nodes, prefix

    def make_tier(self, clock: ManualClock) -> RedisCache:
        return RedisCache.cluster(self.nodes, self.prefix, timeout=60, clock=clock)
