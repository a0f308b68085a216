"""Observed commands: real processes, compared with the same command run without."""
