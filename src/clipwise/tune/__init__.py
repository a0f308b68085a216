"""A search for the clip that does best: method, threshold and, if asked, learning rate together (Optuna)."""
