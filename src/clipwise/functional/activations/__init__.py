"""Bounded activations on arrays of numpy, torch, JAX and TensorFlow.

Each is a pure function of arrays, differentiable in its framework and the same under `torch.compile`,
`jax.jit` and `tf.function`. Where a framework has the function itself the result is its own to the bit.

The gradient at a bound is 0, as in `torch.nn.functional.hardtanh`: an entry on a bound is saturated.
"""

from clipwise.functional.activations.bounded import clipped_relu, hard_tanh, pact
from clipwise.functional.activations.capped import soft_cap
from clipwise.functional.activations.gated import clamped_swiglu, split_gate_up

__all__ = ["clamped_swiglu", "clipped_relu", "hard_tanh", "pact", "soft_cap", "split_gate_up"]
