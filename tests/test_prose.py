"""The prose of cachekit uses plain English and the field's words, and names files that exist."""

from __future__ import annotations

import configparser
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: The files whose prose is checked.
CHECKED = ("*.md", "docs/**/*.md", "examples/**/*.py", "cachekit/**/*.py")

#: Patterns that occur in no sentence that we want, and what to write instead.
WORDS = {
    r"who(?:so|m)?ever": "a real subject: the caller, a process that ...",
    r"nobody": "a real subject (no caller, no process, no other user), or the passive",
    r"somebody": "a real subject: another caller, another process, another user",
    r"anew": "again",
    r"shall": "must, may, can, or the present tense",
    r"meanwhile": "since then, at the same time, or while ...",
    r"ears?": "listener",
    r"hearts?": "heartbeat",
    r"rooms|(?:this|each|every|another) room|room of (?:its|their) own": "package; or space",
    r"(?:take|takes|taken|has|have|had|holds?|waits? for|without) (?:a|its|their|the) turn": "permit",
    r"whose turn|takes? turns": "permit",
    r"strangers?": "another client, another user",
    r"neighbou?rs?": "another process",
    r"people": "users",
}

#: Markdown and code are read at this width.
WIDTH = 110

#: Words of the longest sentence on a page. Code in a sentence counts as one word.
LONGEST = 25


def checked() -> list[Path]:
    found = {glob: sorted(ROOT.glob(glob)) for glob in CHECKED}
    assert all(found.values()), f"nothing matches {[glob for glob, files in found.items() if not files]}"
    return sorted({file for files in found.values() for file in files})


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """Yield pieces of prose with the line that each begins in: of Python, its comments and strings."""
    if file.suffix != ".py":
        yield 1, file.read_text(encoding="utf-8")
        return
    with tokenize.open(file) as lines:
        for token in tokenize.generate_tokens(lines.readline):
            # An f-string is one token before Python 3.12, and several of these afterwards.
            if tokenize.tok_name[token.type] in {"COMMENT", "STRING", "FSTRING_MIDDLE"}:
                yield token.start[0], token.string


def unwanted(file: Path) -> Iterator[str]:
    """Yield a complaint for each unwanted word of a file."""
    for line, text in prose(file):
        for pattern, instead in WORDS.items():
            # A sentence may be wrapped between two words of a pattern.
            wrapped = pattern.replace(" ", r"\s+")
            for match in re.finditer(rf"\b(?:{wrapped})\b", text, re.IGNORECASE):
                number = line + text.count("\n", 0, match.start())
                yield f"{file}:{number}: {match[0]!r}; write {instead}"


def test_words() -> None:
    """Each complaint names the file, the line, the word, and the word to use."""
    complaints = [complaint for file in checked() for complaint in unwanted(file)]
    assert not complaints, "\n".join(complaints)


def test_every_unwanted_word_is_found(tmp_path: Path) -> None:
    """In Markdown and in Python's comments, docstrings and messages; names of code are left alone."""
    page, code = tmp_path / "page.md", tmp_path / "code.py"
    page.write_text("# Whoever\n\nNobody has the\nturn, and every room has neighbours.\n")
    code.write_text(
        '"""The ear\nof a stranger."""\nanew = f"{1} people"  # what he shall do\nheartbeat = 1\n'
    )
    assert [complaint.partition("; ")[0] for complaint in unwanted(page)] == [
        f"{page}:1: 'Whoever'",
        f"{page}:3: 'Nobody'",
        f"{page}:4: 'every room'",
        f"{page}:3: 'has the\\nturn'",
        f"{page}:4: 'neighbours'",
    ]
    assert [complaint.partition("; ")[0] for complaint in unwanted(code)] == [
        f"{code}:1: 'ear'",
        f"{code}:2: 'stranger'",
        f"{code}:3: 'people'",
        f"{code}:3: 'shall'",
    ]


def test_markdown_is_wrapped() -> None:
    """Rows of tables excepted, which cannot be."""
    too_long = [
        f"{file}:{number}: {len(line)} characters"
        for file in checked()
        if file.suffix == ".md"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > WIDTH and not line.startswith("|")
    ]
    assert not too_long, "\n".join(too_long)


