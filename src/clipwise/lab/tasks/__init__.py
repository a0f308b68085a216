"""The tasks: models, batches, losses and held-out metrics."""
