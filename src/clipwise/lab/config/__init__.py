"""The configuration of the lab: its keys, their defaults, and one clear line for each mistake."""
