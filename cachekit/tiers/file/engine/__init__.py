"""The file engine: segments, a shared hash index, and locks that survive a crash."""

from cachekit.tiers.file.engine.engine import Engine, EngineStats

__all__ = ["Engine", "EngineStats"]
