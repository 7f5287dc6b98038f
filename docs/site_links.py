"""Checks the links of the built site: `python docs/site_links.py SITE`.

mkdocs checks the links of Markdown before it makes pages of it. This looks at the pages: at the navigation,
at the reference from the docstrings, and at what is written as HTML. Links to other hosts are not followed.
Their spelling is checked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes that hold the address of something.
ADDRESSES = frozenset({"href", "src", "action", "data-src", "poster"})


class Page(HTMLParser):
    """What a page has: its links, and the places that links may name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and the names of an element."""
        for name, value in attrs:
            if name in ADDRESSES:
                self.links.append(value or "")
            elif name == "id" or (name == "name" and tag == "a"):
                self.places.add(value or "")


def is_well_spelled(address: str) -> bool:
    """Whether a browser would get somewhere with the address of another host."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    is_plain = address.isascii() and address.isprintable() and " " not in address
    is_named = all(host.split(".")) and "." in host
    return (
        is_plain
        and is_named
        and parts.scheme == "https"
        and "@" not in parts.netloc
        and address[-1] not in ".,;:)"
    )


def complaints(site: Path) -> Iterator[str]:
    """Yield one for each link that leads nowhere."""
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: has no page"
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if not is_well_spelled(link):
                    yield f"{file}: {link!r} is no address of another host"
                continue
            path, place = unquote(parts.path), unquote(parts.fragment)
            # The page of errors may be shown at any depth, so its links begin at the root.
            base = site if path.startswith("/") else file.parent
            target = (base / path.lstrip("/")).resolve() if path else file.resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or not target.is_relative_to(site.resolve()):
                yield f"{file}: {link!r} names no file"
            elif place and target.suffix == ".html" and place not in pages[target].places:
                yield f"{file}: {link!r} names no place of its page"


def main() -> int:
    """Print the complaints, and return 1 if there are any."""
    found = list(complaints(Path(sys.argv[1]).resolve()))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
