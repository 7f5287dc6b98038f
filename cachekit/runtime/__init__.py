"""Threads, clocks, fork safety, the scheduler and backoff. It knows nothing of caching."""
