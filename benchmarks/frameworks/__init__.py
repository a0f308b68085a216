"""Clipping in JAX, TensorFlow and Keras beside what they bring themselves."""
