"""The description itself: what it accepts, what it refuses, and how it compares."""

import copy
import math
import pickle

import numpy as np
import pytest

import clipwise
from clipwise import Clip, thresholds
from clipwise.errors import ArgumentError, ClipwiseError, ThresholdError
from clipwise.namespace import namespace_of

PRESETS = [
    clipwise.clip_by_value(0.5),
    clipwise.clip_by_value(low=-1.0, high=2.0),
    clipwise.clip_by_norm(1.0),
    clipwise.clip_by_global_norm(1.0, math.inf),
    clipwise.clip_by_block_rms(1.0),
    clipwise.adaptive_grad_clip(0.01),
    clipwise.autoclip(10),
    clipwise.zclip(),
    clipwise.adagc(),
    clipwise.norm_growth_limit(),
    clipwise.skip_spikes(),
    clipwise.stable_adamw(),
    clipwise.auto(),
    clipwise.chain(clipwise.clip_by_value(5.0), clipwise.clip_by_global_norm(1.0)),
    clipwise.by_name({"encoder.*": clipwise.clip_by_norm(0.5), "*": None}),
]


@pytest.mark.parametrize("clip", PRESETS, ids=repr)
def test_a_clip_is_a_value(clip):
    """Equal to its copies, hashable, and nothing that could be changed."""
    assert pickle.loads(pickle.dumps(clip)) == copy.deepcopy(clip) == clip
    assert hash(copy.deepcopy(clip)) == hash(clip)
    with pytest.raises(AttributeError):
        clip.threshold = 2.0


def test_presets_are_thin():
    assert clipwise.clip_by_value(0.5) == Clip(0.5, per="element")
    assert clipwise.clip_by_value(high=2.0) == Clip((-math.inf, 2.0), per="element")
    assert clipwise.clip_by_norm(1, "inf") == Clip(1.0, per="tensor", norm=math.inf)
    assert clipwise.clip_by_block_rms(1.0) == Clip(1.0, per="tensor", norm="rms")
    assert clipwise.autoclip(10, 1.0, window=5) == Clip(thresholds.percentile(10, 5), norm=1.0)
    assert clipwise.adaptive_grad_clip() == Clip(thresholds.relative(0.01, 1e-3), per="unit")
    assert clipwise.clip_by_global_norm(np.float32(0.5)) == clipwise.clip_by_global_norm(0.5)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Clip(-1), ThresholdError, "threshold must be at least 0, got -1"),
        (lambda: Clip(1, action="leave"), ArgumentError, "action must be one of clip, skip, got 'leave'"),
        (lambda: Clip(1, action="skip", patience=0), ArgumentError, "patience must be a whole number"),
        (lambda: Clip(1, patience=3), ArgumentError, 'patience is for action="skip", got patience=3'),
        (lambda: Clip(1, "tensor", action="skip"), ArgumentError, "per must be \"global\", got 'tensor'"),
        (
            lambda: clipwise.chain(Clip(1), clipwise.chain(clipwise.skip_spikes())),
            ArgumentError,
            r"first, as in chain\(skip_spikes\(\), clip_by_global_norm\(1.0\)\)",
        ),
        (
            lambda: clipwise.by_name({"a*": clipwise.chain(clipwise.skip_spikes())}),
            ArgumentError,
            r"'a\*'.* as in chain\(skip_spikes\(\), by_name\(\{'a\*': \.\.\.\}\)\)",
        ),
        (lambda: Clip(math.nan), ThresholdError, "got NaN"),
        (lambda: Clip("1.0"), ThresholdError, "threshold must be a number, got '1.0'"),
        (lambda: Clip(True), ThresholdError, "got True"),
        (lambda: Clip(10**400), ThresholdError, "must be a single number"),
        (lambda: Clip(thresholds.percentile), ThresholdError, r"write percentile\(\.\.\.\)"),
        (lambda: Clip({1.0}), ThresholdError, "it lacks init, needs, wants, remembers, watches_norm"),
        (lambda: Clip((0.0, 1.0)), ThresholdError, "only bounds single entries"),
        (lambda: Clip((1.0, 0.0), per="element"), ThresholdError, "low=1 and high=0"),
        (lambda: Clip((1.0,), per="element"), ThresholdError, r"a pair \(low, high\)"),
        (lambda: Clip((math.nan, 0.0), per="element"), ThresholdError, "low must be a number, got NaN"),
        (lambda: Clip(1.0, per="layer"), ArgumentError, "element, unit, tensor, global, got 'layer'"),
        (lambda: Clip(1.0, norm=0), ArgumentError, "norm must be a number above 0"),
        (lambda: Clip(1.0, norm=np.array([1.0, 2.0])), ArgumentError, "norm must be"),
        (lambda: Clip(1.0, norm="l2"), ArgumentError, "got 'l2'"),
        (lambda: Clip(1.0, per="element", norm=1.0), ArgumentError, "by its modulus"),
        (lambda: Clip(thresholds.percentile(), per="element"), ArgumentError, "for every single entry"),
        (lambda: Clip(thresholds.percentile(), per="unit"), ArgumentError, "give a percentile a window"),
        (lambda: clipwise.clip_by_value(), ThresholdError, "needs a threshold, or low, high"),
        (lambda: clipwise.clip_by_value(1.0, low=0.0), ThresholdError, "not both"),
        (lambda: clipwise.clip_by_value((0.0, 1.0)), ThresholdError, r"clip_by_value\(low="),
        (lambda: clipwise.chain(), ArgumentError, "at least one"),
        (lambda: clipwise.chain(1.0), ArgumentError, r"chain: expected a clip .* got 1\.0"),
        (lambda: clipwise.by_name({}), ArgumentError, "at least one pattern"),
        (lambda: clipwise.by_name({"a": 1.0}), ArgumentError, "by_name: 'a': expected a clip"),
        (lambda: clipwise.by_name({1: None}), ArgumentError, "a non-empty string, got 1"),
        (lambda: clipwise.by_name([("a", None)]), ArgumentError, "takes a mapping"),
    ],
)
def test_what_is_refused_and_how(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert isinstance(caught.value, ClipwiseError)
    assert isinstance(caught.value, ValueError)


def test_a_namespace_can_be_copied():
    xp = namespace_of(np.zeros(1, dtype=np.float32))
    for other in (copy.deepcopy(xp), pickle.loads(pickle.dumps(xp))):
        assert other.zeros(()).dtype == np.float32


@pytest.mark.parametrize("side", [{"low": math.inf}, {"high": -math.inf}])
def test_a_range_without_a_finite_number_is_refused(side):
    with pytest.raises(ThresholdError, match="no finite number"):
        clipwise.clip_by_value(**side)
