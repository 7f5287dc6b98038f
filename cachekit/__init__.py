"""cachekit: a multi-tier cache, synchronous and thread-safe."""

__version__ = "0.1.0"
