"""Search for the best clip: method, threshold and, optionally, learning rate together (Optuna)."""
