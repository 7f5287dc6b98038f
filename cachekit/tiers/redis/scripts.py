"""The Lua that the server runs, each script in a file of its own beside this one.

All are read when this module is imported, not at first use: reading goes through the import system, whose
locks a child of a fork finds held for ever if another thread was in there.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple


class Script(NamedTuple):
    """A script and the name by which a server that has seen it knows it."""

    text: bytes
    digest: str


def _read(name: str) -> Script:
    text = files(__package__).joinpath(f"{name}.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest())


_SCRIPTS: Final = {name: _read(name) for name in ("put", "add", "remove", "tokens")}


def script(name: str) -> Script:
    """The script of this name: "put", "add", "remove" or "tokens"."""
    return _SCRIPTS[name]
