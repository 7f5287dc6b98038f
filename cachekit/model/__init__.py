"""Nouns: levels, entries, statistics, reports, and the checks of arguments."""
