"""The Lua scripts that the server runs. Each has a file of its own beside this one.

All are read when this module is imported, not at first use. Reading goes through the import system: a child
of a fork would find its locks held for ever if another thread was importing.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple


class Script(NamedTuple):
    """A script, and the digest by which a server that has seen it knows it."""

    text: bytes
    digest: str


def _read(name: str) -> Script:
    text = files(__package__).joinpath(f"{name}.lua").read_bytes()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest())


PUT: Final = _read("put")
CREATE: Final = _read("create")
REPLACE: Final = _read("replace")
ADD: Final = _read("add")
REMOVE: Final = _read("remove")
TOKENS: Final = _read("tokens")
