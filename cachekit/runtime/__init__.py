"""Threads, clocks, fork safety, the scheduler and backoff. Knows nothing of caching."""
