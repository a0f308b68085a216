"""Steps with NaN or Inf in their gradients."""

import keras
import numpy as np
import pytest

import clipwise
from clipwise.errors import ArgumentError, NonFiniteError
from tests.depth import brief
from tests.keras.on_backend import nets
from tests.thresholds import oracles

# Batches of 8: the third is bad, and with it the micro-batch beside it.
BAD = nets.X.copy()
BAD[18, 2] = np.nan
CASES = {
    "plain": ({}, np.r_[0:16, 24:48]),
    "micro-batches": ({"gradient_accumulation_steps": 2}, np.r_[0:16, 32:48]),
}


def optimizer(**settings):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 2, 0.7)
    made = keras.optimizers.AdamW(
        schedule, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=2, ema_momentum=0.5, **settings
    )
    return clipwise.keras.attach(made, clipwise.autoclip(30))


@pytest.mark.parametrize("case", brief(CASES, "plain"))
def test_a_skipped_step_is_as_if_it_had_never_been(case):
    settings, kept = CASES[case]
    monitor = clipwise.keras.ClipMonitor(batches=False)
    skipping = nets.fitted(optimizer(**settings), BAD, callbacks=[monitor])
    without = nets.fitted(optimizer(**settings), nets.X[kept], nets.Y[kept])
    for one, other in zip(skipping.get_weights(), without.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    found, expected = nets.variables_of(skipping.optimizer), nets.variables_of(without.optimizer)
    assert list(found) == list(expected)
    for name in found.keys() - {"clipwise_totals", "clipwise_state_0"}:  # they count skipped steps too
        value = found[name]
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert skipping.history.history["clipwise/skipped"] == [1.0]
    # Its tensors with NaN: of the first layer all, of the last all too, by the forward pass.
    assert skipping.history.history["clipwise/nonfinite"] == [4.0]


def test_a_spike_that_is_skipped_is_as_if_it_had_never_been():
    clip = clipwise.chain(clipwise.skip_spikes(window=4), clipwise.autoclip(30))

    def trained(scales):
        variable = keras.Variable(np.ones(2, "float32"), name="v")
        made = keras.optimizers.AdamW(0.1, weight_decay=0.1, use_ema=True, ema_momentum=0.5)
        made = clipwise.keras.attach(made, clip, nonfinite="propagate")
        skipped = []
        for scale in scales:
            made.apply([keras.ops.convert_to_tensor(np.asarray([scale, 1.0], "float32"))], [variable])
            skipped.append(bool(clipwise.keras.report(made).skipped))
        assert int(made.iterations) == len(scales) - sum(skipped)
        return [keras.ops.convert_to_numpy(v) for v in (variable, *made.variables[:4])], skipped

    found, skipped = trained([1.0, 2.0, 3.0, 500.0, 2.0])
    expected, _ = trained([1.0, 2.0, 3.0, 2.0])
    assert skipped == [False, False, False, True, False]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_are_skipped_by_their_loss_as_by_a_plain_loop():
    clip = clipwise.skip_spikes(4.0, window=8, patience=2, on="loss")
    made = clipwise.keras.attach(keras.optimizers.SGD(1.0), clip)
    variable = keras.Variable(np.zeros(1, "float32"), name="v")
    skipped = []
    for loss in oracles.LOSSES:
        clipwise.keras.observe(made, loss)
        made.apply([keras.ops.ones(1)], [variable])
        skipped.append(bool(clipwise.keras.report(made).skipped))
    assert skipped == oracles.skip_losses(oracles.LOSSES, 4.0, 8, 2)
    assert float(keras.ops.convert_to_numpy(variable)[0]) == sum(skipped) - len(skipped)


def apply(nonfinite, *gradients, clip="clip_by_global_norm(1.0)"):
    variables = [
        keras.Variable(np.zeros(np.shape(g), "float32"), name=f"v{i}") for i, g in enumerate(gradients)
    ]
    made = clipwise.keras.attach(keras.optimizers.SGD(1.0), clip, nonfinite=nonfinite)
    made.apply([keras.ops.convert_to_tensor(np.asarray(g, "float32")) for g in gradients], variables)
    return [keras.ops.convert_to_numpy(v) for v in variables], made


def test_the_report_of_a_skipped_step():
    found, made = apply("skip", [3.0, 4.0], [np.inf, 0.0])
    assert [f.tolist() for f in found] == [[0.0, 0.0], [0.0, 0.0]]
    report = clipwise.keras.report(made)
    assert bool(report.skipped)
    assert report.worst == "v1"
    assert report.metrics()["clipwise/nonfinite"] == 1.0
    assert int(made.iterations) == 0


def test_zero_cleans_entries():
    found, _ = apply("zero", [3.0, np.nan], [np.inf, 4.0])
    np.testing.assert_allclose(found, [[-0.6, 0.0], [0.0, -0.8]], rtol=1e-6)


def test_propagate_lets_them_through():
    found, _ = apply("propagate", [3.0, np.nan])
    assert np.isnan(found[0]).all()


def test_error_raises_before_anything_is_touched():
    variable = keras.Variable(np.ones(2, "float32"), name="v")
    made = clipwise.keras.attach(keras.optimizers.SGD(1.0), "auto", nonfinite="error")
    with pytest.raises(NonFiniteError, match="'v'"):
        made.apply([keras.ops.convert_to_tensor(np.asarray([np.nan, 1.0], "float32"))], [variable])
    assert keras.ops.convert_to_numpy(variable).tolist() == [1.0, 1.0]


def test_error_is_refused_in_a_compiled_step():
    if keras.backend.backend() == "torch":
        pytest.skip("Keras on PyTorch runs step by step")
    made = clipwise.keras.attach(keras.optimizers.SGD(1.0), "auto", nonfinite="error")
    with pytest.raises(ArgumentError, match="run_eagerly=True"):
        nets.fitted(made)
