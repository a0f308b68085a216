"""Pure functions for every framework, written with array namespace operations only."""
