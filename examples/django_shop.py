"""A Django site in one file, whose cache is cachekit: a page, a counter, a session, and tags.

python examples/django_shop.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import django
from django.conf import settings

SERVED = {"prices": 0}

settings.configure(
    SECRET_KEY="only for this example",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.sessions", "cachekit.integrations.django"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    CACHES={
        "default": {
            "BACKEND": "cachekit.integrations.django.CacheKitCache",
            "LOCATION": tempfile.mkdtemp(prefix="shop-"),
        }
    },
)
django.setup()

from django.core.cache import cache  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402


def prices_of(shelf: str) -> dict[str, int]:
    """Stand for a slow query."""
    SERVED["prices"] += 1
    return {f"{shelf} {name}": price for name, price in (("apple", 3), ("pear", 4))}


def prices(request: HttpRequest, shelf: str) -> HttpResponse:
    """Serve the prices of a shelf, and count the visits of this session and of all."""
    found: dict[str, int] = cache.get_or_set(f"prices:{shelf}", lambda: prices_of(shelf), 60, tags={"prices"})
    cache.add("visits", 0, timeout=None)
    request.session["mine"] = request.session.get("mine", 0) + 1
    return HttpResponse(f"{found}, visit {cache.incr('visits')}, {request.session['mine']} of yours")


urlpatterns: list[Any] = [path("prices/<shelf>/", prices)]

if __name__ == "__main__":
    call_command("check")
    client = Client()
    for _ in range(3):
        page = client.get("/prices/fruit/").content.decode()
    print(page)
    cache.invalidate_tags("prices")
    client.get("/prices/fruit/")
    call_command("cachekit", "delete-pattern", "prices:*")
    Client().get("/prices/fruit/")
    print(f"visits {cache.get('visits')}, prices worked out {SERVED['prices']} times")
