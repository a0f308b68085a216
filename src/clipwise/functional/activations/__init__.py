"""Bounded activations on arrays of numpy, torch, JAX and TensorFlow.

They are pure and differentiable functions, with the same results under `torch.compile`, `jax.jit` and
`tf.function`. Where a framework has the function itself, the result is bit-identical to it.

The gradient at a bound is 0, as in `torch.nn.functional.hardtanh`: an entry at a bound is saturated.
"""

from clipwise.functional.activations.bounded import clipped_relu, hard_tanh, pact
from clipwise.functional.activations.capped import soft_cap
from clipwise.functional.activations.gated import clamped_swiglu, split_gate_up

__all__ = ["clamped_swiglu", "clipped_relu", "hard_tanh", "pact", "soft_cap", "split_gate_up"]
