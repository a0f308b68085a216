"""Train what a configuration describes, and compare how it fares with and without clipping."""
