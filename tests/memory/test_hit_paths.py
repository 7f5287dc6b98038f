"""The hit path has five copies, because a call would be a fifth of its time; this keeps them the same."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from cachekit import IntelligentCache, MemoryCache
from cachekit.decorator import fast_path
from cachekit.tiers.memory.store import Store

#: What each copy calls the parts of a hit, and what they are called here.
NAMES = {
    "self.time.monotonic": "now_of",
    "self._time.monotonic": "now_of",
    "fast_path.time.monotonic": "now_of",
    "self.touch": "touch",
    "self._touch": "touch",
    "fast_path.touch": "touch",
    "self._lookups.hits": "hits",
    "fast_path.lookups.hits": "hits",
    "lookups.hits": "hits",
}
#: Steps that some copies have and others do not: a sampled latency, and copies of mutable results.
OWN_STEPS = re.compile(r"if now > self\._stats\.sample_due:\n.*|return .*", re.DOTALL)


def steps_of(function: Callable[..., Any]) -> list[str]:
    """The steps from the reading of the value on, with the names of each copy replaced."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (body,) = [
        node.body
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        for step in node.body
        if ast.unparse(step) == "value = held.value"
    ]
    steps = body[[ast.unparse(step) for step in body].index("value = held.value") :]
    *before, condition = steps
    assert isinstance(condition, ast.If)
    assert not condition.orelse
    texts = [ast.unparse(step) for step in before]
    texts.append(f"if {ast.unparse(condition.test)}:")
    texts += [text for step in condition.body if not OWN_STEPS.fullmatch(text := ast.unparse(step))]
    return [renamed(text) for text in texts]


def renamed(text: str) -> str:
    # A copy that has the exact key at hand need not read it from the entry.
    text = text.replace("touch(held.key)", "touch(key)")
    for name in sorted(NAMES, key=len, reverse=True):
        text = text.replace(name, NAMES[name])
    return text


@pytest.mark.parametrize(
    "copy",
    [Store.hit, IntelligentCache.get, fast_path.wrapper_of, fast_path.async_wrapper_of],
    ids=lambda copy: copy.__qualname__,
)
def test_every_copy_of_the_hit_path_has_the_same_steps(copy: Callable[..., Any]) -> None:
    """Those of `MemoryCache.get_value`, in the same order."""
    assert steps_of(copy) == steps_of(MemoryCache.get_value)


def test_the_steps_are_those_of_a_hit() -> None:
    """So that the comparison is not one of nothing with nothing."""
    value, fence, now, condition, touch, *counts = steps_of(MemoryCache.get_value)
    assert (value, fence, now) == ("value = held.value", "shared_fence = held.shared_fence", "now = now_of()")
    assert "now < held.deadline and held.value is value" in condition
    assert "touch(key)" in touch
    assert counts == ["held.accesses += 1", "held.last = now", "hits += 1"]
