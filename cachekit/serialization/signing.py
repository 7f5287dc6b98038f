"""Signatures: HMAC-SHA256 under the user's secret, and nothing else.

This module promises that signatures are compared in constant time, that old secrets verify while
new ones sign, and that no secret is kept: what stays in memory is the keyed state of SHA-256, which
is in no repr, error or pickle. What is signed, and in which order, is the envelope's business.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from typing import Final, NoReturn, TypeAlias, final

from cachekit.errors import UnreadableError

#: One secret, or several while rotating: the first signs, all of them verify.
Secret: TypeAlias = str | bytes | list[str] | list[bytes] | tuple[str | bytes, ...]

#: Under 16 bytes a secret can be guessed offline from one stored value.
SHORTEST_SECRET: Final = 16

_RECIPE: Final = 'make one with: python -c "import secrets; print(secrets.token_hex(32))"'
ENVIRONMENT_VARIABLE: Final = "CACHEKIT_SECRET"


def _checked(secret: object, argument: str) -> bytes:
    if isinstance(secret, str):
        secret = secret.encode("utf-8", "surrogatepass")
    if not isinstance(secret, bytes):
        # The type, never the value: even a secret of the wrong type is a secret.
        raise TypeError(
            f"{argument} must be a str, bytes, or a list of them (the new one first, then old "
            f"ones), not {type(secret).__name__}"
        )
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(
            f"{argument} must be at least {SHORTEST_SECRET} bytes long, not {len(secret)}; {_RECIPE}"
        )
    return secret


def secrets_from_environment(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The secrets in CACHEKIT_SECRET: one, or several with commas between, the new one first.

    Returns:
        What `Serializer` takes as `secret`; None if the variable is not set.

    Raises:
        ValueError: the variable is empty, or one of its secrets is too short.
    """
    content = environment.get(ENVIRONMENT_VARIABLE)
    if content is None:
        return None
    secrets = [part.strip() for part in content.split(",")]
    for secret in secrets:
        _checked(secret, f"each secret in {ENVIRONMENT_VARIABLE}")
    return secrets


@final
class Signer:
    """Signs with the first of its secrets, verifies with any. Safe to share between threads.

    Args:
        secret: at least 16 bytes; or a list of such, the new one first.
        context: what every signature covers before anything else.

    Raises:
        TypeError: a secret is neither str nor bytes.
        ValueError: a secret is too short, or there is none.

    It does not pickle or copy: a secret should not travel in a pickle.
    """

    __slots__ = ("_keyed",)

    def __init__(self, secret: Secret, context: bytes = b"") -> None:
        several = list(secret) if isinstance(secret, (list, tuple)) else [secret]
        if not several:
            raise ValueError(f"secret must not be an empty list; {_RECIPE}")
        self._keyed = []
        for one in several:
            keyed = hmac.new(_checked(one, "secret"), context, "sha256")
            self._keyed.append(keyed)

    def sign(self, *parts: bytes) -> bytes:
        """The 32 bytes that sign the context and the parts, one after another."""
        # A copy of the keyed state costs half of what keying again does.
        mac = self._keyed[0].copy()
        for part in parts:
            mac.update(part)
        return mac.digest()

    def verify(self, signature: bytes | memoryview, *parts: bytes | memoryview) -> None:
        """Return if one of the secrets made the signature.

        Raises:
            UnreadableError: none did.
        """
        for keyed in self._keyed:
            mac = keyed.copy()
            for part in parts:
                mac.update(part)
            if hmac.compare_digest(mac.digest(), signature):
                return
        raise UnreadableError(
            "the signature does not verify: the bytes were changed, moved from another key or "
            "namespace, or signed with a secret that is not among those given here",
            "signature",
        )

    def __repr__(self) -> str:
        return f"<Signer with {len(self._keyed)} secret(s)>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a cache with a secret does not pickle, because its secret would be in the pickle; "
            "make the cache again in the other process, with CACHEKIT_SECRET in its environment"
        )
