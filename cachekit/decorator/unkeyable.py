"""The error of a value that has no identity, before the argument that holds it is known."""

from __future__ import annotations


class Unkeyable(Exception):  # noqa: N818  # becomes a KeyEncodingError once the argument is known
    """A value has no identity that could be part of a key; the message says why, and which part it is."""
