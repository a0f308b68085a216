"""Clipped gradients of single examples in JAX: against each by hand, and against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import clipwise
from clipwise import thresholds
from clipwise.errors import ArgumentError, StateError
from clipwise.jax import per_example
from tests.x64 import enable_x64

RNG = np.random.default_rng(5)
PARAMS = {"a": RNG.normal(size=(4, 6)), "b": RNG.normal(size=6)}
X, Y = RNG.normal(size=(7, 4)), RNG.normal(size=7)


def loss_fn(params, x, y):
    return (jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2


def rows():
    """Of ``(tanh(x a) b - y)^2``, by hand."""
    found = []
    for x, y in zip(X, Y, strict=True):
        h = np.tanh(x @ PARAMS["a"])
        slope = 2 * (h @ PARAMS["b"] - y)
        found.append([slope * np.outer(x, (1 - h**2) * PARAMS["b"]), slope * h])
    return found


def norms():
    return np.array([np.sqrt(sum((one**2).sum() for one in row)) for row in rows()])


def summed(factors):
    return [sum(c * row[k] for c, row in zip(factors, rows(), strict=True)) for k in range(2)]


def test_sums_of_clipped_gradients():
    """In micro-batches of which the last is filled up, with padding that holds NaN."""
    with enable_x64(True):
        step = per_example(loss_fn, clipwise.clip_by_global_norm(1.0), micro_batch=4)
        x = jnp.concatenate([X, jnp.full((2, 4), jnp.nan)])
        y = jnp.concatenate([Y, jnp.zeros(2)])
        gradients, state, report = step(PARAMS, x, y, mask=jnp.arange(9) < 7)
        wanted = summed(np.minimum(1, 1 / norms()) / 7)
        for found, exact in zip(jax.tree.leaves(gradients), wanted, strict=True):
            np.testing.assert_allclose(found, exact, rtol=1e-9)
        np.testing.assert_allclose(report.norms[:7], norms(), rtol=1e-9)
        assert len(report) == 7
        assert report.largest == norms().argmax()
        assert report.metrics()["clipwise/example/nonfinite"] == 0
        assert int(state.step) == 1


def test_thresholds_learn_as_in_pytorch():
    model = torch.nn.Linear(4, 1, bias=False).double()
    weights = model.weight.detach().numpy().copy()

    def linear(w, x, y):
        return (w @ x - y)[0] ** 2

    for clip in (
        clipwise.chain(
            clipwise.Clip(thresholds.quantile_ema(start=2.0)), clipwise.Clip(thresholds.mean(0.9, 0.5))
        ),
        clipwise.chain(
            clipwise.Clip(thresholds.relative(0.3), per="tensor"), clipwise.Clip(thresholds.automatic(0.5))
        ),
    ):
        theirs = clipwise.torch.per_example(model, clip, "sum")
        with enable_x64(True):
            step, state = per_example(linear, clip, "sum"), None
            for _ in range(2):
                model.zero_grad()
                theirs.backward(lambda out, y: (out[:, 0] - y) ** 2, torch.tensor(X), torch.tensor(Y))
                gradients, state, report = step(weights, X, Y, state=state)
            np.testing.assert_allclose(gradients, model.weight.grad, rtol=1e-9)
            np.testing.assert_allclose(report.threshold, theirs.report.threshold, rtol=1e-9)


def test_inside_a_compiled_step_with_noise_and_bad_examples():
    clip = clipwise.clip_by_norm(1.0)
    step = per_example(loss_fn, clip, batch_size=4, noise_multiplier=2.0, nonfinite="drop")
    assert float(step.sensitivity(PARAMS)) == pytest.approx(np.sqrt(2) / 4)
    bad = jnp.asarray(X).at[3].set(jnp.inf)

    noisy = jax.jit(lambda key: step(PARAMS, bad, Y, key=key)[0])(jax.random.key(0))
    quiet, _, report = per_example(loss_fn, clip, batch_size=4, nonfinite="drop")(PARAMS, bad, Y)
    keep = np.arange(7) != 3
    exact = [
        sum(
            row[k] * min(1, 1 / np.linalg.norm(row[k]))
            for row, good in zip(rows(), keep, strict=True)
            if good
        )
        for k in range(2)
    ]
    for found, wanted in zip(jax.tree.leaves(quiet), exact, strict=True):
        np.testing.assert_allclose(found, wanted / 4, rtol=1e-4)
    assert report.largest == 3
    noise = np.concatenate(
        [np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (noisy, quiet)), strict=True)]
    )
    assert 0.3 < noise.std() / (2 * np.sqrt(2) / 4) < 2


def test_an_empty_batch_and_the_norm_of_the_clip():
    """Zeros, and the threshold as it was; a root mean square is reported where one is compared."""
    clip = clipwise.Clip(thresholds.quantile_ema(start=0.1), per="global", norm="rms")
    step = per_example(loss_fn, clip)
    state = step.init(PARAMS)
    gradients, after, report = step(PARAMS, X[:0], Y[:0], state=state)
    assert not any(one.any() for one in jax.tree.leaves(gradients))
    assert (len(report), report.losses.shape, int(after.step)) == (0, (0,), 1)
    for new, old in zip(after.thresholds, state.thresholds, strict=True):
        np.testing.assert_array_equal(new, old)
    _, _, report = step(PARAMS, X, Y, state=after)
    np.testing.assert_allclose(report.norms, norms() / np.sqrt(30), rtol=1e-5)
    np.testing.assert_allclose(report.norms_after, np.minimum(norms() / np.sqrt(30), 0.1), rtol=1e-5)
    parts = [[np.sqrt(np.mean(one**2)) for one in row] for row in rows()]
    np.testing.assert_allclose(report.tensor_norms, parts, rtol=1e-5)


def test_what_is_refused():
    clip = clipwise.clip_by_global_norm(1.0)
    step = per_example(loss_fn, clip)
    with pytest.raises(ArgumentError, match="one number for one example"):
        per_example(lambda p, x, y: x, clip)(PARAMS, X, Y)
    with pytest.raises(ArgumentError, match="along axis 0"):
        step(PARAMS, X, Y[:3])
    with pytest.raises(ArgumentError, match="mask"):
        step(PARAMS, X, Y, mask=jnp.ones(3, bool))
    with pytest.raises(ArgumentError, match="key"):
        step(PARAMS, X, Y, key=jax.random.key(0))
    with pytest.raises(ArgumentError, match="key"):
        per_example(loss_fn, clip, "sum", noise_multiplier=1.0)(PARAMS, X, Y)
    with pytest.raises(ArgumentError, match="batch_size"):
        step.sensitivity(PARAMS)
    for loose in (clipwise.by_name({"a": clip}), clipwise.Clip(thresholds.fixed(np.inf))):
        with pytest.raises(ArgumentError, match="without a bound"):
            per_example(loss_fn, loose, "sum", noise_multiplier=1.0)(PARAMS, X, Y, key=jax.random.key(0))
    with pytest.raises(ArgumentError, match="drop"):
        per_example(loss_fn, clip, nonfinite="error")
    with pytest.raises(StateError):
        step(PARAMS, X, Y, state=per_example(loss_fn, clipwise.autoclip(10)).init(PARAMS))
