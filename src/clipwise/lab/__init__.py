"""Train what a configuration describes, and compare runs with and without clipping."""
