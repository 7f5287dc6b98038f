"""Cassettes: recorded answers of cached functions in a text file, so that tests run without the network."""
