"""Clips inside larger settings, and the settings of other libraries."""

import pytest

from clipwise import clip as c
from clipwise.config import parse
from clipwise.errors import ConfigError

NORM = {"method": "clip_by_norm", "threshold": 1.0}
CONTRADICTS = "contradicts .*; keep one of the two"

# What keras.optimizers.Adam(clipnorm=1.0).get_config() holds in Keras 3.
KERAS = {
    "name": "adam",
    "learning_rate": 0.001,
    "weight_decay": None,
    "clipnorm": 1.0,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "loss_scale_factor": None,
    "beta_1": 0.9,
    "epsilon": 1e-07,
}
DEEPSPEED = {
    "train_micro_batch_size_per_gpu": 8,
    "zero_optimization": {"stage": 2},
    "fp16": {"enabled": True},
    "gradient_accumulation_steps": 4,
    "gradient_clipping": 1.0,
    "prescale_gradients": False,
}


@pytest.mark.parametrize(
    ("settings", "clip"),
    [
        ({"gradient_clipping": NORM}, c.clip_by_norm(1)),
        ({"gradient_clipping": "clip_by_norm(1.0)", "optimizer": "Adam"}, c.clip_by_norm(1)),
        ({"gradient_clipping": "auto"}, c.auto()),
        ({"gradient_clipping": c.auto()}, c.auto()),
        ({"gradient_clipping": "none"}, None),
        ({"gradient_clipping": None}, None),
        (
            {
                "model_type": "LSTM",
                "task": "Sequence_Classification",
                "training_parameters": {"optimizer": "Adam", "gradient_clipping": NORM},
            },
            c.clip_by_norm(1),
        ),
        ({"training_parameters": {"max_grad_norm": 2.0, "learning_rate": 0.1}}, c.clip_by_global_norm(2)),
        ({"training_parameters": {"optimizer": "Adam"}, "max_grad_norm": 2.0}, c.clip_by_global_norm(2)),
        ({"gradient_clipping": {"clipnorm": 1.0}}, c.clip_by_norm(1)),
        (KERAS, c.clip_by_norm(1)),
        (KERAS | {"clipnorm": None}, None),
        (KERAS | {"clipnorm": None, "global_clipnorm": 2.0}, c.clip_by_global_norm(2)),
        (KERAS | {"clipnorm": None, "clipvalue": 0.5}, c.clip_by_value(0.5)),
        ({"clipnorm": 0}, None),
        ({"clipvalue": "inf"}, c.clip_by_value(float("inf"))),
        ({"max_grad_norm": 1.0, "learning_rate": 5e-5, "optim": "adamw_torch"}, c.clip_by_global_norm(1)),
        ({"max_grad_norm": 0.5, "clip_range": 0.2, "clip_range_vf": None}, c.clip_by_global_norm(0.5)),
        ({"max_grad_norm": 0}, None),
        ({"max_grad_norm": None}, None),
        ({"gradient_clip_val": 0.5}, c.clip_by_global_norm(0.5)),
        ({"gradient_clip_val": 0.5, "gradient_clip_algorithm": None}, c.clip_by_global_norm(0.5)),
        ({"gradient_clip_val": 0.5, "gradient_clip_algorithm": "norm"}, c.clip_by_global_norm(0.5)),
        (
            {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value", "max_epochs": 3},
            c.clip_by_value(0.5),
        ),
        ({"gradient_clip_val": None, "gradient_clip_algorithm": None}, None),
        ({"gradient_clip_val": 0, "gradient_clip_algorithm": "value"}, None),
        (DEEPSPEED, c.clip_by_global_norm(1)),
        (DEEPSPEED | {"gradient_clipping": 0.0}, None),
        ({"gradient_clipping": None, "max_grad_norm": 1.0, 7: "seven"}, c.clip_by_global_norm(1)),
    ],
)
def test_what_settings_mean(settings, clip):
    assert parse(settings) == clip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gradient_clipping": NORM | {"threshold": -1}},
            "gradient_clipping.threshold: must be at least 0, got -1",
        ),
        (
            {"gradient_clipping": {"treshold": 1, "method": "norm"}},
            "gradient_clipping.treshold: unknown key. Did you mean 'threshold'?",
        ),
        ({"gradient_clipping": {"threshold": 1}}, "gradient_clipping.method: missing"),
        (
            {"gradient_clipping": "clip_by_norm(-1)"},
            "gradient_clipping.threshold: must be at least 0, got -1",
        ),
        ({"gradient_clipping": "clip_by_nrom(1)"}, "gradient_clipping: unknown method 'clip_by_nrom'"),
        ({"gradient_clipping": -1}, "gradient_clipping: must be at least 0, got -1"),
        ({"gradient_clipping": False}, "gradient_clipping: expected a clip"),
        ({"gradient_clipping": {}}, "gradient_clipping: no clipping found"),
        (
            {
                "training_parameters": {
                    "gradient_clipping": {"method": "chain", "clips": ["auto", "value(-1)"]}
                }
            },
            "training_parameters.gradient_clipping.clips[1].threshold: must be at least 0, got -1",
        ),
        ({"training_parameters": 1}, "training_parameters: must be a mapping, got 1"),
        ({"training_parameters": {"optimizer": "Adam"}}, "training_parameters: no clipping found"),
        (
            {"training_parameters": {"gradient_cliping": NORM}},
            "training_parameters.gradient_cliping: unknown key. Did you mean 'gradient_clipping'?",
        ),
        ({"training_parameters": NORM}, "training_parameters: no clipping found; expected one of 'gradient"),
        ({"gradient_cliping": NORM}, "gradient_cliping: unknown key. Did you mean 'gradient_clipping'?"),
        ({"methd": "norm", "treshold": 1}, "methd: unknown key. Did you mean 'method'?"),
        ({"optimizer": "Adam"}, "no clipping found; expected 'method' or one of 'gradient_clipping'"),
        ({}, "no clipping found"),
        ({"clipnorm": "1"}, "clipnorm: must be a number, got '1'"),
        ({"clipnorm": True}, "clipnorm: must be a number, got True"),
        ({"clipnorm": float("nan")}, "clipnorm: must be a number, got NaN"),
        ({"max_grad_norm": -1}, "max_grad_norm: must be at least 0, got -1"),
        ({"max_grad_norm": 10**400}, "max_grad_norm: must be in the range of a floating-point number"),
        (
            {"gradient_clip_algorithm": "norm"},
            "gradient_clip_algorithm: says how to clip, but 'gradient_clip_val'",
        ),
        (
            {"gradient_clip_val": 1, "gradient_clip_algorithm": "l2"},
            "gradient_clip_algorithm: must be 'norm' or 'value', got 'l2'",
        ),
        (DEEPSPEED | {"gradient_clipping": "auto"}, "stands for the Trainer's max_grad_norm"),
    ],
)
def test_mistakes_begin_with_their_path(settings, message):
    with pytest.raises(ConfigError) as caught:
        parse(settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"clipnorm": 1.0, "clipvalue": 0.5}, ("clipnorm", "clipvalue")),
        ({"clipnorm": 1.0, "global_clipnorm": 0.5}, ("clipnorm", "global_clipnorm")),
        ({"clipnorm": 1.0, "max_grad_norm": 1.0}, ("clipnorm", "max_grad_norm")),
        ({"max_grad_norm": 0, "gradient_clip_val": 1.0}, ("max_grad_norm", "gradient_clip_val")),
        ({"gradient_clipping": 1.0, "max_grad_norm": 1.0}, ("gradient_clipping", "max_grad_norm")),
        ({"gradient_clipping": "none", "max_grad_norm": 1.0}, ("gradient_clipping", "max_grad_norm")),
        (
            {"gradient_clipping": NORM, "training_parameters": {"gradient_clipping": NORM}},
            ("gradient_clipping", "training_parameters.gradient_clipping"),
        ),
    ],
)
def test_two_settings_contradict_each_other_and_both_are_named(settings, names):
    with pytest.raises(ConfigError, match=CONTRADICTS) as caught:
        parse(settings)
    before, after = str(caught.value).split(" contradicts ")
    assert {before.rstrip(":"), after.split(";")[0]} == set(names)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"threshold": 1.0}, "threshold: a key of a clip beside"),
        ({"method": "norm"}, "method: a key of a clip beside"),
        ({"norm": "inf"}, "norm: a key of a clip beside"),
        (
            {"clip_norm": 1.0},
            "clip_norm: unknown key. Did you mean 'clipnorm', the norm of each tensor as in Keras, or"
            " 'global_clipnorm', the global norm as in fairseq's clip_norm?",
        ),
        ({"gradient_clip_value": 1.0}, "gradient_clip_value: unknown key. Did you mean 'gradient_clip_val'?"),
    ],
)
@pytest.mark.parametrize("settings", [{"max_grad_norm": 1.0}, {"gradient_clipping": "auto"}])
def test_what_looks_like_clipping_is_not_ignored(settings, other, message):
    for whole in (settings | other, {"training_parameters": settings | other}):
        with pytest.raises(ConfigError) as caught:
            parse(whole)
        assert message in str(caught.value)


