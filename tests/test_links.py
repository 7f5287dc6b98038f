"""Links lead somewhere: those of the pages as the repository shows them, and those of the built site."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
SITE_LINKS = ROOT / "docs" / "site_links.py"

INLINE = re.compile(r"\]\(\s*<?([^)\s>]*)")
DEFINED = re.compile(r"^ {0,3}\[([^\]]+)\]:\s+<?([^\s>]+)", re.MULTILINE)
REFERENCE = re.compile(r"\[([^\]]+)\]\[([^\]]*)\]")
ALONE = re.compile(r"(?<![\]\w])\[([a-z][\w.-]+)\](?![(\[:\w])")
MARKUP = re.compile(r"""\b(?:href|src)=["']([^"']*)""")
#: A page that is named, not linked, in a comment, a docstring or a message.
NAMED = re.compile(r"\bdocs/[\w/-]+\.\w+")


def without_code(page: str) -> str:
    page = re.sub(r"^```.*?^```$|`[^`]+`", "CODE", page, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<=\n\n)(?: {4}.*\n)+", "CODE\n", page)


def spellings(title: str) -> tuple[str, str]:
    """Return how links name a heading: in the repository, and on the site."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
    bare = re.sub(r"[^\w\s-]", "", plain).strip().lower()
    return bare.replace(" ", "-"), re.sub(r"[-\s]+", "-", bare)


def headings(page: Path) -> set[str]:
    """Return the headings that both spell alike, and that the page has once."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    both = [spellings(title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {here for here, there in both if here == there and both.count((here, there)) == 1}


def complaints(page: Path) -> Iterator[str]:
    """Yield one for each link of a page that leads nowhere."""
    text = without_code(page.read_text(encoding="utf-8"))
    defined = dict(DEFINED.findall(text))
    used = {name or words for words, name in REFERENCE.findall(text)} | {*ALONE.findall(text)}
    yield from (f"[{name}] is not defined" for name in sorted(used - {*defined}))
    yield from (f"[{name}] is not used" for name in sorted({*defined} - used))
    for target in [*INLINE.findall(text), *defined.values(), *MARKUP.findall(text)]:
        if re.match(r"[a-z]+:|//", target):
            parts = urlsplit(target)
            if parts.scheme != "https" or not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc):
                yield f"{target} is no address of another host"
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        if not target or not file.exists():
            yield f"{target} names no file"
        elif heading and (file.suffix != ".md" or heading not in headings(file)):
            yield f"{target} names no heading"


def test_links_of_pages() -> None:
    """Files, headings, definitions and other hosts."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 40
    found = [f"{page}: {complaint}" for page in pages for complaint in complaints(page)]
    assert not found, "\n".join(found)


def test_every_bad_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One\n\n# Two - three\n\n# Twice\n\n# Twice\n```\n# Code\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[fine](there.md#one) [fine](https://a.b/c#d) [fine][way] [`lie`](#a-list-of-things) `[x](y)`\n"
        "# A `list` of [things](there.md)\n"
        "[a](gone.md) [b](there.md#gone) [c](there.md#two---three) [d](there.md#twice) [e](there.md#code)\n"
        "[f](http://a.b) [g](https://localhost) [h](https://a..b/c) [i][nowhere] [j][] <img src='gone.svg'>\n"
        "![k](gone.png) [l]() [m](\n  gone.txt)\n\n[way]: there.md\n[dead]: gone.html\n"
        "\n    a[code] [code](code)\n"
    )
    assert list(complaints(page)) == [
        "[j] is not defined", "[nowhere] is not defined", "[dead] is not used",
        "gone.md names no file", "there.md#gone names no heading",
        "there.md#two---three names no heading", "there.md#twice names no heading",
        "there.md#code names no heading", "http://a.b is no address of another host",
        "https://localhost is no address of another host", "https://a..b/c is no address of another host",
        "gone.png names no file", " names no file", "gone.txt names no file", "gone.html names no file",
        "gone.svg names no file",
    ]  # fmt: skip


def test_pages_that_code_names() -> None:
    """Comments, docstrings and messages name pages that exist."""
    files = [file for folder in ("cachekit", "tests", "examples", "benchmarks", "docs")
             for file in (ROOT / folder).rglob("*.py")]  # fmt: skip
    named = {(name, file) for file in files for name in NAMED.findall(file.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert not [(name, file) for name, file in named if not (ROOT / name).exists()]


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ('<a href="other/#here">', ""), ('<a href="/other/#here">', ""), ('<a href=".">', ""),
        ('<a href="#top">', ""), ('<img src="a%20b.png">', ""), ('<a href="https://a.b/c?d#e">', ""),
        ('<a href="gone/">', "names no file"), ('<img src="gone.png">', "names no file"),
        ('<a href="../outside.html">', "names no file"), ('<a href="#gone">', "names no place"),
        ('<a href="other/#top">', "names no place"), ('<a href="http://a.b/">', "is no address"),
        ('<a href="https://a/">', "is no address"), ('<a href="https://u@a.b/">', "is no address"),
        ('<a href="https://a.b:x/">', "is no address"), ('<a href="https://a.b/c.">', "is no address"),
        ('<a href="//a.b/">', "is no address"),
    ],
)  # fmt: skip
def test_links_of_the_site(tmp_path: Path, link: str, complaint: str) -> None:
    """The command that .ci/run calls: it prints complaints, and exits 1."""
    (tmp_path / "outside.html").touch()
    (tmp_path / "site/other").mkdir(parents=True)
    (tmp_path / "site/a b.png").touch()
    (tmp_path / "site/other/index.html").write_text('<p id="here">')
    (tmp_path / "site/index.html").write_text(f'<p id="top">{link}')
    ended = subprocess.run(
        [sys.executable, SITE_LINKS, tmp_path / "site"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == (1 if complaint else 0), ended.stderr
    assert complaint in ended.stdout
    assert len(ended.stdout.splitlines()) == bool(complaint)
