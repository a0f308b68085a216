"""Keras, on JAX."""

from tests.mutations.breaks import Break

HERE = {"KERAS_BACKEND": "jax"}

BREAKS = [
    Break(
        "a threshold is told nothing of the optimizer",
        "src/clipwise/keras/_step.py",
        "seen, xp = self.plan.sees(), arithmetic.xp",
        "seen, xp = frozenset(), arithmetic.xp",
        "tests/conformance/table/test_own_policies.py",
        {"KERAS_BACKEND": "torch", "CLIPWISE_BACK_ENDS": "keras-torch"},
    ),
    Break(
        "norms of one variable under the name of another",
        "src/clipwise/keras/_memory.py",
        "self._norms.assign(self._spread(arithmetic, report.tensor_norms, present))",
        "self._norms.assign(self._spread(arithmetic, report.tensor_norms[::-1], present))",
        "tests/keras/on_backend/test_apply.py",
        HERE,
    ),
    Break(
        "a bound that lets NaN become a number",
        "src/clipwise/keras/clip_values.py",
        "values = keras.ops.where(values > high, high, values)",
        "values = keras.ops.where(values <= high, values, high)",
        "tests/keras/on_backend/test_clip_values.py",
        HERE,
    ),
]
