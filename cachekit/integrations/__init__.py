"""Adapters: caches in the form that a framework asks for, one module or package for each framework."""
