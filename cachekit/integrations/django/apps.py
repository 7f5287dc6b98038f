"""The app: it registers the system checks when Django starts."""

from __future__ import annotations

from typing import final

from django.apps import AppConfig
from django.core.checks import Tags, register


@final
class CacheKitConfig(AppConfig):
    """The app `cachekit.integrations.django`."""

    name = "cachekit.integrations.django"
    label = "cachekit"
    verbose_name = "cachekit"

    def ready(self) -> None:
        """Register the system checks."""
        from cachekit.integrations.django.checks import check_caches

        register(check_caches, Tags.caches)
