"""The public API: IntelligentCache, Region, cache_result, the default cache and its configuration."""
