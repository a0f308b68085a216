"""ClipMonitor against the same training by hand."""

import keras
import numpy as np

import clipwise
from tests.depth import thorough
from tests.keras.on_backend import nets


def test_history_and_progress_bar(capsys):
    model = nets.net()
    model.compile(
        clipwise.keras.attach(keras.optimizers.SGD(nets.RATE), "clip_by_global_norm(14.0)"), loss="mse"
    )
    history = model.fit(
        nets.X,
        nets.Y,
        batch_size=8,
        shuffle=False,
        epochs=2,
        verbose=2,
        validation_data=(nets.X, nets.Y),
        callbacks=[clipwise.keras.ClipMonitor()],
    ).history
    _, norms = nets.by_hand(nets.globally(14.0))
    assert 0 < sum(norm > 14 for norm in norms) < len(norms)
    np.testing.assert_allclose(history["clipwise/norm"][0], np.mean(norms), rtol=1e-5)
    np.testing.assert_allclose(history["clipwise/norm_after"][0], np.mean(np.minimum(norms, 14.0)), rtol=1e-5)
    np.testing.assert_allclose(
        history["clipwise/clip_fraction"][0], np.mean(np.asarray(norms) > 14), rtol=1e-6
    )
    assert history["clipwise/threshold"] == [14.0, 14.0]
    assert history["clipwise/nonfinite"] == history["clipwise/skipped"] == [0.0, 0.0]
    assert history["clipwise/norm"][1] != history["clipwise/norm"][0]
    assert len(history["val_loss"]) == 2
    assert "clipwise/norm: " in capsys.readouterr().out


@thorough
def test_batches_one_by_one():
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["clipwise/norm"])

    made = clipwise.keras.attach(keras.optimizers.SGD(nets.RATE, gradient_accumulation_steps=2), "auto")
    nets.fitted(made, callbacks=[clipwise.keras.ClipMonitor(), Watch()])
    # Between two steps of the optimizer there is nothing new; before the first, nothing at all.
    assert np.isnan(seen[0])
    assert seen[1] == seen[2] != seen[3]


@thorough
def test_a_warm_up_is_infinite():
    made = clipwise.keras.attach(keras.optimizers.Adam(0.01), "zclip")
    history = nets.fitted(made, callbacks=[clipwise.keras.ClipMonitor(batches=False)]).history.history
    assert history["clipwise/threshold"] == [np.inf]
    assert history["clipwise/clip_fraction"] == [0.0]
