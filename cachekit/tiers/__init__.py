"""The tiers: each in a room of its own, none knows of another."""
