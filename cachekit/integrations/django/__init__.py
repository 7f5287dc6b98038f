"""The Django cache backend: `"BACKEND": "cachekit.integrations.django.CacheKitCache"`.

As an app (`INSTALLED_APPS`) it adds a system check and the command `manage.py cachekit`.
"""

from cachekit.integrations.django.backend import CacheKitCache

__all__ = ["CacheKitCache"]
