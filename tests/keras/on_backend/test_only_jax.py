"""What is JAX' own: steps without side effects."""

import keras
import numpy as np
import pytest

import clipwise
import clipwise.keras
from clipwise.errors import StateError
from tests.keras.on_backend import nets

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX alone")


@pytest.mark.parametrize("of", [clipwise.keras.report, clipwise.keras.weights_report])
def test_in_a_callback_the_variables_are_reached_through_the_model(of):
    made = clipwise.keras.attach(
        keras.optimizers.SGD(nets.RATE), "clip_by_global_norm(14.0)", weights="clip_by_value(9.0)"
    )
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with pytest.raises(StateError, match=r"clipwise\.keras\.report\(self\.model\.optimizer\)"):
                of(made)
            seen.append(of(self.model.optimizer))

    nets.fitted(made, callbacks=[Watch()], run_eagerly=False)
    assert len(seen) == 6
    assert not any(float(report.norm) == 0.0 for report in seen)


def test_a_compiled_loop_of_ones_own():
    import jax

    model = nets.net()
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(nets.RATE), clipwise.autoclip(30))
    optimizer.build(model.trainable_variables)

    def loss(trainable, rest, x, y):
        out, _ = model.stateless_call(trainable, rest, x)
        return ((out - y) ** 2).mean()

    @jax.jit
    def step(trainable, rest, own, x, y):
        gradients = jax.grad(loss)(trainable, rest, x, y)
        return optimizer.stateless_apply(own, gradients, trainable)

    trainable = [v.value for v in model.trainable_variables]
    rest = [v.value for v in model.non_trainable_variables]
    own = [v.value for v in optimizer.variables]
    for i in range(0, 48, 8):
        trainable, own = step(trainable, rest, own, nets.X[i : i + 8], nets.Y[i : i + 8])
    for one, other in zip(trainable, nets.by_hand(nets.percentile(30))[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_losses_in_a_compiled_loop():
    import jax

    optimizer = clipwise.keras.attach(
        keras.optimizers.SGD(1.0), "clip_by_global_norm(reduce_on_instability(1.0, 0.5, patience=1))"
    )
    variable = keras.Variable(np.zeros(2, "float32"), name="v")
    optimizer.build([variable])

    @jax.jit
    def step(trainable, own, gradients, loss):
        with keras.StatelessScope(list(zip(optimizer.variables, own, strict=True))) as scope:
            clipwise.keras.observe(optimizer, loss)
        own = [scope.get_current_value(v) for v in optimizer.variables]
        return optimizer.stateless_apply(own, gradients, trainable)

    trainable, own = [variable.value], [v.value for v in optimizer.variables]
    for loss in [1.0, 1.1] * 10 + [50.0]:
        before = trainable[0]
        trainable, own = step(trainable, own, [np.asarray([3.0, 4.0], "float32")], loss)
    np.testing.assert_allclose(before - trainable[0], [0.3, 0.4], rtol=1e-4)
