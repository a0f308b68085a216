"""Single examples: the routes to their gradients, thresholds, noise, reports."""

from tests.mutations.breaks import Break

FOLDER = "src/clipwise/torch/per_example/"
TORCH, JAX = "tests/torch/test_per_example.py", "tests/jax/test_per_example.py"
NUMBERS = "tests/torch/test_per_example_numbers.py"

BREAKS = [
    Break(
        "the norm of a linear layer is of each position alone",
        FOLDER + "ties.py",
        "found = one.sizes * (products.mul_(rows) @ other.sizes)",
        "found = one.sizes * (products.mul_(rows) * torch.eye(*rows.shape[-2:]) @ other.sizes)",
        TORCH,
    ),
    Break(
        "a tied weight has the norms of its uses",
        FOLDER + "ties.py",
        "inner(a, b) * (1 if a is b else 2)",
        "inner(a, b) * (1 if a is b else 0)",
        TORCH,
    ),
    Break(
        "a position is as large as any other",
        FOLDER + "ties.py",
        "return _Scaled(rows, columns, (sizes / total).to(columns.dtype), total)",
        "return _Scaled(rows, columns, torch.ones_like(sizes, dtype=columns.dtype), total)",
        TORCH,
    ),
    Break(
        "the report has 2-norms where the clip has root mean squares",
        "src/clipwise/functional/examples/plan.py",
        'if self.plan.norm == "rms":',
        "if False:",
        JAX,
    ),
    Break(
        "an overflow of dropped examples is hidden from the scaler",
        FOLDER + "step.py",
        'hidden = scale is not None and self.options.nonfinite == "drop"',
        "hidden = False",
        NUMBERS,
    ),
    Break(
        "the gate of a GRU that scales what comes from its state is forgotten",
        FOLDER + "recurrence.py",
        "torch.cat([d_r, d_u, d_n * r], 1, out=at_hidden[t])",
        "torch.cat([d_r, d_u, d_n], 1, out=at_hidden[t])",
        TORCH,
    ),
    Break(
        "a recurrent weight meets the state that comes out of a step",
        FOLDER + "recurrent.py",
        "[h0.detach()[None], steps[:-1]]",
        "[steps]",
        TORCH,
    ),
    Break(
        "a transposed convolution meets patches of what went in",
        FOLDER + "convolution.py",
        "met, other = (g, x) if self.geometry.transposed else (x, g)",
        "met, other = (x, g)",
        TORCH,
    ),
    Break(
        "a layer without a formula is not named",
        FOLDER + "uses.py",
        "if use.without_formula is not None and self.size > use.entries:",
        "if False:",
        TORCH,
    ),
    Break(
        "the row of the padding counts",
        FOLDER + "embedding.py",
        "there = first & (rows != self.padding)",
        "there = first",
        TORCH,
    ),
    Break(
        "rows that occur twice in an example count by themselves",
        FOLDER + "embedding.py",
        "first[:, 1:] = rows[:, 1:] != rows[:, :-1]",
        "first[:, 1:] = True",
        TORCH,
    ),
    Break(
        "in torch's attention examples lie along axis 0",
        FOLDER + "recorder.py",
        "isinstance(query, Tensor) and query.ndim == 3",
        "False",
        TORCH,
    ),
    Break(
        "the routes are not checked against the examples alone",
        FOLDER + "check.py",
        "return None if bool((beyond <= 0).all()) else int(beyond.max(dim=0).values.argmax())",
        "return None",
        TORCH,
    ),
    Break(
        "noise is added in every call of a step",
        FOLDER + "step.py",
        "        if not more:\n            self._finish(parameters, thresholds, scale)",
        "        self._finish(parameters, thresholds, scale)",
        TORCH,
    ),
    Break(
        "the sensitivity of a mean is that of a sum",
        FOLDER + "clip.py",
        "return self.plan.sensitivity(self._state.xp, self._thresholds()) / divisor",
        "return self.plan.sensitivity(self._state.xp, self._thresholds()) * divisor**0",
        TORCH,
    ),
    Break(
        "automatic clipping never enlarges",
        "src/clipwise/functional/examples/plan.py",
        "        return stage.thresholds.policy.coefficient(norms)",
        "        return xp.clip(stage.thresholds.policy.coefficient(norms), 0.0, 1.0)",
        TORCH,
    ),
    Break(
        "a quantile walks once an example",
        "src/clipwise/thresholds/_quantile_ema.py",
        "walk = xp.exp(-self.rate * (share - self.quantile))",
        "walk = xp.exp(-self.rate * (share - self.quantile) * count)",
        TORCH,
    ),
    Break(
        "padding counts in JAX",
        "src/clipwise/jax/_example_sums.py",
        "        kept = here\n",
        "        kept = here | True\n",
        JAX,
    ),
    Break(
        "padding counts in TensorFlow",
        "src/clipwise/tensorflow/_example_sums.py",
        "kept = there[start : start + step]",
        "kept = there[start : start + step] | True",
        "tests/tensorflow/test_per_example.py",
    ),
    Break(
        "explaining a batch draws from the random numbers of the run",
        FOLDER + "step.py",
        'with torch.random.fork_rng([device] if device.type == "cuda" else []):',
        "with torch.enable_grad():",
        TORCH,
    ),
    Break(
        "an alert of a spike names the examples of another step",
        "src/clipwise/monitor/_examples.py",
        "self._known[source, step] = _named(report)",
        "self._known[source, step - 1] = _named(report)",
        TORCH,
    ),
    Break(
        "a norm of NaN is not the largest",
        "src/clipwise/functional/examples/report.py",
        "found = np.concatenate([order[ends:], order[:ends][::-1]])[:k]",
        "found = np.concatenate([order[:ends][::-1], order[ends:]])[:k]",
        TORCH,
    ),
]
