"""What a lab configuration may say: the keys, their defaults, and one clear line for each mistake."""
