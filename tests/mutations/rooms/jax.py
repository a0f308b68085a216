"""JAX and optax."""

from tests.mutations.breaks import Break

BREAKS = [
    Break(
        "a skipped step leaves its mark on the optimizer",
        "src/clipwise/jax/_left_out.py",
        "jax.tree.map(lambda old, new: _kept(skipped, old, new), before, after)",
        "jax.tree.map(lambda old, new: new, before, after)",
        "tests/jax/test_attach.py",
    ),
    Break(
        "a schedule counts skipped steps too",
        "src/clipwise/jax/attach.py",
        "taken = state.clip.step - state.skipped_steps",
        "taken = state.clip.step",
        "tests/jax/test_attach.py",
    ),
    Break(
        "a weight that rounding leaves beyond the bound",
        "src/clipwise/jax/weights.py",
        "exact = first + (clipped - reached).astype(dtype)",
        "exact = first * (1 + 1e-5)",
        "tests/jax/test_weights.py",
    ),
    Break(
        "the loss is not heard as optax calls it",
        "src/clipwise/jax/transform.py",
        'return extra.get("value") if loss is None else loss',
        "return loss",
        "tests/jax/test_transform.py",
    ),
    Break(
        "an update of optax is measured with the learning rate",
        "src/clipwise/jax/updates.py",
        "return step / rate.astype(step.real.dtype)",
        "return step * 1",
        "tests/jax/test_updates.py",
    ),
]
