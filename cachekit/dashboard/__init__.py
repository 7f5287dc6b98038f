"""A page that shows the caches of a host live, for a browser. It is read-only, and shows no key and no value.

app.mount("/cache", cachekit.dashboard.app(cache, allow=lambda scope: scope["user"].is_admin))
"""

from __future__ import annotations

from cachekit.dashboard.asgi import app
from cachekit.dashboard.wsgi import wsgi_app

__all__ = ["app", "wsgi_app"]
