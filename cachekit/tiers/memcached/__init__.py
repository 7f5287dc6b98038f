"""The memcached tier: `MemcachedCache`."""
