"""The gradients of single examples, by their norms alone: coefficients, thresholds, reports, sensitivity."""
