"""Many tasks, each with every method: where clipping helps, where it does not, and how each method does."""
