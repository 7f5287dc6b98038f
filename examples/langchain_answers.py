"""A model of LangChain whose answers are in cachekit; the model is a stand-in, so no key is needed.

python examples/langchain_answers.py
"""

from __future__ import annotations

import tempfile

from langchain_core.language_models.fake_chat_models import FakeListChatModel

from cachekit import FileCache, IntelligentCache
from cachekit.integrations.langchain import CacheKitCache

with IntelligentCache(file_cache=FileCache(tempfile.mkdtemp(prefix="answers-"))) as cache:
    answers = CacheKitCache(cache, ttl=86400, tags={"geography"})
    model = FakeListChatModel(responses=["Paris", "Paris, still"], cache=answers)
    print([model.invoke("The capital of France?").content for _ in range(3)])
    cache.invalidate_by_tags({"geography"})
    print([model.invoke("The capital of France?").content for _ in range(2)])
