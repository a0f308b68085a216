"""Real data: fetched out of packages by version and hash, or read from your files, and prepared once."""
