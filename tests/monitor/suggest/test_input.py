"""What is taken, and what is refused."""

import numpy as np
import pytest

from clipwise.errors import ArgumentError
from clipwise.monitor import Series
from clipwise.monitor.suggest import KINDS, suggest
from tests.monitor.suggest.series import NAN, spiked

NORMS = spiked().astype(np.float32).astype(np.float64)
WANTED = suggest(NORMS)


def test_what_numpy_understands():
    for values in (NORMS, NORMS.astype(np.float32), NORMS.tolist(), tuple(NORMS), NORMS.astype(object)):
        assert suggest(values) == WANTED
    assert suggest(Series(np.arange(len(NORMS)), NORMS)) == WANTED
    assert suggest(range(1, 100)).statistics.max == 99.0
    assert suggest([1.0, None, 2.0]).statistics.nonfinite == 1


def test_torch():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(NORMS, dtype=torch.float32)
    assert suggest(tensor) == WANTED
    assert suggest(tensor.clone().requires_grad_()) == WANTED
    assert suggest(list(tensor)) == WANTED
    half = suggest(tensor.bfloat16())
    assert half.statistics.max == float(tensor.bfloat16().max())


def test_jax():
    jnp = pytest.importorskip("jax.numpy")
    assert suggest(jnp.asarray(NORMS, dtype=jnp.float32)) == WANTED
    assert suggest(jnp.ones(100, dtype=jnp.bfloat16)).statistics.mean == 1.0


def test_data_frames():
    polars = pytest.importorskip("polars")
    assert suggest(polars.Series(NORMS)) == WANTED


@pytest.mark.parametrize(
    ("norms", "words"),
    [
        ([], "empty"),
        ([[1.0, 2.0]], r"shape \(1, 2\)"),
        (1.0, "got 1.0"),
        (np.float64(2.0), "got"),
        (np.asarray(2.0), "shape"),
        (None, "None"),
        ("1.0", "'1.0'"),
        (["1.0", "2.0"], "real numbers"),
        ([1.0, "2"], "real numbers"),
        (np.asarray([1.0, "x"], dtype=object), "texts"),
        ([True, False], "bool"),
        ([1 + 2j], "complex"),
        ([1.0, -0.5, -2.0], "at least 0, got -0.5 at place 1"),
        ([1.0, -np.inf], "got -inf at place 1"),
        ({"a": 1.0}, "real numbers"),
        (iter([1.0]), "real numbers"),
        ([[1.0], [1.0, 2.0]], "real numbers"),
        ([10**400], "real numbers"),
    ],
)
def test_bad_norms(norms, words):
    with pytest.raises(ArgumentError, match=words) as caught:
        suggest(norms)
    assert "norms" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"losses": [1.0]}, "1 losses for 3 norms"),
        ({"losses": ["a", "b", "c"]}, "losses must be"),
        ({"losses": []}, "losses is empty"),
        ({"kind": "lsmt"}, "Did you mean 'lstm'"),
        ({"kind": 3}, "unknown kind 3"),
        ({"thresholds": [1.0, 2.0]}, "2 thresholds for 3 norms"),
        ({"thresholds": -1.0}, "at least 0, got -1"),
        ({"thresholds": NAN}, "NaN"),
        ({"thresholds": "1.0"}, "thresholds must be"),
        ({"order": 0}, "norm must be"),
        ({"order": "two"}, "norm must be"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ArgumentError, match=words):
        suggest([1.0, 2.0, 3.0], **options)


def test_kinds():
    for kind in KINDS:
        assert {one.kind for one in suggest(NORMS, kind=kind).typical} == {kind}
    assert suggest(NORMS, kind="LSTM") == suggest(NORMS, kind="recurrent")


def test_what_is_given_stays_as_it_was():
    norms, losses = NORMS.copy(), NORMS.copy()
    suggest(norms, losses=losses, thresholds=norms)
    assert (norms == NORMS).all()
    assert (losses == NORMS).all()
