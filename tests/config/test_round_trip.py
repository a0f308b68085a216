"""Every clip can be written and read back without loss, and what cannot be written says so."""

import contextlib
import inspect
import json
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipwise import clip as c
from clipwise import thresholds as t
from clipwise.checks import SMALLEST
from clipwise.config import parse, to_dict, to_string
from clipwise.errors import ConfigError
from tests.config.cases import STRINGS

# No deadline: how long an example takes says nothing about it on a shared machine.
QUICK = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])

POSITIVE = st.floats(min_value=SMALLEST, allow_nan=False, allow_infinity=False)
BOUND = st.floats(min_value=0, allow_nan=False)
FRACTION = st.floats(min_value=0, max_value=1, exclude_max=True)
PERCENT = st.floats(min_value=0, max_value=100)
COUNT = st.integers(min_value=10, max_value=10**6)
NORM = st.one_of(st.just("rms"), st.just(math.inf), POSITIVE)

SCHEDULES = st.one_of(
    *(st.builds(kind, POSITIVE, POSITIVE, COUNT) for kind in (t.linear, t.cosine, t.exponential))
)
POLICIES = st.one_of(
    SCHEDULES,
    st.builds(t.percentile, PERCENT, COUNT),
    st.builds(t.zscore, POSITIVE, FRACTION, COUNT),
    st.builds(t.relative, BOUND, POSITIVE),
    st.builds(t.tensor_average, POSITIVE, FRACTION, COUNT, POSITIVE),
    st.builds(t.mean, POSITIVE, FRACTION),
    st.builds(t.fixed, BOUND),
    st.builds(t.quantile_ema, FRACTION, st.floats(0.01, 1), POSITIVE),
    st.builds(t.reduce_on_instability, st.just(1.0), st.floats(0.1, 0.9), COUNT, st.floats(0.01, 0.5), COUNT),
)
AUTO = st.builds(t.auto, share=POSITIVE, window=COUNT)
VALUE_CLIPS = st.one_of(
    st.builds(c.clip_by_value, st.one_of(BOUND, SCHEDULES)),
    st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False))
    .filter(lambda pair: min(pair) < math.inf and max(pair) > -math.inf)
    .map(lambda pair: c.clip_by_value(low=min(pair), high=max(pair))),
)
SINGLES = st.one_of(
    VALUE_CLIPS,
    st.builds(c.Clip, st.one_of(BOUND, POLICIES), st.sampled_from(["unit", "tensor", "global"]), NORM),
    st.builds(c.Clip, AUTO, st.sampled_from(["tensor", "global"]), NORM),
    st.builds(c.autoclip, PERCENT, NORM, window=st.one_of(st.none(), COUNT)),
    st.builds(c.zclip, POSITIVE, NORM, decay=FRACTION, warmup=COUNT),
    st.builds(c.adagc, POSITIVE, NORM, decay=FRACTION, warmup=COUNT),
    st.builds(c.norm_growth_limit, POSITIVE, NORM),
    st.builds(c.adaptive_grad_clip, BOUND, POSITIVE, NORM),
    st.just(c.auto()),
)
SKIPS = st.one_of(
    st.builds(c.skip_spikes, POSITIVE, st.integers(2, 500), NORM, patience=COUNT),
    st.builds(c.Clip, st.one_of(BOUND, POLICIES), st.just("global"), NORM, st.just("skip"), COUNT),
)
SKIPPING = st.one_of(SKIPS, st.builds(c.chain, SKIPS, SINGLES))
CLIPS = SKIPPING | st.recursive(
    SINGLES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda clips: c.chain(*clips)),
        st.dictionaries(st.text(min_size=1), st.none() | inner, min_size=1, max_size=3).map(c.by_name),
    ),
    max_leaves=5,
)

# Python itself is the independent reader of the strings. `auto` is left out: it is a preset and a policy.
NAMESPACE = {name: getattr(c, name) for name in c.__all__} | {name: getattr(t, name) for name in t.__all__}
NAMESPACE |= {"clip": c.Clip, "inf": math.inf, "none": None}


@QUICK
@given(CLIPS)
def test_every_clip_survives_json_and_string(clip):
    text = json.dumps(to_dict(clip), allow_nan=False)
    assert parse(json.loads(text)) == clip
    assert parse(to_string(clip)) == clip
    if "auto(" not in to_string(clip):
        assert eval(to_string(clip), {"__builtins__": {}}, dict(NAMESPACE)) == clip


TOKENS = ["clip_by_norm", "clip", "chain", "by_name", "auto", "none", "percentile", "inf", "norm", "'a'"]
TOKENS += ["(", ")", "{", "}", "[", "]", ",", ":", "=", "-", "*", "1", "0.5", "\n", "\\", "é", "\0"]


