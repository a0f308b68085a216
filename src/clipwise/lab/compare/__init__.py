"""Comparison of several runs: which ones to run, the figures of each, and the conclusions in words."""
