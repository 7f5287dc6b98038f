"""Two versions of a program over one server, which differ in a class: each finds only its own values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from dataclasses import dataclass
from cachekit import IntelligentCache, LoadOptions, RedisCache

@dataclass
class Quote:
    price: int
    {field}

url, prefix = sys.argv[1:]
tier = RedisCache(url=url, key_prefix=prefix, allow=[Quote])
cache = IntelligentCache(None, tier, None, strict=True)
loads = 0

def load():
    global loads
    loads += 1
    return Quote({arguments})

for line in sys.stdin:
    command = line.strip()
    if command == "get":
        value = cache.get("quote")
    else:
        value = cache.get_or_set("quote", load, load=LoadOptions(lease="fleet", lease_timeout=30))
    print(value, loads, tier.get_stats().unavailable, flush=True)
cache.close()
"""
BEFORE = PROGRAM.format(field="", arguments="3")
AFTER = PROGRAM.format(field="currency: str = 'EUR'", arguments="3")


class Version:
    """A running version of the program."""

    def __init__(self, source: str, script: Path, url: str, prefix: str) -> None:
        script.write_text(source)
        self._process = subprocess.Popen(
            [sys.executable, script, url, prefix], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(command, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.communicate(timeout=30)


def test_each_finds_its_own(redis_url: str, prefix: str, tmp_path: Path) -> None:
    """A value of the other version is a miss and no failure of the server; each load waits for no other."""
    versions = [
        Version(source, tmp_path / f"{number}.py", redis_url, prefix)
        for number, source in enumerate([BEFORE, AFTER, BEFORE])
    ]
    before, after, again = versions
    try:
        assert before.ask("load") == "Quote(price=3) 1 0"
        assert again.ask("get") == "Quote(price=3) 0 0"
        for turn in range(1, 4):
            assert after.ask("get") == f"None {turn - 1} 0"
            assert after.ask("load") == f"Quote(price=3, currency='EUR') {turn} 0"
            assert after.ask("load") == f"Quote(price=3, currency='EUR') {turn} 0"
            assert before.ask("load").startswith("Quote(price=3) ")
            # The other process of that version finds what was loaded, and loads nothing.
            assert again.ask("load") == "Quote(price=3) 0 0"
    finally:
        for version in versions:
            version.end()
