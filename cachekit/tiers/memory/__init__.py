"""The memory tier. `tier` has the class that callers use, `store` holds the entries."""
