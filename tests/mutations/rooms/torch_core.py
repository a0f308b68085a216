"""PyTorch: the clipper, what is attached, what is saved."""

from tests.mutations.breaks import Break

ATTACH = "tests/torch/test_attach.py"
CLIPPER = "tests/torch/test_clipper.py"

BREAKS = [
    Break(
        "scaled gradients are clipped before they are unscaled",
        "src/clipwise/torch/_measure.py",
        "return norms if self.loss_scale is None else norms / self.loss_scale",
        "return norms",
        "tests/torch/loops/test_scaler.py",
    ),
    Break(
        "a saved history is not restored",
        "src/clipwise/torch/clipper.py",
        "self._state.value = loaded",
        "loaded = self._state.value",
        "tests/torch/loops/test_resumed.py",
    ),
    Break(
        "the count of steps is not restored",
        "src/clipwise/torch/clipper.py",
        "self.steps, self._skipped_steps, self._clipped_steps = steps, skipped, clipped",
        "self._skipped_steps, self._clipped_steps = skipped, clipped",
        "tests/torch/loops/test_resumed.py " + CLIPPER,
    ),
    Break(
        "a saved state is no copy",
        "src/clipwise/torch/_state.py",
        'torch.tensor(np.asarray(state), device="cpu")',
        "torch.from_numpy(np.asarray(state))",
        CLIPPER,
    ),
    Break(
        "a step of NaN is taken",
        "src/clipwise/torch/attach.py",
        "        return not report.skipped\n",
        "        return True\n",
        ATTACH,
    ),
    Break(
        "the largest of several losses counts",
        "src/clipwise/torch/_one_step.py",
        "torch.stack(losses).mean()",
        "torch.stack(losses).max()",
        CLIPPER,
    ),
    Break(
        "weights are bounded after a step that was left out",
        "src/clipwise/torch/attach.py",
        "if not self._moves:",
        "if False:",
        "tests/torch/loops/test_weights_left_out.py",
    ),
    Break(
        "an update is measured with the learning rate",
        "src/clipwise/torch/updates.py",
        "return (now - one.before).div_(one.rate)",
        "return now - one.before",
        "tests/torch/loops/test_updates.py",
    ),
    Break(
        "what Muon normalises enters the norm",
        "src/clipwise/torch/attach.py",
        "normalised = {} if self._include_normalised else normalised_by(self.optimizers)",
        "normalised: dict[int, str] = {}",
        "tests/torch/loops/test_normalised.py",
    ),
    Break(
        "a threshold of losses is none below 0",
        "src/clipwise/functional/group_thresholds.py",
        "return measure.number(threshold), state, held  # of any sign",
        "return measure.as_threshold(threshold), state, held",
        "tests/torch/test_skip.py",
    ),
    Break(
        "a transposed convolution by its input",
        "src/clipwise/torch/_slots.py",
        "rows = UnitRows((1,), 1) if groups == 1 else UnitRows((0, 2), groups)",
        "rows = UnitRows((0,), 1)",
        "tests/torch/test_unit_axes.py",
    ),
    Break(
        "an error only after the gradients were touched",
        "src/clipwise/torch/dropins.py",
        "if isinstance(norm, Tensor) else math.isfinite(norm)):",
        "if isinstance(norm, Tensor) else not math.isnan(norm)):",
        "tests/torch/test_dropins.py",
    ),
    Break(
        "a fused optimizer divides by the coefficient twice",
        "src/clipwise/torch/_fused.py",
        "scale = 1.0 / tensor_of(multiply_by).to(torch.float32)",
        "scale = 1.0 / tensor_of(multiply_by).to(torch.float32) ** 2",
        "tests/torch/loops/test_fused.py",
    ),
    Break(
        "a nested step is clipped twice",
        "src/clipwise/torch/hooks.py",
        "        if _is_nested(optimizer):\n            return None",
        "        if False:\n            return None",
        ATTACH,
    ),
    Break(
        "the largest learning rate of the groups is the smallest",
        "src/clipwise/torch/attach.py",
        'rate = _largest([group["lr"] for group in groups if "lr" in group])',
        'rate = groups[-1]["lr"]',
        "tests/torch/loops/test_parameters_change.py",
    ),
    Break(
        "a step that is left out runs",
        "src/clipwise/torch/_left_out.py",
        "        if self.left_out:\n            return None\n",
        "",
        "tests/torch/loops/test_left_out.py",
    ),
    Break(
        "a step ends in its middle",
        "src/clipwise/torch/hooks.py",
        "if guard is not None and nothing_done:",
        "if guard is not None:",
        "tests/torch/loops/test_left_out.py",
    ),
    Break(
        "what is around an optimizer is not left out with it",
        "src/clipwise/torch/_wrappers.py",
        "while not _acts_itself(one) and",
        "while",
        "tests/torch/loops/test_left_out.py",
    ),
    Break(
        "weights that move past the clip are not said",
        "src/clipwise/torch/_unseen.py",
        "not torch.equal(p.detach(), old)",
        "False",
        "tests/torch/loops/test_unseen.py",
    ),
    Break(
        "a copy of a clipper detaches the original",
        "src/clipwise/torch/attach.py",
        '"_handles": [],',
        '"_handles": self._handles,',
        "tests/torch/test_copies.py",
    ),
]
