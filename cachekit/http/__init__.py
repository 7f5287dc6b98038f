"""A shared cache for the responses of ASGI and WSGI applications, and a private one for httpx clients."""

from cachekit.http.asgi import ASGICache
from cachekit.http.wsgi import WSGICache

__all__ = ["ASGICache", "WSGICache"]
