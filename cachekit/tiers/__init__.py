"""The tiers, one package each, and the interfaces that they implement. Tiers do not import each other."""
