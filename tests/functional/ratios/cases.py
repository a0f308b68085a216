"""Data that meets every branch: ratios on both sides of the region, both signs, ragged masks."""

import numpy as np


def batch(seed=0, sequences=6, tokens=9, spread=0.5):
    """Log-probabilities of two policies, advantages by token and by sequence, and a mask; float64."""
    rng = np.random.default_rng(seed)
    old = np.log(rng.uniform(0.05, 0.6, (sequences, tokens)))
    logp = old + rng.normal(0.0, spread, old.shape)
    by_token = rng.normal(0.0, 1.5, old.shape)
    by_sequence = rng.normal(0.0, 1.5, sequences)
    lengths = rng.integers(1, tokens + 1, sequences)
    lengths[0] = tokens
    mask = np.arange(tokens) < lengths[:, None]
    return logp, old, by_token, by_sequence, mask
