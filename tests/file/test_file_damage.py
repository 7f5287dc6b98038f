"""P10: any byte flipped, any file cut, zeroed or removed gives misses or right values, and no exception."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import inside
import pytest
from file_checks import SMALL, check

from cachekit.testing.damage import Damage, Fuzzer
from cachekit.testing.faults import StoppingEffects
from cachekit.tiers.file.engine import index_growth
from cachekit.tiers.file.engine import shard as shard_module
from cachekit.tiers.file.engine.control_block import NEW, NEW_CURSOR
from cachekit.tiers.file.engine.engine import Engine


def fill(path: Path) -> dict[str, bytes | None]:
    """A directory with everything in it; what each key holds."""
    expected: dict[str, bytes | None] = {}
    with Engine(path, geometry=SMALL) as engine:
        for number in range(40):
            engine.put(f"k{number % 25}", b"%d|" % number * (10 + number * 3))
            expected[f"k{number % 25}"] = b"%d|" % number * (10 + number * 3)
        for number in range(0, 25, 6):
            engine.delete(f"k{number}")
            expected[f"k{number}"] = None
        engine.put("large", b"L" * 9000, tags=engine.tag_tokens(["x"]))
        expected["large"] = b"L" * 9000
        engine.put("tagged", b"t" * 50, tags=engine.tag_tokens(["y"]))
        engine.invalidate_tags(["y"])
        engine.put("expired", b"e", expiry=1.0)
        expected["tagged"] = expected["expired"] = None
    return expected


def look(path: Path, expected: dict[str, bytes | None]) -> tuple[int, list[str]]:
    """How many entries are gone, and what is wrong."""
    wrong = []
    gone = 0
    with Engine(path, geometry=SMALL) as engine:
        keys = set(engine.keys())
        wrong += [f"{key!r} is listed" for key in keys if expected.get(key) is None]
        for _ in range(2):  # the second time after what the first has cleared away
            for key, payload in expected.items():
                found = engine.get(key)
                if found is not None and found.payload != payload:
                    wrong.append(f"{key} holds {found.payload[:20]!r}")
                gone += found is None and payload is not None
        engine.remove_expired()
        for number in range(30):
            engine.put(f"new{number % 8}", b"%d" % number * 60)
            found = engine.get(f"new{number % 8}")
            if found is None or found.payload != b"%d" % number * 60:
                wrong.append(f"new{number % 8} cannot be stored")
        for key, payload in expected.items():
            found = engine.get(key)
            if found is not None and found.payload != payload:
                wrong.append(f"{key} holds {found.payload[:20]!r} after writes")
    return gone, wrong


def fuzz(path: Path, flips: int, seed: int) -> tuple[int, int]:
    expected = fill(path)
    gone, wrong = look(path, expected)
    assert (gone, wrong) == (0, [])
    for name in sorted(path.rglob("*"), reverse=True):
        name.rmdir() if name.is_dir() else name.unlink()
    expected = fill(path)
    fuzzer = Fuzzer(path, seed)
    total = harmful = 0
    for damage in fuzzer.faults(flips):
        damage.apply(path)
        try:
            gone, wrong = look(path, expected)
        except Exception as error:
            raise AssertionError(f"{damage} raised") from error
        assert wrong == [], damage
        total += 1
        harmful += gone > 0
        fuzzer.restore()
    return total, harmful


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="cachekit")


def test_damage_is_a_miss(tmp_path: Path) -> None:
    """A sample of bytes of every file; and every file cut, zeroed and removed."""
    total, harmful = fuzz(tmp_path / "cache", flips=150, seed=1)
    assert total > 150
    assert harmful > 40, "the faults hit nothing"


def test_damage_to_a_half_copied_index_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped byte of either index, or of what the control block says of them."""
    monkeypatch.setattr(index_growth, "_SLICE", 1)
    path, geometry = tmp_path / "cache", replace(SMALL, limit=1 << 20, capacity=64)
    expected = {f"k{number}": b"%d" % number * 20 for number in range(36)}
    with Engine(path, geometry=geometry) as engine:
        for _ in range(2):
            for key, payload in expected.items():
                engine.put(key, payload)
                if inside.shard(engine).words[NEW_CURSOR] >= 60:
                    break
        assert inside.shard(engine).words[NEW]
    fuzzer = Fuzzer(path, 3)
    for damage in fuzzer.faults(400):
        if not damage.name.endswith((".index", "control")):
            continue
        damage.apply(path)
        with Engine(path, geometry=geometry) as engine:
            for key, payload in expected.items():
                found = engine.get(key)
                assert found is None or found.payload == payload, damage
            for number in range(40):
                engine.put(f"new{number}", b"n%d" % number)
            for number in range(40):
                found = engine.get(f"new{number}")
                assert found is not None, damage
                assert found.payload == b"n%d" % number, damage
        fuzzer.restore()