HYDRA = {"_target_": "clipwise.clip_by_norm", "threshold": 1.0}


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        (
            {"trainer": {"gradient_clip_val": 0.5}},
            "there is trainer.gradient_clip_val: pass that part alone, as in parse(settings['trainer'])",
        ),
        (
            {"optimizers": [{"name": "a"}, {"config": KERAS}]},
            "there is optimizers[1].config.clipnorm: pass that part alone, as in"
            " parse(settings['optimizers'][1]['config'])",
        ),
        ({"a": {"clipnorm": 1}, "b": {"max_grad_norm": 2}}, "there is a.clipnorm and b.max_grad_norm: pass"),
        ({"optimization": {"clip_norm": 0.1}}, "there is optimization.clip_norm: pass that part alone"),
        ({"clip": NORM, "layer": {"method": "mean"}}, "there is clip.method: pass that part alone"),
        (
            {"training_parameters": {"optimizer": {"clipnorm": 1}}},
            "training_parameters.optimizer.clipnorm: pass",
        ),
    ],
)
def test_a_nested_setting_is_named_and_how_to_pass_it(settings, hint):
    with pytest.raises(ConfigError, match="no clipping found; expected") as caught:
        parse(settings)
    assert hint in str(caught.value)


def test_what_is_nested_and_sets_nothing_is_not_named():
    around = {"trainer": {"gradient_clip_val": None}}
    around["trainer"]["self"] = around
    with pytest.raises(ConfigError, match=r"'gradient_clip_algorithm'$"):
        parse(around)


def test_fairseqs_clip_norm_is_never_taken_for_that_of_keras():
    with pytest.raises(ConfigError, match=r"'clipnorm', the norm of each tensor .* 'global_clipnorm'"):
        parse({"clip_norm": 0.1})


@pytest.mark.parametrize("settings", [HYDRA, {"gradient_clipping": HYDRA}])
def test_what_hydra_has_yet_to_make_says_how(settings):
    with pytest.raises(
        ConfigError, match=r"_target_: 'clipwise\.clip_by_norm' is for Hydra .*'_convert_: all'"
    ):
        parse(settings)


def test_a_target_of_others_is_theirs():
    assert parse({"_target_": "lightning.Trainer", "gradient_clip_val": 1.0}) == c.clip_by_global_norm(1)
