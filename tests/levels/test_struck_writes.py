"""A signal handler's exception between two steps of a write leaves nothing in memory that is older.

Beyond the model: the model kills whole processes, and here the process lives on with its memory.
"""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Callable, Iterator

import inside
import pytest
import traced
from coherent_caches import open_cache
from interrupting import handled_by
from tracing import at_line

from cachekit import IntelligentCache
from cachekit.loading.request import LoadRequest

pytestmark = pytest.mark.usefixtures("few_buckets")

TERMS = LoadRequest(60.0, frozenset())
WRITES: dict[str, Callable[[IntelligentCache, str], object]] = {
    "set": lambda cache, key: cache.set(key, "new"),
    "set_many": lambda cache, key: cache.set_many({"before": 1, key: "new", "after": 1}),
    "delete": lambda cache, key: cache.delete(key),
    "delete_many": lambda cache, key: cache.delete_many(["before", key, "after"]),
    "touch": lambda cache, key: cache.touch(key, 60),
    "refresh": lambda cache, key: inside.loads(cache).reload(key, lambda: "new", TERMS),
    "tags": lambda cache, key: cache.invalidate_by_tags({"t"}),
    "pattern": lambda cache, key: cache.invalidate_by_pattern(re.escape(key) + r"\Z"),
    "clear": lambda cache, key: cache.clear(),
}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def cache(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IntelligentCache]:
    path = tmp_path_factory.mktemp("struck")
    url = None if request.param == "file" else redis_url
    with open_cache(None if request.param == "redis" else path, url, f"struck-{path.name}:") as opened:
        yield opened


class Alarm(Exception):
    """What a handler of SIGALRM may raise."""


@pytest.mark.parametrize(
    ("cache", "kind"),
    [
        ("file", Alarm),
        ("redis", KeyboardInterrupt),
        ("both", Alarm),
        *(
            pytest.param(*others, marks=pytest.mark.soak)
            for others in (("file", KeyboardInterrupt), ("redis", Alarm), ("both", KeyboardInterrupt))
        ),
    ],
    indirect=["cache"],
)
def test_memory_has_nothing_older(
    subtests: pytest.Subtests, cache: IntelligentCache, kind: type[KeyboardInterrupt | Alarm]
) -> None:
    """What memory answers afterwards is what lies below it."""
    for name in WRITES:
        with subtests.test(name=name):
            assert cache.memory_cache is not None
            for number in itertools.count(1):
                key = f"k{next(_numbers)}"
                cache.set(key, "old", tags={"t"})

                def handler(signum: int, frame: object) -> None:
                    raise kind

                def strike() -> None:
                    signal.raise_signal(signal.SIGUSR1)

                struck = False
                with handled_by(handler):
                    try:
                        at_line(number, traced.WRITES, strike, lambda key=key: WRITES[name](cache, key))  # type: ignore[misc]  # noqa: B023
                    except kind:
                        struck = True
                seen = cache.memory_cache.get_value(key)
                cache.memory_cache.delete(key)
                assert seen in (None, cache.get(key)), number
                if not struck:
                    assert number > 2, "the operation has that many steps"
                    break
