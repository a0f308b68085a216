"""The drop-ins against torch's own functions where those are right, and against the formula where not."""

import math

import pytest
import torch
from torch import nn

import clipwise.torch as ours
from clipwise.errors import ThresholdError
from tests.depth import pairwise

pytestmark = pytest.mark.every_engine

ORDERS = [0.5, 1.0, 1.5, 2.0, 2, 4.0, math.inf, "inf"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]


def parameters(seed: int, dtype=torch.float32, scale: float = 1.0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for shape in [(10, 10), (7,), (3, 4, 5), ()]:
        p = nn.Parameter(torch.zeros(shape, dtype=dtype))
        wide = torch.complex128 if dtype.is_complex else torch.float64
        p.grad = (torch.randn(shape, generator=generator, dtype=wide) * scale).to(dtype)
        found.append(p)
    found.append(nn.Parameter(torch.zeros(2, dtype=dtype)))  # no gradient
    return found


def assert_gradients_close(a, b, tolerance: float) -> None:
    for p, q in zip(a, b, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=tolerance, atol=0.0)


@pytest.mark.parametrize(
    ("dtype", "order", "max_norm", "foreach"), pairwise(DTYPES, ORDERS, [0.5, 1e6, 0.0], [None, False])
)
def test_clip_grad_norm_agrees_with_torch(dtype, order, max_norm, foreach):
    mine, theirs = parameters(0, dtype), parameters(0, dtype)
    returned = ours.clip_grad_norm_(mine, max_norm, order, foreach=foreach)
    expected = nn.utils.clip_grad_norm_(theirs, max_norm, float(order), foreach=foreach)
    # torch adds up in the gradient's own dtype and rounds the coefficient to it.
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.complex64: 1e-5}.get(dtype, 3e-2)
    assert returned.item() == pytest.approx(expected.item(), rel=tolerance)
    assert returned.shape == ()
    assert_gradients_close(mine, theirs, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("value", [0.5, 0.0, 100.0, math.inf])
def test_clip_grad_value_agrees_with_torch(dtype, value):
    mine, theirs = parameters(1, dtype), parameters(1, dtype)
    assert ours.clip_grad_value_(mine, value) is None
    nn.utils.clip_grad_value_([p for p in theirs if p.grad is not None], value)
    assert_gradients_close(mine, theirs, 0.0)


def test_get_total_norm_agrees_with_torch():
    tensors = [p.grad for p in parameters(2) if p.grad is not None]
    for order in (1.0, 2.0, math.inf):
        found, expected = ours.get_total_norm(tensors, order), nn.utils.get_total_norm(tensors, order)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    assert ours.get_total_norm(tensors[0]).item() == pytest.approx(tensors[0].norm().item(), rel=1e-6)


@pytest.mark.parametrize("empty", [[], [nn.Parameter(torch.zeros(1))]])
def test_nothing_to_clip(empty):
    assert ours.clip_grad_norm_(empty, 1.0).item() == 0.0
    assert ours.clip_grad_value_(empty, 1.0) is None  # torch fails on this one


def test_an_empty_generator_warns_as_in_torch():
    with pytest.warns(UserWarning, match="empty generator"):
        ours.clip_grad_norm_((p for p in []), 1.0)


def test_a_generator_and_a_single_tensor():
    mine, theirs = parameters(3), parameters(3)
    ours.clip_grad_norm_((p for p in mine), 0.5)
    nn.utils.clip_grad_norm_(theirs, 0.5)
    assert_gradients_close(mine, theirs, 1e-5)
    ours.clip_grad_norm_(mine[0], 0.1)
    assert mine[0].grad.norm().item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_error_if_nonfinite_leaves_the_gradients_untouched(bad):
    mine = parameters(4)
    mine[1].grad[0] = bad
    before = [p.grad.clone() for p in mine if p.grad is not None]
    with pytest.raises(RuntimeError, match="non-finite"):
        ours.clip_grad_norm_(mine, 1.0, error_if_nonfinite=True)
    for p, old in zip(mine, before, strict=False):
        assert torch.equal(p.grad.nan_to_num(), old.nan_to_num())
    theirs = parameters(4)
    theirs[1].grad[0] = bad
    ours.clip_grad_norm_(mine, 1.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    for p, q in zip(mine[:-1], theirs[:-1], strict=True):
        assert torch.equal(p.grad.isnan(), q.grad.isnan())


class TestWhereTorchLosesTheGradient:
    def test_float32_of_1e20(self):
        mine, theirs = parameters(5, scale=1e20), parameters(5, scale=1e20)
        nn.utils.clip_grad_norm_(theirs, 1.0)
        assert all((p.grad == 0).all() for p in theirs[:-1])  # torch: norm inf, gradient gone
        ours.clip_grad_norm_(mine, 1.0)
        total = math.sqrt(sum(p.grad.double().square().sum().item() for p in mine[:-1]))
        assert total == pytest.approx(1.0, rel=1e-6)

    def test_float16_whose_norm_overflows(self):
        mine = parameters(6, torch.float16, scale=1e4)
        norm = ours.clip_grad_norm_(mine, 1.0)
        assert norm.dtype == torch.float32
        assert math.isfinite(norm.item())
        total = math.sqrt(sum(p.grad.double().square().sum().item() for p in mine[:-1]))
        assert total == pytest.approx(1.0, rel=1e-3)  # fp16 entries keep eleven bits

    def test_zero_size_gradients_with_the_largest_magnitude(self):
        p = nn.Parameter(torch.zeros(0, 3))
        p.grad = torch.zeros(0, 3)
        assert ours.clip_grad_norm_([p], 1.0, math.inf).item() == 0.0

    @pytest.mark.parametrize("bad", [-1.0, math.nan, "1"])
    def test_bad_thresholds(self, bad):
        mine = parameters(7)
        before = mine[0].grad.clone()
        with pytest.raises(ThresholdError, match="max_norm"):
            ours.clip_grad_norm_(mine, bad)
        with pytest.raises(ThresholdError, match="clip_value"):
            ours.clip_grad_value_(mine, bad)
        assert torch.equal(mine[0].grad, before)

    def test_a_threshold_that_is_a_tensor(self):
        mine = parameters(8)
        ours.clip_grad_norm_(mine, torch.tensor(0.5))
        total = math.sqrt(sum(p.grad.double().square().sum().item() for p in mine[:-1]))
        assert total == pytest.approx(0.5, rel=1e-5)
