"""The string form: what is read, that nothing is evaluated, and what each mistake is told."""

import builtins
import math

import pytest

from clipwise import clip as c
from clipwise import thresholds as t
from clipwise.config import parse, to_string
from clipwise.errors import ConfigError
from tests.config.cases import STRINGS


@pytest.mark.parametrize(("text", "clip"), STRINGS)
def test_canonical_strings_are_read_and_written(text, clip):
    assert parse(text) == clip
    assert to_string(clip) == text


@pytest.mark.parametrize(
    ("text", "clip"),
    [
        ("auto", c.auto()),
        (" zclip ", c.zclip()),
        ("None", None),
        ("clip_by_global_norm(percentile(10))", c.autoclip(10)),
        ("clip_by_global_norm(percentile)", c.autoclip(10)),
        ("clip_by_global_norm('percentile(10)')", c.autoclip(10)),
        ("clip_by_norm(threshold=1e-3, norm=+inf)", c.clip_by_norm(0.001, math.inf)),
        ("clip_by_norm('inf', norm='inf')", c.clip_by_norm(math.inf, math.inf)),
        ("clip(percentile(10), per='tensor', norm='rms')", c.clip_by_block_rms(t.percentile(10))),
        ("clip(1, per=tensor, norm=rms)", c.clip_by_block_rms(1)),
        ("clip((-1, 2), per='element')", c.clip_by_value(low=-1, high=2)),
        ("clip([-inf, 2], 'element')", c.clip_by_value(high=2)),
        ("value(0.5)", c.clip_by_value(0.5)),
        ("norm(1)", c.clip_by_norm(1)),
        ("global_norm(1)", c.clip_by_global_norm(1)),
        ("block_rms(1)", c.clip_by_block_rms(1)),
        ("agc", c.adaptive_grad_clip()),
        ("autoclip(10, window=None)", c.autoclip()),
        ("chain(\n  clip_by_value(5),\n  auto\n)", c.chain(c.clip_by_value(5), c.auto())),
        ("by_name({'head.*': None, '*': auto})", c.by_name({"head.*": None, "*": c.auto()})),
    ],
)
def test_other_ways_to_write_a_clip(text, clip):
    assert parse(text) == clip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  ", "the string is empty; expected a clip such as 'clip_by_global_norm(1.0)', or 'none'"),
        ("clip_by_nrom(1)", "unknown method 'clip_by_nrom'. Did you mean 'clip_by_norm'?"),
        ("percentile(10)", "write for example clip_by_global_norm(percentile(...))"),
        ("clip_by_norm(zclip)", "threshold: 'zclip' is a clip; expected a number or a policy"),
        ("clip_by_norm(percentil)", "threshold: unknown policy 'percentil'. Did you mean 'percentile'?"),
        ("clip_by_norm(percentile(200))", "threshold.q: must be within [0, 100], got 200"),
        ("clip_by_norm(auto(floor=2))", "threshold: floor and down are at most 1"),
        ("clip_by_norm(-1)", "threshold: must be at least 0, got -1"),
        ("clip_by_norm(nan)", "threshold: must be a number, got NaN"),
        ("clip_by_norm(True)", "threshold: must be a number or a policy such as 'percentile(10)', got True"),
        ("clip_by_norm", "threshold: missing; clip_by_norm needs a number or a policy"),
        ("clip_by_norm(1, 2, 3)", "clip_by_norm takes 2 positional arguments at most, got 3"),
        ("clip_by_norm(1, treshold=2)", "treshold: unknown key. Did you mean 'threshold'?"),
        ("clip_by_norm(1, threshold=2)", "threshold: this argument is given twice"),
        ("clip_by_norm(1, norm='l2')", "norm: must be a number or 'rms', got 'l2'"),
        ("clip_by_norm(1, norm=2, norm=3)", "norm: this argument is given twice"),
        ("clip_by_norm(*a)", "not unpacked with a star"),
        ("clip_by_norm(**a)", "not unpacked with a star"),
        ("clip_by_norm(1 + 1)", "threshold: expected a number or a threshold policy"),
        ("clip_by_norm(--1)", "got '--1'"),
        ("clip_by_norm(-True)", "got '-True'"),
        ("clip_by_norm(1j)", "got '1j'"),
        ("clip_by_norm(b'1')", "threshold: expected a number"),
        ("clip_by_norm(1", "cannot read 'clip_by_norm(1': '(' was never closed (column 13)"),
        ("chain(auto,\n auto", "(line 1, column 6)"),
        ("1.0", "the number 1.0 alone does not say what it bounds"),
        ("clips/mine.yaml", "a file is read with clipwise.config.load"),
        ("clipwise.auto()", "expected a name before the bracket, got 'clipwise.auto'"),
        ("auto; auto", "cannot read"),
        ("auto\0", "null bytes"),
        ("chain()", "clips: chain needs at least one clip"),
        ("chain(auto, none)", "clips[1]: a chain holds clips"),
        ("chain(clips=1)", "chain takes no keyword arguments, got clips"),
        ("chain(auto, clip_by_norm(-1))", "clips[1].threshold: must be at least 0, got -1"),
        ("by_name({})", "clips: by_name needs at least one pattern"),
        ("by_name(auto)", "by_name takes one mapping"),
        ("by_name({**a})", "clips: a pattern of parameter names is a quoted string, got **"),
        ("by_name({1: auto})", "clips: a pattern of parameter names is a quoted string, got '1'"),
        ("by_name({'a': none, 'a': auto})", "clips.a: this pattern is given twice"),
        ("by_name({'a.*': clip_by_norm(-1)})", "clips['a.*'].threshold: must be at least 0, got -1"),
        (r"by_name({'a\d': auto})", "invalid escape sequence"),
        ("clip_by_norm(schedule(f))", "use linear, cosine or exponential"),
        ("clip_by_norm(linear(5, 1, 2.5))", "threshold.steps: must be a whole number, got 2.5"),
        ("clip_by_norm(linear(5, 1))", "threshold.steps: missing; linear needs a whole number"),
        ("clip_by_value(1, low=0)", "either a threshold or low and high"),
    ],
)
def test_mistakes_name_the_place_and_what_is_allowed(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 9_000,
        "-" * 9_000 + "1",
        "a." * 9_000 + "a",
        "1+" * 9_000 + "1",
        "not " * 4_000 + "a",
        "chain(" * 60 + "auto" + ")" * 60,
        "by_name({'a': " * 60 + "auto" + "})" * 60,
        "clip_by_norm(" * 150 + ")" * 150,
        "clip_by_norm(" + "[" * 150 + "]" * 150 + ")",
        "clip_by_norm(" + "9" * 5_000 + ")",
        "clip_by_norm(" + "9" * 4_000 + ")",
        "x" * 1_000_000,
        "auto" + " " * 1_000_000,
        "by_name({'" + "\ud800" + "': auto})",
    ],
    ids=range(14),
)
def test_hostile_texts_are_refused_with_a_short_message(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert len(str(caught.value)) < 600


def test_nothing_is_evaluated(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a configuration was evaluated")

    real_compile = builtins.compile

    def only_parse(source, filename, mode, flags=0, *args, **kwargs):
        assert flags & 0x400, "compiled to code"  # ast.PyCF_ONLY_AST
        return real_compile(source, filename, mode, flags, *args, **kwargs)

    monkeypatch.setattr(builtins, "eval", forbidden)
    monkeypatch.setattr(builtins, "exec", forbidden)
    monkeypatch.setattr(builtins, "compile", only_parse)
    assert parse("clip_by_norm(1.0)") == c.clip_by_norm(1.0)
    for text in (
        "__import__('os').getcwd()",
        "print('x')",
        "(lambda: 1)()",
        "[auto for _ in range(9)]",
        "clip_by_norm(print(1))",
        "clip_by_norm(f'{1}')",
        "by_name({print(1): auto})",
        "clip_by_norm((x := 1))",
        "auto if True else zclip",
    ):
        with pytest.raises(ConfigError):
            parse(text)


def test_a_string_too_long_to_be_read_is_not_written():
    clip = c.by_name({f"layer.{i}.weight": c.clip_by_norm(1) for i in range(1000)})
    with pytest.raises(ConfigError, match="use to_dict"):
        to_string(clip)