def test_slots_of_no_hash_are_not_copied(tmp_path: Path) -> None:
    """Every hash is odd; a damaged one must not lead the copy to the middle of a slot."""
    for number in range(20):
        with Engine(tmp_path / f"{number}", geometry=replace(SMALL, limit=1 << 20, capacity=64)) as engine:
            for key in range(35):
                engine.put(f"k{key}", b"v")
            slots = inside.shard(engine).files.index.slots
            for at in range(0, len(slots), 2):
                slots[at] &= -2
            for key in range(120):
                engine.put(f"new{key}", b"%d" % key)
            for key in range(120):
                found = engine.get(f"new{key}")
                assert found is not None
                assert found.payload == b"%d" % key
            assert engine.get("k1") is None


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_much_damage_is_a_miss(tmp_path: Path) -> None:
    """Ten thousand flipped bytes."""
    total, _ = fuzz(tmp_path / "cache", flips=10_000, seed=2)
    assert total > 10_000


def test_an_engine_without_its_checksum_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer sees what the crc is there for."""
    read = shard_module.Shard.read

    def trusting(self: shard_module.Shard, segments: object, b: int, key: bytes) -> object:
        segment, offset = b >> 37, b >> 15 & ((1 << 17) - 1) << 5
        content, offset = segments.load(segment, offset, 1 << 20)  # type: ignore[attr-defined]
        crc = int.from_bytes(content[offset : offset + 4], "little")
        with monkeypatch.context() as patch:
            patch.setattr(shard_module, "crc32", lambda _: crc)
            return read(self, segments, b, key)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_module.Shard, "read", trusting)
    with pytest.raises(AssertionError, match="holds"):
        fuzz(tmp_path / "cache", flips=1200, seed=1)


def test_damage_is_counted_and_cleared(tmp_path: Path) -> None:
    """A damaged record is noticed once; then its slot is free, and the key can be stored again."""
    with Engine(tmp_path, geometry=SMALL) as engine:
        engine.put("k", b"value" * 10)
    segment = next(tmp_path.rglob("*.segment"))
    Damage(str(segment.relative_to(tmp_path)), "flip", 60, 1).apply(tmp_path)
    with Engine(tmp_path, geometry=SMALL, effects=StoppingEffects()) as engine:
        assert engine.get("k") is None
        assert engine.get("k") is None
        assert engine.stats().damaged == 1
        engine.put("k", b"new")
        found = engine.get("k")
        assert found is not None
        assert found.payload == b"new"
        engine.tick()
        check(engine)


def test_the_fuzzer_restores_what_it_damaged(tmp_path: Path) -> None:
    """After a fault is undone, the directory is what it was."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"content")
    (tmp_path / "empty").write_bytes(b"")
    fuzzer = Fuzzer(tmp_path)
    faults = list(fuzzer.faults(20))
    assert faults == list(Fuzzer(tmp_path).faults(20))
    for damage in faults:
        damage.apply(tmp_path)
        path = tmp_path / "a" / "file"
        assert not (tmp_path / "empty").exists() or not path.exists() or path.read_bytes() != b"content"
        fuzzer.restore()
        assert path.read_bytes() == b"content"
        assert (tmp_path / "empty").exists()
