"""The pure function, against plain numpy and in every transformation of JAX."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipwise
import clipwise.jax
from clipwise import thresholds
from clipwise.errors import (
    ArgumentError,
    NonFiniteError,
    ParameterError,
    StateError,
    ThresholdError,
)
from tests.x64 import enable_x64

from .trees import close, global_norm, grads, params, same, wide

PRESETS = {
    "value": clipwise.clip_by_value(0.5),
    "range": clipwise.clip_by_value(low=-0.1, high=0.5),
    "norm": clipwise.clip_by_norm(1.0),
    "global": clipwise.clip_by_global_norm(1.0),
    "global, inf": clipwise.clip_by_global_norm(1.0, math.inf),
    "rms": clipwise.clip_by_block_rms(0.5),
    "agc": clipwise.adaptive_grad_clip(0.1),
    "autoclip": clipwise.autoclip(10),
    "zclip": clipwise.zclip(warmup=2),
    "adagc": clipwise.adagc(warmup=2),
    "auto": clipwise.auto(),
    "loss": clipwise.Clip(thresholds.reduce_on_instability(5.0)),
    "schedule": clipwise.Clip(thresholds.schedule(lambda step: 2.0 / (1.0 + step))),
    "unit memory": clipwise.Clip(thresholds.percentile(50, window=5), per="unit"),
    "chain": clipwise.chain(clipwise.clip_by_value(1.0), clipwise.autoclip(50)),
    "by name": clipwise.by_name({"dense.*": clipwise.clip_by_norm(1.0), "*": clipwise.autoclip(50)}),
}


def run(clip, compiled, steps=6):
    """Several steps with a state; the gradients of each and the last state."""

    def step(gradients, state, loss):
        return clipwise.jax.clip(clip, gradients, state, params(), loss=loss, learning_rate=0.1)

    step = jax.jit(step) if compiled else step
    state, found = clipwise.jax.init(clip, params()), []
    for i in range(steps):
        out, state, report = step(grads(i, scale=1.0 + i), state, jnp.float32(1.0))
        found.append(out)
        assert np.isfinite(float(report.norm_after))
    return found, state, step


@pytest.mark.parametrize("clip", PRESETS.values(), ids=PRESETS)
def test_every_preset_is_compiled_once_and_does_what_it_does_eagerly(clip):
    eager, state, _ = run(clip, compiled=False)
    found, compiled_state, step = run(clip, compiled=True)
    assert step._cache_size() == 1
    close(found, eager, rtol=2e-6)
    close(compiled_state, state, rtol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_formula_by_hand(seed):
    gradients = grads(seed)
    norm = global_norm(gradients)
    out, _, report = clipwise.jax.clip(clipwise.clip_by_global_norm(1.0), gradients)
    close(out, jax.tree.map(lambda g: np.asarray(g, np.float64) / norm, gradients))
    assert float(report.norm) == pytest.approx(norm, rel=1e-6)
    assert report.names == ("dense.bias", "dense.kernel", "embed.embedding")
    assert report.norms()["dense.kernel"] == pytest.approx(np.linalg.norm(wide(gradients)[1]), rel=1e-6)


def test_units_are_the_last_axis_and_the_rows_of_an_embedding():
    gradients = grads()
    out, _, _ = clipwise.jax.clip(clipwise.Clip(0.5, per="unit"), gradients)
    bias, kernel, rows = wide(gradients)
    close(
        out,
        {
            "dense": {
                "kernel": kernel * np.minimum(1, 0.5 / np.linalg.norm(kernel, axis=0)),
                "bias": bias * min(1, 0.5 / np.linalg.norm(bias)),
            },
            "embed": {"embedding": rows * np.minimum(1, 0.5 / np.linalg.norm(rows, axis=1))[:, None]},
        },
    )


def test_units_of_attention_heads_and_those_that_the_user_names():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 2, 3)).astype(np.float32)
    clip = clipwise.Clip(0.5, per="unit")
    out, _, _ = clipwise.jax.clip(clip, {"query": {"kernel": kernel}, "conv": {"kernel": kernel}})
    heads = kernel * np.minimum(1, 0.5 / np.linalg.norm(kernel, axis=0))
    last = kernel * np.minimum(1, 0.5 / np.sqrt((kernel**2).sum((0, 1))))
    close(out, {"query": {"kernel": heads}, "conv": {"kernel": last}}, rtol=1e-5)
    out, _, _ = clipwise.jax.clip(clip, {"conv": {"kernel": kernel}}, unit_axes={"conv.*": (1, 2)})
    close(out, {"conv": {"kernel": heads}}, rtol=1e-5)


def test_trees_of_any_kind_keep_their_form():
    gradients = ([jnp.ones(3), None], {"b": (jnp.ones(2, jnp.bfloat16), 4.0)}, np.ones(2, np.float32))
    out, _, report = clipwise.jax.clip(clipwise.clip_by_global_norm(1.0), gradients)
    norm = math.sqrt(3 + 2 + 16 + 2)
    assert jax.tree.structure(out) == jax.tree.structure(gradients)
    assert out[1]["b"][0].dtype == jnp.bfloat16
    assert float(report.norm) == pytest.approx(norm, rel=1e-6)
    assert float(out[1]["b"][1]) == pytest.approx(4 / norm, rel=1e-6)
    for nothing in ({}, None, {"a": None}, jnp.zeros((0, 3))):
        out, _, report = clipwise.jax.clip(clipwise.autoclip(), nothing)
        same(out, nothing)
        assert float(report.norm) == 0


def test_float0_leaves_pass_and_integers_are_refused():
    gradients = jax.grad(lambda p: p["w"].sum() * 4.0, allow_int=True)({"w": jnp.ones(4), "n": 3})
    out, _, report = clipwise.jax.clip(clipwise.clip_by_global_norm(1.0), gradients)
    assert out["n"] is gradients["n"]
    assert report.names == ("w",)
    with pytest.raises(ParameterError, match=r"'n' must be an array of floats, got one of int32"):
        clipwise.jax.clip(clipwise.clip_by_global_norm(1.0), {"n": jnp.ones(2, jnp.int32)})
    with pytest.raises(ParameterError, match=r"the parameter 'n' must be an array of floats"):
        clipwise.jax.init(clipwise.clip_by_global_norm(1.0), {"n": jnp.ones(2, jnp.int32)})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_narrow_and_complex_leaves(dtype):
    values = np.random.default_rng(0).normal(size=64) * (1 + (1j if dtype == jnp.complex64 else 0))
    gradient = jnp.asarray(values, dtype)
    exact = np.asarray(gradient).astype(np.complex128)
    out, _, report = clipwise.jax.clip(clipwise.clip_by_norm(0.5), gradient)
    assert out.dtype == gradient.dtype
    assert float(report.norm) == pytest.approx(np.linalg.norm(exact), rel=1e-6)
    tolerance = 1e-6 if dtype == jnp.complex64 else 1e-2
    np.testing.assert_allclose(
        np.asarray(out).astype(np.complex128), exact * 0.5 / np.linalg.norm(exact), rtol=tolerance, atol=1e-6
    )


@pytest.mark.parametrize("size", [3e20, 1e-30])
def test_squares_beyond_float32_are_measured(size):
    gradient = jnp.asarray(np.random.default_rng(0).normal(0, size, (40, 30)), jnp.float32)
    norm = np.linalg.norm(np.asarray(gradient, np.float64))
    clip = clipwise.clip_by_global_norm(norm / 10)
    for call in (clipwise.jax.clip, jax.jit(clipwise.jax.clip, static_argnums=0)):
        out, _, report = call(clip, {"w": gradient})
        assert float(report.norm) == pytest.approx(norm, rel=1e-6)
        np.testing.assert_allclose(
            np.asarray(out["w"], np.float64), np.asarray(gradient, np.float64) / 10, rtol=1e-6
        )


def test_x64_measures_in_float64():
    with enable_x64(True):
        gradient = jnp.asarray([3e200, 4e200])
        out, _, report = clipwise.jax.clip(
            clipwise.clip_by_global_norm(1.0), {"w": gradient, "s": jnp.ones(2)}
        )
        assert report.norm.dtype == jnp.float64
        assert float(report.norm) == pytest.approx(5e200, rel=1e-14)
        np.testing.assert_allclose(np.asarray(out["w"]), [0.6, 0.8], rtol=1e-14)


def test_within_the_threshold_nothing_changes_and_zero_gives_zeros():
    gradients = grads()
    for clip in (
        clipwise.clip_by_global_norm(1e3),
        clipwise.clip_by_value(1e3),
        clipwise.clip_by_norm(math.inf),
    ):
        same(clipwise.jax.clip(clip, gradients)[0], gradients)
    zeros = jax.tree.map(jnp.zeros_like, gradients)
    for given in (gradients, zeros):
        out, _, _ = clipwise.jax.clip(clipwise.clip_by_global_norm(0.0), given)
        close(out, zeros)


def test_nonfinite():
    gradients = grads()
    gradients["dense"]["kernel"] = gradients["dense"]["kernel"].at[0, 0].set(jnp.nan)
    clip = clipwise.clip_by_global_norm(1.0)
    out, _, report = clipwise.jax.clip(clip, gradients, nonfinite="skip")
    assert bool(report.skipped)
    assert report.worst == "dense.kernel"
    same(out, jax.tree.map(jnp.zeros_like, gradients))
    out, _, _ = clipwise.jax.clip(clip, gradients, nonfinite="zero")
    assert global_norm(out) == pytest.approx(1.0, rel=1e-6)
    out, _, report = clipwise.jax.clip(clip, gradients)
    assert int(report.nonfinite) == 1
    assert all(np.isnan(leaf).all() for leaf in wide(out))
    with pytest.raises(NonFiniteError, match=r"dense.kernel"):
        clipwise.jax.clip(clip, gradients, nonfinite="error")
    with pytest.raises(ArgumentError, match="cannot raise from inside a compiled function"):
        jax.jit(lambda g: clipwise.jax.clip(clip, g, nonfinite="error")[0])(gradients)


def test_another_number_as_the_threshold_compiles_nothing_anew():
    from clipwise.jax import _step

    gradients = {"here": {"only": jnp.ones((3, 5))}}
    clipwise.jax.clip(clipwise.clip_by_global_norm(0.5), gradients)
    before = _step._compiled._cache_size()
    for threshold in (0.25, 0.125, jnp.float32(2.0)):
        out, _, _ = clipwise.jax.clip(clipwise.clip_by_global_norm(threshold), gradients)
        assert global_norm(out) == pytest.approx(float(threshold), rel=1e-6)
    assert _step._compiled._cache_size() == before


def test_a_traced_threshold():
    gradients = grads()

    @jax.jit
    def clipped(threshold, per_element):
        first = clipwise.jax.clip(clipwise.clip_by_global_norm(threshold), gradients)[0]
        agc = clipwise.jax.clip(clipwise.adaptive_grad_clip(threshold), gradients, None, params())[0]
        bounds = clipwise.clip_by_value(low=-per_element, high=2 * per_element)
        return first, agc, clipwise.jax.clip(bounds, gradients)[0]

    for threshold in (0.5, 0.25):
        by_norm, agc, by_range = clipped(threshold, 0.1)
        assert global_norm(by_norm) == pytest.approx(threshold, rel=1e-6)
        fixed = clipwise.jax.clip(clipwise.adaptive_grad_clip(threshold), gradients, None, params())[0]
        close(agc, fixed)
        close(by_range, jax.tree.map(lambda g: jnp.clip(g, -0.1, 0.2), gradients))
    # Nobody can check it: below 0 it counts as 0.
    close(clipped(-1.0, 0.1)[0], jax.tree.map(jnp.zeros_like, gradients))
    with pytest.raises(ThresholdError, match="single number"):
        jax.jit(lambda t: clipwise.clip_by_norm(t) and t)(jnp.ones(2))
    with pytest.raises(ThresholdError, match="known while the clip is made"):
        jax.jit(lambda t: clipwise.autoclip(t) and t)(1.0)


def test_vmap_clips_example_by_example():
    batch = jax.tree.map(lambda *g: jnp.stack(g), *[grads(i, scale=10.0**i) for i in range(4)])
    clip = clipwise.clip_by_global_norm(20.0)
    found, _, reports = jax.vmap(lambda g: clipwise.jax.clip(clip, g))(batch)
    for i in range(4):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        close(one, clipwise.jax.clip(clip, grads(i, scale=10.0**i))[0])
        assert float(reports.norm[i]) == pytest.approx(global_norm(grads(i, scale=10.0**i)), rel=1e-6)


def test_scan_of_fifty_steps():
    clip = clipwise.chain(clipwise.adagc(warmup=5), clipwise.autoclip(50))
    scales = jnp.linspace(0.1, 3.0, 50)

    def body(state, scale):
        out, state, report = clipwise.jax.clip(
            clip, jax.tree.map(lambda g: g * scale, grads()), state, params()
        )
        return state, (out, report)

    state, (_, reports) = jax.lax.scan(body, clipwise.jax.init(clip, params()), scales)
    expected, norms = clipwise.jax.init(clip, params()), []
    for scale in scales:
        expected, (_, report) = body(expected, scale)
        norms.append(float(report.norm_after))
    assert int(state.step) == 50
    np.testing.assert_allclose(reports.norm_after, norms, rtol=1e-5)
    close(state, expected, rtol=1e-5)


def test_it_can_be_differentiated_through():
    weights = jnp.arange(1.0, 7.0)

    def total(gradients):
        return (clipwise.jax.clip(clipwise.clip_by_global_norm(1.0), gradients)[0] * weights).sum()

    point = jnp.asarray([3.0, -1.0, 2.0, 0.5, 4.0, 1.0])
    numeric = [(total(point.at[i].add(1e-2)) - total(point.at[i].add(-1e-2))) / 2e-2 for i in range(6)]
    np.testing.assert_allclose(jax.grad(total)(point), numeric, rtol=5e-3, atol=1e-3)


def test_a_missing_gradient_has_its_place_in_the_memory():
    clip = clipwise.adagc(warmup=1)
    gradients = grads()
    gradients["dense"]["kernel"] = None
    state = clipwise.jax.init(clip, params())
    out, after, report = clipwise.jax.clip(clip, gradients, state, params())
    assert out["dense"]["kernel"] is None
    assert report.names == ("dense.bias", "embed.embedding")
    assert [leaf.shape for leaf in jax.tree.leaves(after)] == [leaf.shape for leaf in jax.tree.leaves(state)]
    with pytest.raises(StateError, match="every parameter must have a gradient"):
        clipwise.jax.clip(clip, gradients, state)


def test_what_is_refused():
    gradients, clip = grads(), clipwise.clip_by_global_norm(1.0)
    with pytest.raises(ParameterError, match="give the parameters with the gradients"):
        clipwise.jax.clip(clipwise.adaptive_grad_clip(), gradients)
    with pytest.raises(ParameterError, match="follows the loss"):
        clipwise.jax.clip(PRESETS["loss"], gradients)
    with pytest.raises(ParameterError, match=r"'decoder\.\*' matches no parameter"):
        clipwise.jax.init(clipwise.by_name({"decoder.*": clip}), params())
    with pytest.raises(ParameterError, match="matches no parameter"):
        clipwise.jax.clip(clip, gradients, unit_axes={"decoder.*": 0})
    with pytest.raises(ParameterError, match="no such parameter"):
        clipwise.jax.clip(clip, {**gradients, "other": jnp.ones(2)}, None, params())
    with pytest.raises(ParameterError, match=r"has shape \(2,\), the parameter \(3,\)"):
        clipwise.jax.clip(clip, {"w": jnp.ones(2)}, None, {"w": jnp.ones(3)})
    with pytest.raises(StateError, match="another clip"):
        clipwise.jax.clip(clip, gradients, clipwise.jax.init(clipwise.autoclip(), params()))
    with pytest.raises(StateError, match="expected the ClipState"):
        clipwise.jax.clip(clip, gradients, {"step": 0})
    with pytest.raises(ArgumentError, match="expected a clip"):
        clipwise.jax.clip(1.0, gradients)
    with pytest.raises(ArgumentError, match="must be one of"):
        clipwise.jax.clip(clip, gradients, nonfinite="ignore")
    with pytest.raises(ThresholdError, match="no order for the range"):
        clipwise.jax.clip(PRESETS["range"], jnp.ones(2, jnp.complex64))


def test_strings_and_mappings_describe_clips():
    out, _, _ = clipwise.jax.clip("clip_by_global_norm(0.5)", grads())
    assert global_norm(out) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(
    "clip",
    [
        clipwise.chain(clipwise.clip_by_value(5.0), clipwise.autoclip(10)),
        clipwise.by_name({"good": clipwise.autoclip(10), "bad": None}),
    ],
)
def test_a_skipped_step_enters_no_history_of_a_global_norm(clip):
    gradients = {"good": jnp.asarray([1.0, 2.0]), "bad": jnp.asarray([math.inf, 1.0])}
    state = clipwise.jax.init(clip, gradients)
    _, after, report = clipwise.jax.clip(clip, gradients, state, nonfinite="skip")
    assert bool(report.skipped)
    assert report.norm == math.inf
    same(after.thresholds, state.thresholds)


def test_no_cosine_is_above_one():
    gradients = {"a": jnp.ones(3, jnp.bfloat16)}
    clip = clipwise.chain(clipwise.clip_by_value(0.5), clipwise.clip_by_global_norm(0.5))
    assert float(clipwise.jax.clip(clip, gradients, direction=True)[2].direction) <= 1.0


@pytest.mark.parametrize("policy", [thresholds.auto(), thresholds.mean(2.0), thresholds.percentile(0)])
def test_a_subnormal_norm_is_no_norm(policy):
    """To XLA its logarithm is -inf, though it may be above 0."""
    clip = clipwise.clip_by_global_norm(policy)
    step = jax.jit(lambda g, state: clipwise.jax.clip(clip, g, state=state, scale_free=True))
    state, found = clipwise.jax.init(clip, {"w": jnp.ones(1)}), []
    for size in (1e-39, 1e-39, 1.0, 1.0):
        _, state, report = step({"w": jnp.full(1, size)}, state)
        found.append(float(report.threshold))
    assert found[:2] == [math.inf] * 2
    assert 0.4 < found[3] < 2.1
