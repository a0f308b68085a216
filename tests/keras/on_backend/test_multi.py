"""MultiOptimizer: one joint clip over what several optimizers take."""

import keras
import numpy as np
import pytest

import clipwise
from clipwise.errors import ArgumentError
from tests.depth import thorough
from tests.keras.on_backend import nets

pytestmark = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)


def multi(*, scale=None, **inner):
    parts = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(nets.RATE), {"net/first/.*": keras.optimizers.SGD(nets.RATE, **inner)}
    )
    return keras.optimizers.MultiOptimizer(parts, loss_scale_factor=scale)


def test_the_norm_is_joint_and_bad_steps_are_left_out():
    bad, kept = nets.X.copy(), np.r_[0:8, 16:48]
    bad[9] = np.inf
    made = clipwise.keras.attach(multi(scale=8.0), clipwise.autoclip(30))
    model = nets.fitted(made, bad)
    expected, norms = nets.by_hand(nets.percentile(30), x=nets.X[kept], y=nets.Y[kept])
    for one, other in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)
    assert made.loss_scale_factor == made.optimizers[0].loss_scale_factor == 8.0
    assert int(made.iterations) == len(norms)
    np.testing.assert_allclose(float(clipwise.keras.report(made).norm), norms[-1], rtol=1e-5)


@thorough
def test_it_is_saved(tmp_path):
    model = nets.fitted(clipwise.keras.attach(multi(), "clip_by_norm(0.5)"))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


@pytest.mark.parametrize("inner", [{"gradient_accumulation_steps": 2}, {"clipnorm": 1.0}], ids=str)
def test_what_optimizers_inside_may_not_do(inner):
    with pytest.raises(ArgumentError, match=next(iter(inner))):
        clipwise.keras.attach(multi(**inner), "auto")
