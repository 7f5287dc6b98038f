"""The counters of the statistics: what one thread counts while another one does is not lost."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from pathlib import Path

import inside
import pytest
import traced
from tracing import at_line

import cachekit
from cachekit import FileCache, IntelligentCache, MemoryCache, RedisCache

SOURCES = sorted(Path(cachekit.__file__).parent.rglob("*.py"))


def test_nothing_is_called_between_reading_and_storing_a_counter() -> None:
    """`counter += f()` reads the counter, calls, and stores: what others have counted meanwhile is lost."""
    found = [
        f"{source}:{node.lineno}: {ast.unparse(node)}"
        for source in SOURCES
        if source.parent.name != "cli"  # which has one thread for each counter
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.AugAssign)
        and isinstance(node.target, ast.Attribute)
        and not isinstance(node.value, ast.Tuple)
        and any(isinstance(part, (ast.Call, ast.Await, ast.comprehension)) for part in ast.walk(node.value))
    ]
    assert len(SOURCES) > 100
    assert found == []


def test_a_file_tier_counts_what_two_invalidations_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins and ends while the first is under way."""
    with FileCache(tmp_path, 1, cleanup_interval=None) as cache:
        for number in range(10):
            cache.set_value(f"{number % 2}:{number}", number)
        engine = type(inside.engine(cache))
        clear = engine.clear

        def clear_later(self: object) -> int:
            thread = threading.Thread(target=cache.invalidate_by_pattern, args=("1:",))
            thread.start()
            thread.join()
            return clear(self)  # type: ignore[arg-type]

        monkeypatch.setattr(engine, "clear", clear_later)
        cache.clear()
        assert cache.get_stats().invalidations == 10


def test_there_are_never_more_hits_than_requests(tmp_path: Path) -> None:
    """In no snapshot, also of a moment at which lower tiers answer."""
    with IntelligentCache(MemoryCache(max_size=1), file_cache=FileCache(tmp_path, 1)) as cache:
        for number in range(10):
            cache.set(f"k{number}", number)
        seen = []

        def look_up() -> None:
            for number in range(10):
                cache.get(f"k{number}")

        def snapshot() -> None:
            seen.append(cache.get_stats()["combined"])

        line = 1
        while at_line(line, traced.STATISTICS, look_up, snapshot):
            line += 1
        assert line > 5
        assert all(stats.request_hits <= stats.requests for stats in seen)
        assert all(stats.request_hit_rate <= 1 for stats in seen)


def test_a_redis_tier_counts_what_two_invalidations_remove(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same."""
    with RedisCache(url=redis_url, key_prefix="counted:", timeout=60) as cache:
        for number in range(10):
            cache.set_value(f"{number % 2}:{number}", number)
        store = type(inside.redis_store(cache))
        clear: Callable[[object], int] = store.clear

        def clear_later(self: object) -> int:
            thread = threading.Thread(target=cache.invalidate_by_pattern, args=("1:",))
            thread.start()
            thread.join()
            return clear(self)

        monkeypatch.setattr(store, "clear", clear_later)
        cache.clear()
        assert cache.get_stats().invalidations == 10
