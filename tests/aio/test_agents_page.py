"""The code in docs/agents.md runs, in its order, as one program."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from loops import no_threads

from cachekit import set_default_cache

PAGE = Path(__file__).parents[2] / "docs" / "agents.md"


class Services:
    """What the page talks to: a model, the web, a database; each says how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def generate(self, prompt: str, *, model: str, **settings: Any) -> Any:
        self.asked.append("model")
        return SimpleNamespace(content=f"{model}: {prompt}")

    async def chat(self, messages: list[dict[str, str]]) -> dict[str, str]:
        self.asked.append("chat")
        return {"finish_reason": "stop", "content": messages[0]["content"]}

    async def get(self, url: str) -> Any:
        self.asked.append("web")
        return SimpleNamespace(status=200, text=f"the text of {url}")

    async def rows(self, table: str, query: str) -> list[str]:
        self.asked.append("rows")
        return [table, query]

    async def insert(self, table: str, row: dict[str, str]) -> None:
        self.asked.append("insert")

    async def profile(self, number: int) -> dict[str, int]:
        self.asked.append("profile")
        return {"id": number}

    async def profile_of(self, key: str) -> dict[str, int]:
        return await self.profile(int(key.rpartition(":")[2]))

    async def profiles(self, keys: list[str]) -> dict[str, dict[str, int]]:
        return {key: await self.profile_of(key) for key in keys}


def test_it_runs(tmp_path: Path) -> None:
    """Each block runs, asks the services once per question, and leaves nothing behind."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 9
    services = Services()
    names: dict[str, Any] = {
        "__name__": "agent", "directory": tmp_path, "client": services, "web": services, "database": services,
    }  # fmt: skip

    async def main() -> None:
        for block in blocks:
            program = compile(block, PAGE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(program, names)
            if inspect.isawaitable(result):
                await result

    asyncio.run(main())
    set_default_cache(None)
    assert names["answer"] == "large-2: Why is the sky blue?"
    assert names["page"] == "the text of https://example.org/"
    assert services.asked == [
        "model", "chat", "web", "model", "rows", "insert", "rows", *["profile"] * 4, "model",
    ]  # fmt: skip
    no_threads()
