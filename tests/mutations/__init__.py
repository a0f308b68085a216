"""Deliberate breaks, one for each promise of the house, for the tests to see: ``python -m tests.mutations``."""
