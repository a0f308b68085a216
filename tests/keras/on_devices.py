"""Keras' distributions on JAX, in a process of several devices: they train what one device trains.

`tests.jax.on_devices` is that process.
"""

import keras
import numpy as np

import clipwise
import clipwise.keras
from tests.keras.on_backend import nets

CLIPS = {
    "autoclip": clipwise.autoclip(30),
    "value": clipwise.clip_by_value(0.5),
    "agc": clipwise.adaptive_grad_clip(0.05),
    "tensors": clipwise.adagc(warmup=2),
}


def _data_parallel():
    return keras.distribution.DataParallel(devices=keras.distribution.list_devices())


def _model_parallel():
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((len(devices) // 2, 2), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*first/kernel"] = (None, "model")
    layout[".*first/bias"] = ("model",)
    layout[".*last/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


def _fitted(clip):
    optimizer = clipwise.keras.attach(keras.optimizers.AdamW(nets.RATE), clip)
    monitor = clipwise.keras.ClipMonitor()
    model = nets.fitted(optimizer, size=16, callbacks=[monitor])
    history = {name: values[-1] for name, values in model.history.history.items()}
    return model, history


def check():
    """Fits with and without a distribution, and compares weights, reports and what `ClipMonitor` says."""
    for clip in CLIPS.values():
        expected, own = _fitted(clip)
        for make in (_data_parallel, _model_parallel):
            with make().scope():
                model, history = _fitted(clip)
            if make is _model_parallel:
                kernel = model.get_layer("first").kernel.value
                assert not kernel.sharding.is_fully_replicated, "nothing was spread over the devices"
            for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
            for found, wanted in ((history, own), *zip(*map(_reported, (model, expected)), strict=True)):
                assert found.keys() == wanted.keys()
                for name in found:
                    np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def _reported(model):
    report = clipwise.keras.report(model.optimizer)
    return report.metrics(), report.norms()
