"""The Lua that the server runs, each script in a file of its own beside this one, read on first use."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A script and the name by which a server that has seen it knows it."""

    text: bytes
    digest: str


@cache
def script(name: str) -> Script:
    """The script of this name: "put", "add", "remove" or "tokens"."""
    text = files(__package__).joinpath(f"{name}.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest())
