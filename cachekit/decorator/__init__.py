"""Cached functions: cache keys of calls, the fast path, and the methods of a cached function."""
