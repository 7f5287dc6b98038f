"""What a cached function is: keys from calls, the fast path, and its methods."""
