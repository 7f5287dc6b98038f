"""Django's own tests of cache backends, which its `runtests.py` runs for each kind of our locations."""

from __future__ import annotations

import os

from cache.tests import BaseCacheTests, caches_setting_for_tests
from django.test import TestCase, override_settings

BACKEND = "cachekit.integrations.django.CacheKitCache"


def settings_of(location: object) -> override_settings:
    # Without culling, which this backend does not do: it evicts one entry at a time.
    return override_settings(
        CACHES=caches_setting_for_tests(exclude={"cull", "zero_cull"}, BACKEND=BACKEND, LOCATION=location)
    )


@settings_of("memory")
class MemoryTests(BaseCacheTests, TestCase):
    pass


@settings_of(os.environ["SUITE_DIRECTORY"] + "/files")
class FileTests(BaseCacheTests, TestCase):
    pass


@settings_of("suite_caches:shop")
class OwnCacheTests(BaseCacheTests, TestCase):
    pass


if os.environ.get("SUITE_SERVER"):

    @settings_of(os.environ["SUITE_SERVER"])
    class ServerTests(BaseCacheTests, TestCase):
        pass

    @settings_of([os.environ["SUITE_SERVER"], os.environ["SUITE_DIRECTORY"] + "/both"])
    class AllTiersTests(BaseCacheTests, TestCase):
        pass