def paragraphs(page: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs and items of a page with the line that each begins in; no code, no tables."""
    begun, lines, is_code = 1, list[str](), False
    for number, line in enumerate([*page.splitlines(), ""], 1):
        if line.startswith("```"):
            is_code = not is_code
        is_text = not (is_code or line.startswith(("```", "    ", "|", "#")) or not line.strip())
        item = re.match(r"\s*(?:[-*+]|\d+\.)\s+", line)
        if lines and (item or not is_text):
            yield begun, "\n".join(lines)
            lines = []
        if is_text:
            begun = begun if lines else number
            lines.append(line.removeprefix(item[0]) if item else line)


def long_sentences(page: str) -> Iterator[tuple[int, int, str]]:
    """Yield the line, the number of words, and the beginning of each sentence that is too long."""
    for line, text in paragraphs(page):
        # The ends of lines are kept, so that they can be counted.
        short = re.sub(r"`[^`]+`", lambda code: "code" + "\n" * code[0].count("\n"), text)
        short = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", short)
        at = 0
        for end in re.finditer(r"[.!?][\"')*_]*(?=\s)|\Z", short):
            sentence = short[at : end.end()]
            words = len(re.findall(r"\S*\w\S*", sentence))
            if words > LONGEST:
                started = at + len(sentence) - len(sentence.lstrip())
                yield line + short.count("\n", 0, started), words, " ".join(sentence.split()[:6])
            at = end.end()


def test_sentences_are_short() -> None:
    """On every page: one statement each."""
    too_long = [
        f"{file}:{line}: {words} words: {begins!r} ...; split it, {LONGEST} are the most"
        for file in checked()
        if file.suffix == ".md"
        for line, words, begins in long_sentences(file.read_text(encoding="utf-8"))
    ]
    assert not too_long, "\n".join(too_long)


def test_every_long_sentence_is_found() -> None:
    """Neither code, tables and headings count, nor what stands in other sentences and items."""
    some, most = " ".join(["word"] * 12), " ".join(["word"] * 25)
    fine = [f"{most}.", f"{some} {some} (word).\n{most}!", f"- {most}\n- {most}", f"# {most} {some}"]
    fine += [
        f"    {most} {some}",
        f"```\n{most} {some}\n```",
        f"| {most} {some} |",
        f"{some} `{most}` {some}.",
    ]
    fine += [f"{some} [word](http://a/b.c) {some}.", f"1. {most}\n2. {most}", f"**{most}.** {most}"]
    assert not [page for page in fine if [*long_sentences(page)]]
    bad = {f"{most} word": 1, f"Fine.\n\n{some}\n{some} `code`\nword.": 3, f"- Fine. Fine.\n  {most} word": 2,
           f"{some}: {some}; a b": 1, f"{some} [{some}](there) a b": 1,
           f"{most}. `a\nb`. {most} e.g.": 2}  # fmt: skip
    assert {page: [line for line, _, _ in long_sentences(page)] for page in bad} == {
        page: [line] for page, line in bad.items()
    }


def test_tables_stand_apart() -> None:
    """A line that follows a table without a blank line is a row of it on the site."""
    joined = [
        f"{file}:{number}: {after!r}"
        for file in checked()
        if file.suffix == ".md"
        for number, (before, after) in enumerate(pairwise(without_code(file)), 2)
        if before.strip() and after.strip() and before.startswith("|") != after.startswith("|")
    ]
    assert not joined, "\n".join(joined)


def without_code(page: Path) -> list[str]:
    """Return the lines of a page; those of its blocks of code are empty."""
    text = page.read_text(encoding="utf-8")
    return re.sub(
        r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE
    ).splitlines()


def test_the_map_of_packages() -> None:
    """CONTRIBUTING.md names files that exist, and every package."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)`", text)
    missing = [
        name for name in named if not (ROOT / name).exists() and not (ROOT / "cachekit" / name).exists()
    ]
    assert not missing
    packages = {file.parent.relative_to(ROOT) for file in ROOT.glob("cachekit/*/**/__init__.py")}
    assert not [package for package in packages if f"`{package.as_posix()}`" not in text]


def test_each_dependency_has_a_reason() -> None:
    """CONTRIBUTING has a row for each package that is installed with cachekit, or by one of its extras."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Dependencies")[2]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line[:2] == "| "
    ]
    given = {("", package) for package, *more in rows if len(more) == 1}
    given |= {
        (extra, package)
        for extra, packages, *more in rows
        if more
        for package in re.split(r", | \(.*\)", packages)
    }
    needed = {("", _package(line)) for line in settings["options"]["install_requires"].split("\n") if line}
    for extra, lines in settings["options.extras_require"].items():
        needed |= {(extra, _package(line)) for line in lines.split("\n") if line}
    assert needed - {(extra, package.lower()) for extra, package in given} == set()


def _package(requirement: str) -> str:
    return re.split(r"[\[<>=; ]", requirement)[0].lower()
