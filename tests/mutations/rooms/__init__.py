"""The breaks, a file a room. An old text stands in its file exactly once."""
