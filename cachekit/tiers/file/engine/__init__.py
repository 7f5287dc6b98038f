"""The file engine: segments, a shared hash index, and locks that survive a crash."""
