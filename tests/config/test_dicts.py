"""Mappings with a method: what is read, and the path each mistake is reported at."""

import math
from fractions import Fraction

import numpy as np
import pytest

from clipwise import clip as c
from clipwise import thresholds as t
from clipwise.config import parse
from clipwise.errors import ArgumentError, ConfigError, ThresholdError

AUTO = {"method": "auto"}
NORM = {"method": "clip_by_norm"}


@pytest.mark.parametrize(
    ("data", "clip"),
    [
        (NORM | {"threshold": 1.0, "norm": "inf"}, c.clip_by_norm(1, math.inf)),
        (NORM | {"threshold": "inf"}, c.clip_by_norm(math.inf)),
        (NORM | {"threshold": np.float32(0.5)}, c.clip_by_norm(0.5)),
        (NORM | {"threshold": np.int64(2)}, c.clip_by_norm(2)),
        (NORM | {"threshold": Fraction(1, 4)}, c.clip_by_norm(0.25)),
        (
            NORM | {"threshold": {"policy": "percentile", "q": 90}},
            c.clip_by_norm(t.percentile(90)),
        ),
        (NORM | {"threshold": {"policy": "percentile"}}, c.clip_by_norm(t.percentile())),
        (NORM | {"threshold": "percentile(90)"}, c.clip_by_norm(t.percentile(90))),
        (NORM | {"threshold": "percentile"}, c.clip_by_norm(t.percentile())),
        (NORM | {"threshold": t.percentile(90)}, c.clip_by_norm(t.percentile(90))),
        ({"method": "global_norm", "threshold": 1}, c.clip_by_global_norm(1)),
        ({"method": "norm", "threshold": 1}, c.clip_by_norm(1)),
        ({"method": "value", "threshold": 1}, c.clip_by_value(1)),
        ({"method": "value", "low": "-inf", "high": 2}, c.clip_by_value(high=2)),
        ({"method": "agc", "ratio": 0.02}, c.adaptive_grad_clip(0.02)),
        ({"method": "autoclip", "q": 10, "window": None}, c.autoclip()),
        ({"method": "autoclip", "window": 1e3}, c.autoclip(window=1000)),
        ({"method": "clip", "per": "tensor", "norm": "rms", "threshold": 1}, c.clip_by_block_rms(1)),
        ({"method": "clip", "per": "element", "threshold": [-1, "inf"]}, c.clip_by_value(low=-1)),
        ({"method": "none"}, None),
        ({"method": None}, None),
        ({"method": "chain", "clips": ["value(5)", AUTO]}, c.chain(c.clip_by_value(5), c.auto())),
        ({"method": "chain", "clips": (c.zclip(),)}, c.chain(c.zclip())),
        (
            {"method": "by_name", "clips": {"a*": AUTO, "b*": "none", "*": None}},
            c.by_name({"a*": c.auto(), "b*": None, "*": None}),
        ),
        (
            {"method": "by_name", "clips": {"*": {"method": "chain", "clips": ["zclip"]}}},
            c.by_name({"*": c.chain(c.zclip())}),
        ),
    ],
)
def test_what_a_mapping_means(data, clip):
    assert parse(data) == clip


