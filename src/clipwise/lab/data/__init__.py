"""Real data: downloaded from packages by version and hash, or read from the user's files; prepared once."""
