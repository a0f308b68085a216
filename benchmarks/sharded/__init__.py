"""Clipping of sharded models beside torch's own and others' ways."""