@QUICK
@given(st.text() | st.lists(st.sampled_from(TOKENS)).map("".join))
def test_any_text_is_a_clip_or_a_config_error(text):
    with contextlib.suppress(ConfigError):
        assert parse(to_string(parse(text))) == parse(text)


WORDS = ["auto", "inf", "clip_by_norm", "chain", "x"]
KEYS = ["method", "threshold", "clips", "policy", "gradient_clipping", "clipnorm", "norm"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS)
DATA = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(DATA)
def test_any_data_is_a_clip_or_a_config_error(data):
    with contextlib.suppress(ConfigError):
        assert parse(to_dict(parse(data))) == parse(data)


def _exported(module, is_wanted):
    return [getattr(module, name) for name in module.__all__ if is_wanted(getattr(module, name))]


POLICY_TYPES = _exported(t, lambda o: inspect.isclass(o) and o.__name__.islower() and o is not t.schedule)
PRESETS = _exported(c, lambda o: inspect.isfunction(o) and o not in (c.chain, c.by_name))


@pytest.mark.parametrize("make", POLICY_TYPES + PRESETS, ids=lambda make: make.__name__)
def test_every_exported_name_can_be_written(make):
    """With its required arguments, and with every argument; a new policy needs no line here."""
    parameters = inspect.signature(make).parameters.values()
    required = {p.name: 1 for p in parameters if p.default is p.empty or p.name == "threshold"}
    full = {p.name: p.default for p in parameters if p.default not in (p.empty, None)} | required
    for arguments in (required, full):
        made = make(**arguments)
        clip = made if isinstance(made, c.Clip) else c.clip_by_norm(made)
        assert parse(to_dict(clip)) == parse(to_string(clip)) == clip
        given = {"method": make.__name__} | arguments
        if make in POLICY_TYPES:
            given = {"method": "clip_by_norm", "threshold": {"policy": make.__name__} | arguments}
        assert parse(given) == clip


@pytest.mark.parametrize("clip", [clip for _, clip in STRINGS])
def test_dicts_hold_the_canonical_form(clip):
    data = to_dict(clip)
    assert to_dict(parse(data)) == data


def test_dicts_use_preset_names_and_leave_out_defaults():
    assert to_dict(None) is None
    assert to_dict(c.Clip(t.percentile(10))) == {"method": "autoclip"}
    assert to_dict(c.Clip(t.zscore(3), norm=1)) == {"method": "zclip", "z": 3.0, "norm": 1.0}
    assert to_dict(c.Clip(1, per="tensor", norm="inf")) == {
        "method": "clip_by_norm",
        "threshold": 1.0,
        "norm": "inf",
    }
    assert to_dict(c.by_name({"b": c.clip_by_norm(t.mean()), "a": None})) == {
        "method": "by_name",
        "clips": {"b": {"method": "clip_by_norm", "threshold": {"policy": "mean"}}, "a": None},
    }


def test_the_order_of_patterns_is_kept():
    clip = c.by_name({"z*": None, "a*": c.auto(), "*": None})
    assert list(to_dict(clip)["clips"]) == ["z*", "a*", "*"]
    assert parse(json.loads(json.dumps(to_dict(clip)))).parts == clip.parts


@dataclass(frozen=True)
class homemade:
    needs: ClassVar[frozenset[str]] = frozenset()
    wants: ClassVar[frozenset[str]] = frozenset()
    remembers: ClassVar[bool] = False
    watches_norm: ClassVar[bool] = False

    def init(self, xp, shape):
        return ()

    def update(self, xp, state, seen):
        return 1.0, state


def _deep():
    clip = c.auto()
    for _ in range(40):
        clip = c.chain(clip)
    return clip


@pytest.mark.parametrize("write", [to_dict, to_string])
@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (c.chain(c.clip_by_norm(t.schedule(lambda step: 1.0))), "clips[0].threshold.function: "),
        (c.clip_by_norm(t.schedule(lambda step: 1.0)), "linear, cosine or exponential"),
        (c.clip_by_norm(homemade()), "threshold: homemade() is not of clipwise.thresholds"),
        (c.ByName((("a", None), ("a", c.auto()))), "clips.a: this pattern is given twice"),
        (_deep(), "nested deeper than 64 levels"),
        (1.0, "expected a clip such as clip_by_global_norm(1.0), got 1.0"),
    ],
)
def test_what_cannot_be_written_says_so(write, clip, message):
    with pytest.raises(ConfigError) as caught:
        write(clip)
    assert message in str(caught.value)
