"""The Redis tier: `tier` is what users and caches call, `store` is what lies on the server."""
