"""How values of the backend are stored: integers as they are, everything else as a pickle.

A pickle is a copy, so a caller that changes what it got changes nothing in the cache. Integers stay what they
are, because `incr` counts them. A pickle from a tier is only read if the tier has checked its signature, or
with a signature of the backend's own.
"""

from __future__ import annotations

import pickle
from typing import Any, Final, final

from cachekit.errors import UnreadableError
from cachekit.integrations.django.location import secrets
from cachekit.model.types import MISSING, Missing
from cachekit.runtime.interrupts import is_no_fault_of_value
from cachekit.serialization.signing import Signer

_CONTEXT: Final = b"cachekit.integrations.django"
_SIGNATURE_SIZE: Final = 32


@final
class Values:
    """Encodes and decodes values.

    Args:
        is_signed: whether the tiers sign what they store. If not, each pickle is signed with its key.
    """

    __slots__ = ("_signer",)

    def __init__(self, is_signed: bool) -> None:
        self._signer = None if is_signed else Signer(secrets(), _CONTEXT)

    def encode(self, key: str, value: Any) -> int | bytes:
        """Return what is stored.

        Raises:
            Exception: what pickling the value raised.
        """
        if type(value) is int:
            return value
        octets = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        return octets if self._signer is None else self._signer.sign(*_parts(key, octets)) + octets

    def decode(self, key: str, stored: Any) -> Any | Missing:
        """Return the value; MISSING for what this backend has not stored."""
        if type(stored) is int:
            return stored
        if type(stored) is not bytes:
            return MISSING
        if self._signer is not None:
            signature, stored = stored[:_SIGNATURE_SIZE], stored[_SIGNATURE_SIZE:]
            try:
                self._signer.verify(signature, *_parts(key, stored))
            except UnreadableError:
                return MISSING
        try:
            return pickle.loads(stored)
        except Exception as error:  # whatever a class that has changed since raises: it is loaded again
            if is_no_fault_of_value(error):
                raise
            return MISSING


def _parts(key: str, octets: bytes) -> tuple[bytes, bytes, bytes]:
    name = key.encode("utf-8", "surrogatepass")
    return b"%d:" % len(name), name, octets  # with the length, so that a key ends where it ends
