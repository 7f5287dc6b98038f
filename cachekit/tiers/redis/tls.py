"""TLS: which certificates a connection trusts, and which one it presents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from cachekit.model.display import safe_repr, typed_repr


@final
@dataclass(frozen=True)
class TLS:
    """What a `RedisCache` needs for TLS beyond `ssl=True`. The files are read for each connection.

    Args:
        ca: a PEM file with certificates to trust, besides those of the system; None for those alone.
        cert: a PEM file with the certificate that this client presents; None for none.
        key: a PEM file with the key of `cert`, without a passphrase; None if it is in that file.
        check_hostname: whether the server's certificate must name the host that is connected to.

    Raises:
        TypeError, ValueError: an argument is wrong, or a file cannot be used.
    """

    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    check_hostname: bool = True

    def __post_init__(self) -> None:
        import ssl

        for argument, value in (("ca", self.ca), ("cert", self.cert), ("key", self.key)):
            if value is not None and not isinstance(value, (str, os.PathLike)):
                raise TypeError(f"{argument} must be the path of a PEM file, not {typed_repr(value)}")
        if not isinstance(self.check_hostname, bool):
            raise TypeError(f"check_hostname must be True or False, not {safe_repr(self.check_hostname)}")
        if self.key is not None and self.cert is None:
            raise ValueError("key must come with cert; pass cert=, the file of the key's certificate")
        # Otherwise a wrong path looks like a server that is out.
        context = ssl.create_default_context()
        if self.ca is not None:
            with _readable("ca", self.ca, "a PEM file with certificates"):
                context.load_verify_locations(self.ca)
        if self.cert is not None:
            with _readable("cert", self.cert, "a PEM file with a certificate, with its key there or in key="):
                context.load_cert_chain(self.cert, self.key, _no_passphrase)

    def options(self) -> dict[str, Any]:
        """Return the driver's options of a connection."""
        paths = {"ssl_ca_certs": self.ca, "ssl_certfile": self.cert, "ssl_keyfile": self.key or self.cert}
        given = {name: os.fspath(path) for name, path in paths.items() if path is not None}
        return {**given, "ssl_check_hostname": self.check_hostname}


def _no_passphrase() -> str:
    # Without this, OpenSSL asks for one on the terminal.
    raise ValueError("key must be a file without a passphrase; decrypt it with `openssl pkey`")


@contextmanager
def _readable(argument: str, path: str | os.PathLike[str], wanted: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # of the system, or of the ssl module
        raise ValueError(f"{argument} must be {wanted}, not {safe_repr(os.fspath(path))}: {error}") from None
