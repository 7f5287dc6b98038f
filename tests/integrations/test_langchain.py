"""The cache for LangChain: what langchain-tests does not ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import in_fork

pytest.importorskip("langchain_core", reason="langchain-core is not installed")

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from cachekit import FileCache, IntelligentCache, MemoryCache
from cachekit.integrations import langchain
from cachekit.integrations.langchain import CacheKitCache

ANSWER = [Generation(text="a", generation_info={"n": 1})]


class Own(Generation):  # type: ignore[misc]
    """A class that LangChain does not read back."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[IntelligentCache]:
    with IntelligentCache(MemoryCache(), None, FileCache(tmp_path / "cache")) as made:
        yield made


def test_a_model(store: IntelligentCache) -> None:
    """It is asked once for each prompt, by sync and by async callers; the answer keeps its tool calls."""
    cache = CacheKitCache(store, ttl=50, tags={"answers"})
    model = FakeListChatModel(responses=["one", "two", "three"], cache=cache)
    assert [model.invoke("p").content for _ in range(2)] == ["one", "one"]
    assert asyncio.run(model.ainvoke("p")).content == "one"
    assert model.batch(["p", "q"])[1].content == "two"
    store.invalidate_by_tags({"answers"})
    assert model.invoke("p").content == "three"
    call = {"name": "f", "args": {"x": 1}, "id": "1"}
    message = ChatGeneration(message=AIMessage("", tool_calls=[call]))
    cache.update("tools", "m", [message])
    assert cache.lookup("tools", "m") == [message]


def test_processes(store: IntelligentCache) -> None:
    """What one clears the other no longer serves; other entries of the cache stay."""
    cache = CacheKitCache(store)
    store.set("other", 1)
    cache.update("p", "m", ANSWER)
    assert cache.lookup("p", "m") == ANSWER

    def other() -> None:
        assert cache.lookup("p", "m") == ANSWER
        cache.clear()

    assert in_fork(other)() == 0
    assert cache.lookup("p", "m") is None
    assert store.get("other") == 1


def test_an_invalidation_while_the_model_answers(store: IntelligentCache) -> None:
    """The answer is not stored: in this task or thread, and in no other one."""
    cache = CacheKitCache(store, tags={"t"})
    assert cache.lookup("p", "m") is None
    store.invalidate_by_tags({"t"})
    cache.update("p", "m", ANSWER)
    assert cache.lookup("p", "m") is None
    cache.update("p", "m", ANSWER)
    assert cache.lookup("p", "m") == ANSWER
    cache.update("p", "m", [])  # without a lookup that missed, it is a plain write
    assert cache.lookup("p", "m") == []

    async def work() -> None:
        asked, invalidated = asyncio.Event(), asyncio.Event()

        async def answer() -> None:
            assert await cache.alookup("q", "m") is None
            asked.set()
            await invalidated.wait()
            await cache.aupdate("q", "m", ANSWER)

        early = asyncio.create_task(answer())
        await asked.wait()
        await cache.aclear()
        invalidated.set()
        await early
        assert await cache.alookup("q", "m") is None
        await cache.aupdate("q", "m", ANSWER)
        assert await cache.alookup("q", "m") == ANSWER

    asyncio.run(work())


def test_answers_that_cannot_be_read(store: IntelligentCache) -> None:
    """They count as missing, and raise nothing."""
    cache = CacheKitCache(store)
    cache.update("p", "m", [Own(text="mine")])
    assert cache.lookup("p", "m") is None
    for stored in (
        "{",
        '"text"',
        "[1]",
        5,
        '{"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {}}',
    ):
        store.set(cache._key("p", "m"), stored)
        assert cache.lookup("p", "m") is None


def test_keys(store: IntelligentCache) -> None:
    """Prompt and model are told apart, whatever is in them."""
    cache = CacheKitCache(store)
    pairs = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("1:a", ""), ("\ud800", "")]
    assert len({cache._key(*pair) for pair in pairs}) == len(pairs)


def test_wrong_arguments(store: IntelligentCache) -> None:
    wrong: Any = CacheKitCache
    for arguments, more, what in (
        ((5,), {}, "cache must be an IntelligentCache, not 5"),
        ((store,), {"ttl": "soon"}, "ttl"),
        ((store,), {"tags": "t"}, "tags"),
        ((store,), {"key_prefix": 5}, "key_prefix"),
    ):
        with pytest.raises(TypeError, match=what):
            wrong(*arguments, **more)


def test_many_models_that_fail(store: IntelligentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What their lookups began does not pile up."""
    monkeypatch.setattr(langchain, "_MOST_FILLS", 20)
    cache = CacheKitCache(store)
    for number in range(30):
        cache.lookup(str(number), "m")
    assert len(langchain._begun.get()) == len(cache._fills) == 20
    for prompt in ("0", "29"):
        cache.update(prompt, "m", ANSWER)
        assert cache.lookup(prompt, "m") == ANSWER
    assert len(cache._fills) == 19
