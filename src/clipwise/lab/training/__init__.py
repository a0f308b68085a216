"""One run, from the first batch to its record."""
