"""Deliberate breaks, each of a promise of the house, for the tests to see: ``python -m tests.mutations``."""
