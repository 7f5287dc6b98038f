"""The default cache: where it lives, what it is called there, and what wrong variables are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cachekit import IntelligentCache, TierUnavailableError, get_default_cache
from cachekit.cache import config
from cachekit.runtime.clock import SystemClock
from cachekit.runtime.machine import memory_bytes

PROGRAM = """
from cachekit import cache_result

@cache_result
def answer(question: str) -> str:
    print("working")
    return question.upper()

print(answer("why"))
"""


def run(program: Path | str, *arguments: str, **variables: str) -> str:
    """What a program prints."""
    ended = subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | variables,
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout


class TestPrograms:
    def test_results_are_still_there_at_the_next_run(self, tmp_path: Path) -> None:
        """Two lines, and the second run of a script finds what the first one worked out."""
        script = tmp_path / "script.py"
        script.write_text(PROGRAM)
        assert run(script) == "working\nWHY\n"
        assert run(script) == "WHY\n"

    def test_two_programs_never_meet(self, tmp_path: Path, own_directory: Path) -> None:
        """Each has a directory of its own, also if their files have one name; a namespace is shared."""
        scripts = [tmp_path / name / "script.py" for name in ("a", "b")]
        for script in scripts:
            script.parent.mkdir()
            script.write_text(
                'from cachekit import get_default_cache as d\nprint(d().get_or_set("k", lambda: __file__))'
            )
        answers = {run(script) for script in scripts}
        assert len(answers) == 2
        assert len(list(own_directory.iterdir())) == 2
        assert {run(script, CACHEKIT_NAMESPACE="one") for script in scripts} == {f"{scripts[0]}\n"}

    def test_a_module_that_is_run_has_its_own_name(self, tmp_path: Path, own_directory: Path) -> None:
        """`python -m package` is the package, wherever it lies."""
        package = tmp_path / "shop"
        package.mkdir()
        (package / "__main__.py").write_text("from cachekit import get_default_cache as d\nd().set('k', 1)")
        run("-m", "shop", PYTHONPATH=str(tmp_path))
        assert [entry.name for entry in own_directory.iterdir()] == ["shop"]

    def test_spawned_children_are_the_same_program(self, tmp_path: Path) -> None:
        """They find what their parent has worked out."""
        script = tmp_path / "parent.py"
        script.write_text(
            "import multiprocessing\n"
            "from cachekit import get_default_cache\n"
            "def child():\n"
            "    print(get_default_cache().get('k'), flush=True)\n"
            "if __name__ == '__main__':\n"
            "    get_default_cache().set('k', 'of the parent')\n"
            "    process = multiprocessing.get_context('spawn').Process(target=child)\n"
            "    process.start(); process.join()\n"
        )
        assert run(script) == "of the parent\n"

    def test_importing_makes_no_directory(self, own_directory: Path) -> None:
        """Nor does a cache that is told to have no file tier."""
        run("-c", "import cachekit; cachekit.IntelligentCache(file_cache=None).set('k', 1)")
        assert list(own_directory.iterdir()) == []


class TestVariables:
    def test_a_wrong_one_is_named(self, subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch) -> None:
        """With what would be right; nothing is guessed."""
        rows: list[tuple[str, str]] = [
            ("CACHEKIT_DIR", ""),
            ("CACHEKIT_NAMESPACE", ""),
            ("CACHEKIT_NAMESPACE", ".."),
            ("CACHEKIT_NAMESPACE", "a/b"),
            ("CACHEKIT_MAX_SIZE_MB", "0"),
            ("CACHEKIT_MAX_SIZE_MB", "many"),
            ("CACHEKIT_MAX_SIZE_MB", "-5"),
            ("CACHEKIT_MAX_SIZE_MB", "99999999"),
            ("CACHEKIT_SECRET", "short"),
            ("CACHEKIT_MEMORY_MB", "0"),
            ("CACHEKIT_MEMORY_MB", "1.5"),
        ]
        for name, value in rows:
            with subtests.test(name=name, value=value), monkeypatch.context() as patch:
                patch.setenv(name, value)
                with pytest.raises(ValueError, match=name):
                    get_default_cache()

    def test_a_server_that_is_none(self, subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variable is named there, too, and what an address looks like."""
        rows: list[str] = ["", "localhost:6379", "http://h", "redis://h?no_such_option=1"]
        for url in rows:
            with subtests.test(url=url):
                monkeypatch.setenv("CACHEKIT_REDIS_URL", url)
                with pytest.raises(ValueError, match=r"CACHEKIT_REDIS_URL .* redis://"):
                    config.redis_cache()

    def test_they_are_obeyed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Directory, namespace, limit and secret reach the file tier."""
        monkeypatch.setenv("CACHEKIT_DIR", str(tmp_path / "caches"))
        monkeypatch.setenv("CACHEKIT_NAMESPACE", "shop")
        monkeypatch.setenv("CACHEKIT_MAX_SIZE_MB", "7")
        monkeypatch.setenv("CACHEKIT_SECRET", "a secret of some length")
        cache = config.file_cache(SystemClock())
        assert cache is not None
        with cache:
            assert (cache.path, cache.max_size_mb) == (str(tmp_path / "caches" / "shop"), 7)
            cache.set_value("k", 1)
            monkeypatch.delenv("CACHEKIT_SECRET")
            with IntelligentCache() as unsigned:
                assert unsigned.get("k") is None

    def test_memory_has_a_limit_in_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A small share of what the process may use, or what is asked for; large values stay on the disk."""
        with config.memory_cache() as memory:
            assert memory.max_bytes is not None
            assert 32 << 20 <= memory.max_bytes <= max(32 << 20, (memory_bytes() or 0) // 100)
        monkeypatch.setenv("CACHEKIT_MEMORY_MB", "8")
        with get_default_cache() as cache:
            for number in range(20):
                cache.set(f"k{number}", bytes(1_000_000))
            assert cache.get_stats()["memory"].memory_usage_bytes <= 8 << 20
            assert cache.get_stats()["memory"].size < 20
            assert all(cache.get(f"k{number}") == bytes(1_000_000) for number in range(20))

    def test_a_server(self, monkeypatch: pytest.MonkeyPatch, redis_url: str, prefix: str) -> None:
        """CACHEKIT_REDIS_URL gives the default cache its second tier, under the program's own prefix."""
        monkeypatch.setenv("CACHEKIT_REDIS_URL", redis_url)
        monkeypatch.setenv("CACHEKIT_NAMESPACE", prefix.rstrip(":") + "{odd}")
        cache = get_default_cache()
        assert cache.redis_cache is not None
        cache.set("k", 1)
        assert cache.redis_cache.peek("k") is not None
        cache.clear()

    def test_without_a_directory_the_program_goes_on(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One warning, and memory alone: two lines in a script must not end it."""
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("CACHEKIT_DIR", str(tmp_path / "file"))
        with IntelligentCache() as cache:
            assert cache.file_cache is None
            assert cache.get_or_set("k", lambda: 1) == 1
        assert len(caplog.records) == 1
        assert "file tier disabled" in caplog.text
        assert "set the directory with CACHEKIT_DIR" in caplog.text

    def test_without_a_directory_and_without_memory_there_is_no_cache(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """One that keeps nothing anywhere would say of every write that it was done."""
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("CACHEKIT_DIR", str(tmp_path / "file"))
        with pytest.raises(
            TierUnavailableError, match="memory_cache=None and redis_cache=None leave no other"
        ):
            IntelligentCache(None)
