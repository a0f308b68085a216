"""Several runs side by side: which are run, the figures people decide by, and what they say in words."""
