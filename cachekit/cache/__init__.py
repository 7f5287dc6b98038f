"""What a user calls: IntelligentCache, Region, cache_result, the default cache and configuration."""
