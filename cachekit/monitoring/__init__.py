"""The figures of caches: read from one cache, published by processes while they are wanted, and summed."""
