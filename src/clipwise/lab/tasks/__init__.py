"""What is learned: the models, and each task with its batches, its loss and its held-out figures."""