def test_a_clip_and_none_are_returned_as_they_are():
    clip = c.chain(c.auto())
    assert parse(clip) is clip
    assert parse(None) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"threshold": 1}, "method: missing; one of 'adagc'"),
        ({"method": "clip_by_nrom", "threshold": 1}, "method: unknown method 'clip_by_nrom'. Did you mean"),
        ({"method": 1}, "method: must be the name of a method, got 1"),
        ({"method": "percentile", "q": 1}, "method: 'percentile' is a threshold policy, not a clip"),
        ({"method": "clip_by_norm"}, "threshold: missing; clip_by_norm needs a number or a policy"),
        ({"method": "clip_by_norm", "treshold": 1}, "treshold: unknown key. Did you mean 'threshold'?"),
        (NORM | {"threshold": 1, 2: 3}, "keys must be strings, got 2"),
        (NORM | {"threshold": -1}, "threshold: must be at least 0, got -1"),
        (NORM | {"threshold": math.nan}, "threshold: must be a number, got NaN"),
        (NORM | {"threshold": "-inf"}, "threshold: must be at least 0, got -inf"),
        (NORM | {"threshold": None}, "threshold: must be a number or a policy"),
        (NORM | {"threshold": [1]}, "threshold: must be a number or a policy"),
        (
            NORM | {"threshold": "1.0"},
            "threshold: expected a number or a threshold policy",
        ),
        (NORM | {"threshold": 10**400}, "threshold: must be in the range of a floating-point number"),
        (NORM | {"threshold": 1, "norm": 0}, "norm: must be a number above 0"),
        (NORM | {"threshold": {"q": 1}}, "threshold.policy: missing; one of 'auto'"),
        (
            NORM | {"threshold": {"polcy": "mean"}},
            "threshold.polcy: unknown key. Did you mean 'policy'?",
        ),
        (
            NORM | {"threshold": {"policy": "mena"}},
            "threshold.policy: unknown policy 'mena'. Did you mean",
        ),
        (
            NORM | {"threshold": {"policy": 1}},
            "threshold.policy: must be the name of a policy",
        ),
        (
            NORM | {"threshold": {"policy": "mean", "decay": 2}},
            "threshold.decay: must be at least 0",
        ),
        (
            NORM | {"threshold": {"policy": "mean", 1: 2}},
            "threshold: keys must be strings, got 1",
        ),
        (NORM | {"threshold": {"policy": "schedule"}}, "threshold.function: missing"),
        (
            NORM | {"threshold": {"policy": "schedule", "function": "f"}},
            "linear, cosine or exponential",
        ),
        ({"method": "clip", "threshold": 1, "per": "layer"}, "per: must be 'element' or 'unit'"),
        ({"method": "clip", "threshold": [2, 1], "per": "element"}, "low must not exceed high"),
        (
            {"method": "clip", "threshold": [1, "x"], "per": "element"},
            "threshold[1]: must be a number, got 'x'",
        ),
        (
            {"method": "clip", "threshold": [1, 2, 3], "per": "element"},
            "threshold: must be a number or a pair",
        ),
        ({"method": "value", "low": 2, "high": 1}, "low: must not exceed high"),
        ({"method": "value"}, "clip_by_value needs a threshold, or low, high, or both"),
        ({"method": "value", "threshold": "percentile(10)"}, "value clipping takes a number"),
        ({"method": "autoclip", "window": True}, "window: must be a whole number, got True"),
        ({"method": "none", "threshold": 1}, "threshold: unknown key"),
        ({"method": "chain"}, "clips: missing; chain needs the clips it combines"),
        ({"method": "chain", "clips": "auto"}, "clips: must be a list of clips, got 'auto'"),
        ({"method": "chain", "clips": []}, "clips: chain needs at least one clip"),
        ({"method": "chain", "clips": ["auto", None]}, "clips[1]: a chain holds clips"),
        ({"method": "chain", "clips": ["auto", 1]}, "clips[1]: the number 1 alone"),
        ({"method": "chain", "clips": ["auto", {"threshold": 1}]}, "clips[1].method: missing"),
        ({"method": "chain", "clip": ["auto"]}, "clip: unknown key. Did you mean 'clips'?"),
        ({"method": "by_name", "clips": ["auto"]}, "clips: must map patterns of parameter names to clips"),
        ({"method": "by_name", "clips": {1: "auto"}}, "clips: a pattern of names must be a string, got 1"),
        ({"method": "by_name", "clips": {"": "auto"}}, "a pattern is a non-empty string"),
        (
            {"method": "by_name", "clips": {"a.*": {"method": "norm", "threshold": -1}}},
            "clips['a.*'].threshold: must be at least 0, got -1",
        ),
        (
            1.0,
            "the number 1.0 alone does not say what it bounds; write for example 'clip_by_global_norm(1.0)'",
        ),
        (True, "expected a clip"),
        (["auto"], "expected a clip"),
    ],
)
def test_mistakes_begin_with_their_path(data, message):
    with pytest.raises(ConfigError) as caught:
        parse(data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        ({"method": "norm", "threshold": -1}, ThresholdError),
        ({"method": "norm", "threshold": 1, "norm": -1}, ArgumentError),
    ],
)
def test_the_constructors_own_error_is_the_cause(data, cause):
    with pytest.raises(ConfigError) as caught:
        parse(data)
    assert isinstance(caught.value.__cause__, cause)


def test_a_mapping_that_holds_itself_is_refused():
    data = {"method": "chain"}
    data["clips"] = [data, data]
    with pytest.raises(ConfigError, match="nested deeper than 64 levels"):
        parse(data)
    settings = {}
    settings["gradient_clipping"] = settings
    with pytest.raises(ConfigError, match="nested deeper"):
        parse(settings)


def test_a_value_that_stands_in_many_places_is_read_a_limited_number_of_times():
    clip = "auto"
    for _ in range(8):
        clip = {"method": "chain", "clips": [clip] * 10}
    with pytest.raises(ConfigError, match="holds more than 10,000 values"):
        parse(clip)
    with pytest.raises(ConfigError, match="holds more than 10,000 values"):
        parse({"clipnorm": 1.0} | dict.fromkeys(map(str, range(10_000))))


def test_the_mapping_is_left_as_it_was():
    data = {"gradient_clipping": {"method": "chain", "clips": [{"method": "norm", "threshold": "mean(2)"}]}}
    before = repr(data)
    parse(data)
    assert repr(data) == before
