"""`manage.py cachekit`: statistics, health and invalidation of a cache of the site."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, final

from django.conf import settings
from django.core.cache import caches
from django.core.management.base import BaseCommand, CommandError

from cachekit.integrations.django.backend import CacheKitCache


@final
class Command(BaseCommand):
    """The command."""

    help = "Shows the state of a cache, and removes entries from it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the actions."""
        parser.add_argument("--cache", default="default", help="the alias in CACHES (default: default)")
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("info", help="print location, health, and what the tiers hold")
        actions.add_parser("clear", help="remove everything")
        pattern = actions.add_parser("delete-pattern", help="remove keys that match a shell pattern")
        pattern.add_argument("pattern", help="such as 'user:*'")
        pattern.add_argument("--key-version", type=int, help="the version of the keys")
        tags = actions.add_parser("invalidate-tags", help="remove entries with any of the tags")
        tags.add_argument("tags", nargs="+", metavar="tag")

    def handle(self, *_: Any, **options: Any) -> None:
        """Carry the action out."""
        alias = options["cache"]
        backend = caches[alias] if alias in settings.CACHES else None
        if not isinstance(backend, CacheKitCache):
            raise CommandError(f"--cache {alias}: no alias of that name has the backend CacheKitCache")
        action = options["action"]
        if action == "info":
            self._info(backend)
        elif action == "clear":
            if not backend.clear():
                raise CommandError("a tier did not answer; it is cleared when it recovers")
            self.stdout.write("cleared")
        elif action == "delete-pattern":
            removed = backend.delete_pattern(options["pattern"], options["key_version"])
            self.stdout.write(f"removed {removed}")
        else:
            backend.invalidate_tags(*options["tags"])
            self.stdout.write("invalidated")

    def _info(self, backend: CacheKitCache) -> None:
        # Of this process the counters say nothing. Sizes are those of the tiers, if they are shared.
        cache = backend.cache
        for name, tier in (("redis", cache.redis_cache), ("file", cache.file_cache)):
            if tier is not None:
                self.stdout.write(f"{name}: {tier.size()} entries, {tier.memory_usage()} bytes")
        if cache.redis_cache is None and cache.file_cache is None:
            self.stdout.write("memory: each process has its own entries")
        health = cache.health()
        self.stdout.write(f"health: {health.status}")
        for reason in health.reasons:
            self.stdout.write(f"  {reason.message}: {reason.remedy}")
