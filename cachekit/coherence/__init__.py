"""The tiers as one: lookup, promotion, writes, invalidation, outage and recovery."""
