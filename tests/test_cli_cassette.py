"""`cachekit cassette show|prune FILE`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cachekit import cache_result, cassette
from cachekit.cli import main


@cache_result(name="shop.price", version="1")
def price(item: str, count: int = 1) -> int:
    if item == "none":
        raise KeyError(item)
    return len(item) * count


@cache_result(name="shop.stock", version="2")
def stock(item: str) -> bytes:
    return item.encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    with cassette(path, exceptions=KeyError):
        price("apple")
        price.refresh("apple", 1)
        stock("pear")
        with pytest.raises(KeyError):
            price("none")
    return path


def test_show(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cassette", "show", str(file)]) == 0
    assert capsys.readouterr().out == (
        f"{file}: 4 answers of 2 functions\n\n"
        "shop.price, version 1\n"
        "  (item='apple', count=1) -> 5\n"
        "  (item='apple', count=1) (answer 2) -> 5\n"
        "  (item='none', count=1) -> raises builtins.KeyError\n\n"
        "shop.stock, version 2\n"
        "  (item='pear') -> bytes('70656172')\n"
    )
    assert main(["cassette", "show", str(file), "--function", "shop.s"]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: 1 answer of 1 function\n\nshop.stock")


def test_damaged_lines_are_told_and_pruned(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = file.read_text()
    lines = whole.splitlines()
    file.write_text("\n".join([*lines, lines[2], lines[3][:20]]))
    assert main(["cassette", "show", str(file)]) == 1
    assert capsys.readouterr().out.endswith(
        "1 line replaced by a later line, as after a merge\nline 7 cannot be read: it is cut or damaged\n"
    )
    assert main(["cassette", "prune", str(file)]) == 0
    assert capsys.readouterr().out == (
        "removed 0 answers, 1 repeated line and 1 unreadable line; 4 answers left\n"
    )
    assert file.read_text() == whole


def test_functions_are_pruned(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cassette", "prune", str(file), "--function", r"shop\.price"]) == 0
    assert capsys.readouterr().out.startswith("removed 3 answers, ")
    with cassette(file, "replay"):
        assert stock("pear") == b"pear"


@pytest.mark.parametrize("action", ["show", "prune"])
def test_what_is_no_cassette(tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says why, and nothing is changed or made."""
    other = tmp_path / "other.txt"
    other.write_text("a note\n")
    for path, why in (
        (other, "is not a cassette"),
        (tmp_path / "gone", "No such file"),
        (tmp_path, "directory"),
    ):
        assert main(["cassette", action, str(path)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert why in captured.err
        assert captured.err.count("\n") == 1
    assert other.read_text() == "a note\n"
    assert [one.name for one in tmp_path.iterdir()] == ["other.txt"]


def test_what_is_no_file_is_not_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of root would put a file in the place of a device, such as /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    assert main(["cassette", "prune", str(tmp_path / "pipe")]) == 1
    assert "is no regular file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


def test_a_terminal_is_not_commanded(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of a file are shown as escapes."""
    lines = file.read_text().splitlines()
    evil = lines[-1].replace('"bytes"', '"\\u001b[2J"').replace("pear", "\\u001b[3J")
    file.write_text("\n".join([*lines[:2], evil, lines[-2].replace("builtins", "\\u001b[4J")]))
    main(["cassette", "show", str(file)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert all(escape in printed for escape in ("[2J", "[3J"))
