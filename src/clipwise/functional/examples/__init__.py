"""Per-example clipping from norms alone: coefficients, thresholds, reports, sensitivity."""
