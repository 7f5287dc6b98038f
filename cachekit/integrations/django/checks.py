"""The system checks: settings that do not work, and settings that lose data."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's names
from django.utils.module_loading import import_string

from cachekit.integrations.django.backend import CacheKitCache
from cachekit.integrations.django.location import NOT_OPENED, cache_of, parsed

_SESSIONS = "django.contrib.sessions.backends.cache"


def check_caches(**_: Any) -> list[CheckMessage]:
    """Return what is wrong with the aliases whose backend is a `CacheKitCache`."""
    messages: list[CheckMessage] = []
    for alias, params in settings.CACHES.items():
        if not _is_ours(params.get("BACKEND", "")):
            continue
        options = params.get("OPTIONS", {})
        try:
            location = parsed(params.get("LOCATION", ""))
            cache_of(params.get("LOCATION", ""), options)  # Django's own check opens it as well
        except NOT_OPENED as error:
            messages.append(Error(f"CACHES[{alias!r}]: {error}", id="cachekit.E001"))
            continue
        in_memory = location.server is location.directory is location.cache is None
        if in_memory and settings.SESSION_ENGINE == _SESSIONS and alias == settings.SESSION_CACHE_ALIAS:
            messages.append(
                Warning(
                    f"Sessions are in CACHES[{alias!r}], which is in the memory of each process.",
                    hint="Give it a LOCATION that processes share, or use the engine cached_db.",
                    id="cachekit.W001",
                )
            )
        if "CULL_FREQUENCY" in options:
            messages.append(
                Warning(
                    f"CACHES[{alias!r}]: CULL_FREQUENCY has no effect.",
                    hint="The cache evicts one entry at a time. Leave the option out.",
                    id="cachekit.W002",
                )
            )
    return messages


def _is_ours(path: str) -> bool:
    try:
        backend = import_string(path)
    except ImportError:
        return False  # Django says that itself
    return isinstance(backend, type) and issubclass(backend, CacheKitCache)
