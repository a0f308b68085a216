"""The results of a call: tables, the picture, the page, and their files."""
