"""`fit` against the same training by hand, in every way that Keras offers to run it."""

import keras
import numpy as np
import pytest

import clipwise
from tests.keras.on_backend import nets

CLIPS = {
    "global": (clipwise.clip_by_global_norm(0.5), nets.globally(0.5)),
    "tensor": (clipwise.clip_by_norm(0.3), nets.by_tensor(0.3)),
    "value": (clipwise.clip_by_value(0.1), nets.by_value(0.1)),
    "unit": (clipwise.adaptive_grad_clip(0.1), nets.by_unit(0.1)),
    "learned": (clipwise.autoclip(30), nets.percentile(30)),
    "text": ("clip_by_global_norm(0.5)", nets.globally(0.5)),
}


def attach(clip, optimizer=keras.optimizers.SGD, rate=nets.RATE, **settings):
    return clipwise.keras.attach(optimizer(rate, **settings), clip)


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


# Compiling takes seconds; what is the same for all back ends needs no fit on each.
SLOW = set() if keras.backend.backend() == "torch" else {"value", "text"}


@pytest.mark.parametrize("name", [name for name in CLIPS if name not in SLOW])
def test_every_clip_as_by_hand(name):
    clip, reference = CLIPS[name]
    model = nets.fitted(attach(clip, momentum=0.9))
    close(model.get_weights(), nets.by_hand(reference, momentum=0.9)[0])


@pytest.mark.parametrize(
    "how",
    [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 3}],
    ids=lambda how: next(iter(how)),
)
def test_every_way_to_run(how):
    if "torch" in keras.backend.backend() and how != {"run_eagerly": True}:
        pytest.skip("Keras on PyTorch runs step by step")
    model = nets.fitted(attach(clipwise.autoclip(30)), **how)
    close(model.get_weights(), nets.by_hand(nets.percentile(30))[0])


def test_micro_batches_are_summed_up_before_they_are_clipped():
    model = nets.fitted(attach(clipwise.autoclip(30), gradient_accumulation_steps=3, momentum=0.5))
    expected, norms = nets.by_hand(nets.percentile(30), micro=3, momentum=0.5)
    close(model.get_weights(), expected)
    report = clipwise.keras.report(model.optimizer)
    np.testing.assert_allclose(float(report.norm), norms[-1], rtol=1e-5)


def test_the_scale_of_the_loss_is_off_before_clipping():
    model = nets.fitted(attach(clipwise.clip_by_global_norm(0.5), loss_scale_factor=1024.0))
    close(model.get_weights(), nets.by_hand(nets.globally(0.5))[0])


def test_half_precision_with_its_own_scale():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        found = [
            nets.fitted(optimizer).get_weights()
            for optimizer in (
                attach(clipwise.clip_by_global_norm(0.5)),
                keras.optimizers.LossScaleOptimizer(attach(clipwise.clip_by_global_norm(0.5))),
                clipwise.keras.attach(
                    keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(nets.RATE)),
                    clipwise.clip_by_global_norm(0.5),
                ),
                keras.optimizers.SGD(nets.RATE, global_clipnorm=0.5),
            )
        ]
    finally:
        keras.config.set_dtype_policy("float32")
    for one in found[:3]:
        close(one, found[3])


def test_weight_decay_averages_and_schedule_as_with_keras_own_clip():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 2, 0.7)
    settings = {"weight_decay": 0.1, "use_ema": True, "ema_overwrite_frequency": 4}
    optimizer = keras.optimizers.AdamW(schedule, global_clipnorm=0.5, **settings)
    model = nets.fitted(
        attach(clipwise.clip_by_global_norm(0.5), keras.optimizers.AdamW, schedule, **settings)
    )
    close(model.get_weights(), nets.fitted(optimizer).get_weights())


def test_by_name():
    clip = clipwise.by_name({"*.kernel": clipwise.clip_by_norm(0.3), "*": None})

    def reference(gs, ws):
        return [nets.by_tensor(0.3)([g], None)[0] if g.ndim == 2 else g for g in gs]

    model = nets.fitted(attach(clip))
    close(model.get_weights(), nets.by_hand(reference)[0])
    assert set(clipwise.keras.report(model.optimizer).parts) == {"*.kernel"}
    assert "net.first.kernel" in clipwise.keras.report(model.optimizer).norms()
