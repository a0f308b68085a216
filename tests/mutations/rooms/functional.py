"""The step where arrays are values, and the pure functions beside it."""

from tests.mutations.breaks import Break

JAX = "tests/jax/test_clip.py"
OWN_POLICIES = "tests/conformance/table/test_own_policies.py -k torch-native"
VALUES = "tests/functional/ratios/test_values.py"

BREAKS = [
    Break(
        "a coefficient in the wrong place",
        "src/clipwise/functional/scaling.py",
        "return xp.where(known, value, a / b)",
        "return xp.where(known, value, a / (b + 1e-3))",
        JAX,
    ),
    Break(
        "a derivative that is NaN at a norm of 0",
        "src/clipwise/functional/scaling.py",
        "b = xp.where(known, 1.0, b)",
        "b = b + 0.0",
        "tests/functional/test_derivatives.py -k zeros",
    ),
    Break(
        "the first bad tensor is let through",
        "src/clipwise/functional/clipping.py",
        "measure.leave = count > 0",
        "measure.leave = count > 1",
        JAX,
    ),
    Break(
        "spikes are skipped for ever",
        "src/clipwise/functional/skip_stage.py",
        "above & (state.row < self.clip.patience)",
        "above & (state.row < 1000)",
        "tests/torch/test_skip.py",
    ),
    Break(
        "a skipped spike enters the history",
        "src/clipwise/functional/skip_stage.py",
        "                policy = unchanged\n",
        "                pass\n",
        "tests/torch/test_skip.py",
    ),
    Break(
        "only NaN and Inf keep an optimizer from stepping",
        "src/clipwise/functional/arguments.py",
        'return nonfinite == "skip" or leaves_steps_out(clip)',
        'return nonfinite == "skip"',
        "tests/jax/test_attach.py -k spike",
    ),
    Break(
        "the last tensor is missed",
        "src/clipwise/functional/arrays.py",
        "for place, array in enumerate(arrays) if array is not None)",
        "for place, array in enumerate(arrays[:3]) if array is not None)",
        JAX,
    ),
    Break(
        "what is remembered of entries is lost",
        "src/clipwise/functional/group_thresholds.py",
        "        if not state or not parts:\n            return state",
        "        return state",
        OWN_POLICIES,
    ),
    Break(
        "a policy is not told the step",
        "src/clipwise/functional/group_thresholds.py",
        "step=context.step,",
        "",
        OWN_POLICIES,
    ),
    Break(
        "a history goes to the next parameter",
        "src/clipwise/functional/carry.py",
        "known = {slot.name: range(starts[i], starts[i + 1])",
        "known = {slot.name: range(starts[i - 1], starts[i - 1] + starts[i + 1] - starts[i])",
        "tests/torch/loops/test_parameters_change.py",
    ),
    Break(
        "units along the wrong axis",
        "src/clipwise/functional/slots.py",
        "axes = (0,) if embedding else (len(shape) - 1,)",
        "axes = (0,)",
        JAX,
    ),
    Break(
        "the last pattern that matches wins",
        "src/clipwise/functional/names.py",
        "(pattern for pattern, _ in clip.parts if fnmatchcase(name, pattern))",
        "(pattern for pattern, _ in reversed(clip.parts) if fnmatchcase(name, pattern))",
        "tests/torch/test_clipper.py -k pattern",
    ),
    Break(
        "squares that leave the range",
        "src/clipwise/functional/scaling.py",
        "divisor = xp.stop_gradient(xp.where((largest > 0) & (largest < math.inf), largest, 1.0))",
        "divisor = xp.stop_gradient(xp.where(largest < 0, largest, 1.0))",
        "tests/torch/test_edges.py -k reference",
    ),
    Break(
        "a penalty that costs on one side only",
        "src/clipwise/functional/penalty.py",
        "    if one_sided:\n        # By",
        "    if True:\n        # By",
        "tests/torch/test_penalty.py",
    ),
    Break(
        "the ratio is clipped on the wrong side",
        "src/clipwise/functional/ratios/_ppo.py",
        "term = xp.where(clipped < free, clipped, free)",
        "term = xp.where(clipped > free, clipped, free)",
        VALUES,
    ),
    Break(
        "a ratio at its bound counts as clipped",
        "src/clipwise/functional/ratios/_ppo.py",
        "(ratio > top) & (worth > 0)",
        "(ratio >= top) & (worth >= 0)",
        VALUES,
    ),
    Break(
        "a weight at the bound does not count",
        "src/clipwise/functional/bounds.py",
        "norms >= limit",
        "norms >= limit * 1.1",
        "tests/jax/test_weights.py",
    ),
]
