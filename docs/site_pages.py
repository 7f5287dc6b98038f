"""Adds to the site what lies outside docs/: the README as its first page, other pages, and the examples.

mkdocs calls the two functions. Links are written for readers of the repository. The site has the same pages
at other places, so links that leave docs/, and those of the README into it, are rewritten.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

#: Pages of the repository, and their places on the site.
PAGES = {
    "README.md": "index.md",
    "docs/README.md": "pages.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and one page for each example and one that lists them."""
    examples = {
        file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted((ROOT / "examples").rglob("*.py"))
    }
    for name, program in examples.items():
        add(files, config, f"{name}.md", f"# {name}\n\n```python\n{program}```\n")
    listed = "\n".join(f"- [{name}](../{name}.md): {summary(program)}" for name, program in examples.items())
    add(files, config, "examples/index.md", f"# Examples\n\n{listed}\n")
    for name, place in PAGES.items():
        old = files.get_file_from_path(place)
        if old is not None:
            files.remove(old)
        add(files, config, place, (ROOT / name).read_text(encoding="utf-8"))
    return files


def summary(program: str) -> str:
    """Return the first line of the docstring of a program."""
    found = re.match(r'"""(.*?)(?:"""|\n\n)', program, re.DOTALL)
    return found[1].replace("\n", " ") if found else ""


def add(files: Files, config: Any, place: str, text: str) -> None:
    """Add a page with this text."""
    files.append(File.generated(config, place, content=text))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001
    """Rewrite links to where their targets are on the site; links among pages of docs/ stay as they are."""
    place = page.file.src_uri
    if place == "index.md":
        page.meta["hide"] = ["navigation"]  # the tabs above it show the same
    written = next((name for name, there in PAGES.items() if there == place), f"docs/{place}")

    def moved(link: re.Match[str]) -> str:
        name, mark, heading = link[2].partition("#")
        if not name or name.startswith(("http:", "https:", "mailto:")):
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(written), name))
        target = PAGES.get(target, target.removeprefix("docs/"))
        if target.startswith("examples"):
            target = f"{target}.md" if target.endswith(".py") else f"{target}/index.md"
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(place) or '.')}{mark}{heading}"

    if place.startswith("examples/"):
        return markdown
    markdown = re.sub(r"(\]\()([^)\s]+)", moved, markdown)
    return re.sub(r"(^\[[^\]]+\]: )(\S+)", moved, markdown, flags=re.MULTILINE)
