"""A shared cache for the responses of ASGI and WSGI applications, and a private one for httpx clients.

The transports need httpx, which is imported by the first use of one.
"""

from typing import TYPE_CHECKING

from cachekit.http.asgi import ASGICache
from cachekit.http.wsgi import WSGICache

if TYPE_CHECKING:
    from cachekit.http.transport import AsyncCachedTransport, CachedTransport

__all__ = ["ASGICache", "AsyncCachedTransport", "CachedTransport", "WSGICache"]

if not TYPE_CHECKING:  # for a type checker, every name would exist

    def __getattr__(name: str) -> object:
        """Return a transport, the first time that it is asked for."""
        if name in {"AsyncCachedTransport", "CachedTransport"}:
            try:
                from cachekit.http import transport
            except ModuleNotFoundError as error:
                if error.name != "httpx":
                    raise
                raise ImportError(
                    f"{name} needs httpx; install it with: pip install 'cachekit-tiered[http]'"
                ) from error

            return getattr(transport, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
