"""Data types of cachekit: tiers, entries, statistics and reports, and the checks of arguments."""
