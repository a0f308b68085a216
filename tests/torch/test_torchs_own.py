"""What torch's own tests ask of its clipping functions, asked of ours; then where torch is not right.

Every case runs through `torch.nn.utils` on the same input as well, and the two are compared to rounding:
torch adds up in the gradients' own dtype.
"""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import clipwise.torch as ours
from clipwise.errors import ThresholdError
from tests.depth import each_value, pairwise

pytestmark = pytest.mark.every_engine

theirs = nn.utils
FOREACH = [None, False, True]
ORDERS = [0.5, 1.5, 2, 4, "inf"]


def with_gradients(*gradients: Tensor | None) -> list[nn.Parameter]:
    """Parameters with copies of these gradients."""
    found = []
    for gradient in gradients:
        like = torch.zeros(2, 2) if gradient is None else gradient
        found.append(nn.Parameter(torch.zeros(like.shape, dtype=like.dtype)))
        found[-1].grad = None if gradient is None else gradient.clone()
    return found


def large() -> list[Tensor]:
    return [torch.arange(1.0, 101.0).view(10, 10), torch.ones(10) / 1000]


def small() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(10, 10, generator=generator) / 10000, torch.ones(10) / 500]


def norm_of(parameters: list[nn.Parameter], order: float | str) -> float:
    """In float64, as one vector."""
    parts = [p.grad.detach().to_dense().double().flatten() for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.cat(parts), float(order)).item()


def ratios(before: list[Tensor], parameters: list[nn.Parameter]) -> Tensor:
    """What each entry was multiplied by."""
    return torch.cat(
        [(p.grad / old).flatten() for p, old in zip(parameters, before, strict=True) if p.grad is not None]
    )


def same(mine: list[nn.Parameter], others: list[nn.Parameter], tolerance: float = 1e-5) -> None:
    for p, q in zip(mine, others, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=tolerance, atol=0.0, equal_nan=True)


def in_two_steps(module) -> Callable[..., Tensor]:
    """`clip_grad_norm_` out of the two functions that it is made of."""

    def clip(parameters, max_norm, norm_type=2.0, foreach=None):
        found = [p.grad for p in parameters if p.grad is not None]
        total = module.get_total_norm(found, norm_type, foreach=foreach)
        assert module.clip_grads_with_norm_(parameters, max_norm, total, foreach) is None
        return total

    return clip


@pytest.mark.parametrize(("foreach", "order", "steps"), pairwise(FOREACH, ORDERS, [1, 2]))
class TestClipGradNorm:
    """torch's ``test_clip_grad_norm``, in one step and in two."""

    @staticmethod
    def functions(steps: int):
        if steps == 1:
            return ours.clip_grad_norm_, theirs.clip_grad_norm_
        return in_two_steps(ours), in_two_steps(theirs)

    def test_large_gradients_are_scaled_by_one_number(self, foreach, order, steps):
        clip, clip_of_torch = self.functions(steps)
        mine, others = with_gradients(*large()), with_gradients(*large())
        before = norm_of(mine, order)
        returned = clip(mine, 2, norm_type=order, foreach=foreach)
        expected = clip_of_torch(others, 2, norm_type=order, foreach=foreach)
        assert returned.item() == pytest.approx(before, rel=1e-6)
        assert returned.item() == pytest.approx(expected.item(), rel=1e-5)
        assert (returned.shape, returned.dtype) == (expected.shape, expected.dtype)
        assert norm_of(mine, order) == pytest.approx(2.0, rel=1e-6)
        scale = ratios(large(), mine)
        torch.testing.assert_close(scale, torch.full_like(scale, 2.0 / before), rtol=1e-6, atol=0.0)
        same(mine, others)

    def test_small_gradients_are_left_alone(self, foreach, order, steps):
        clip, clip_of_torch = self.functions(steps)
        mine, others = with_gradients(*small()), with_gradients(*small())
        bound = 2 * norm_of(mine, order)
        returned = clip(mine, bound, norm_type=order, foreach=foreach)
        assert returned.item() == pytest.approx(bound / 2, rel=1e-6)
        clip_of_torch(others, bound, norm_type=order, foreach=foreach)
        assert all(torch.equal(p.grad, old) for p, old in zip(mine, small(), strict=True))
        same(mine, others, 0.0)

    def test_a_tensor_by_itself(self, foreach, order, steps):
        if steps == 2:
            pytest.skip("the first of the two steps takes gradients")
        alone, listed, others = (with_gradients(large()[0]) for _ in range(3))
        ours.clip_grad_norm_(alone[0], 2, norm_type=order, foreach=foreach)
        ours.clip_grad_norm_(listed, 2, norm_type=order, foreach=foreach)
        theirs.clip_grad_norm_(others[0], 2, norm_type=order, foreach=foreach)
        same(alone, listed, 0.0)
        same(alone, others)

    def test_a_generator_and_a_missing_gradient(self, foreach, order, steps):
        if steps == 2:
            pytest.skip("a generator can be read once")
        mine, others = with_gradients(large()[0], None, large()[1]), with_gradients(*large())
        returned = ours.clip_grad_norm_((p for p in mine), 2, norm_type=order, foreach=foreach)
        expected = theirs.clip_grad_norm_((p for p in others), 2, norm_type=order, foreach=foreach)
        assert returned.item() == pytest.approx(expected.item(), rel=1e-5)
        assert mine[1].grad is None
        same([mine[0], mine[2]], others)

    def test_several_dtypes(self, foreach, order, steps):
        clip, clip_of_torch = self.functions(steps)
        kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        gradients = [torch.linspace(-2, 1, 7).to(kind) for kind in kinds]
        mine, others = with_gradients(*gradients), with_gradients(*gradients)
        returned = clip(mine, 0.25, norm_type=order, foreach=foreach)
        expected = clip_of_torch(others, 0.25, norm_type=order, foreach=foreach)
        assert returned.dtype == expected.dtype == torch.float64
        assert returned.item() == pytest.approx(expected.item(), rel=1e-2)  # torch: half precision norms
        assert norm_of(mine, order) == pytest.approx(0.25, rel=4e-3)
        same(mine, others, 2e-2)


class TestGetTotalNorm:
    @pytest.mark.parametrize(
        ("foreach", "order"), each_value(FOREACH, [*ORDERS, 1, 3.5, -1, -2.0, -3.5, -math.inf])
    )
    def test_lists_single_tensors_and_generators(self, foreach, order):
        gradients = [*large(), torch.tensor([-0.5, 3.0])]
        expected = theirs.get_total_norm(gradients, order, foreach=foreach)
        for given in (gradients, tuple(gradients), (g for g in gradients)):
            found = ours.get_total_norm(given, order, foreach=foreach)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)
        alone = ours.get_total_norm(gradients[2], order, foreach=foreach)
        expected = theirs.get_total_norm(gradients[2], order, foreach=foreach)
        torch.testing.assert_close(alone, expected, rtol=1e-6, atol=0.0)

    def test_nothing(self):
        found, expected = ours.get_total_norm([]), theirs.get_total_norm([])
        assert (found.item(), found.dtype, found.shape) == (0.0, expected.dtype, expected.shape)

    def test_the_gradients_are_not_touched(self):
        gradients = large()
        ours.get_total_norm(gradients)
        assert all(torch.equal(g, old) for g, old in zip(gradients, large(), strict=True))


class TestClipGradsWithNorm:
    @pytest.mark.parametrize(
        ("foreach", "total"), each_value(FOREACH, [4.0, 1.0, 0.0, 1e20, math.inf, math.nan])
    )
    def test_the_norm_that_is_given_counts(self, foreach, total):
        mine, others = with_gradients(*large()), with_gradients(*large())
        assert ours.clip_grads_with_norm_(mine, 2.0, torch.tensor(total), foreach) is None
        theirs.clip_grads_with_norm_(others, 2.0, torch.tensor(total), foreach)
        same(mine, others, 1e-6)

    def test_names_of_the_arguments(self):
        mine = with_gradients(*large())
        ours.clip_grads_with_norm_(parameters=mine, max_norm=2.0, total_norm=torch.tensor(8.0), foreach=None)
        torch.testing.assert_close(mine[0].grad, large()[0] / 4, rtol=1e-6, atol=0.0)

    @pytest.mark.parametrize("parameters", [[], [nn.Parameter(torch.zeros(1))]])
    def test_nothing_to_do(self, parameters):
        assert ours.clip_grads_with_norm_(parameters, 1.0, torch.tensor(2.0)) is None

    def test_a_tensor_by_itself_and_a_generator(self):
        alone, read = with_gradients(large()[0]), with_gradients(large()[0])
        ours.clip_grads_with_norm_(alone[0], 2.0, torch.tensor(8.0))
        ours.clip_grads_with_norm_((p for p in read), 2.0, torch.tensor(8.0))
        torch.testing.assert_close(alone[0].grad, large()[0] / 4, rtol=1e-6, atol=0.0)
        same(alone, read, 0.0)

    @pytest.mark.parametrize("bad", [-1.0, math.nan, "1"])
    def test_bad_thresholds_touch_nothing(self, bad):
        mine = with_gradients(*large())
        with pytest.raises(ThresholdError, match="max_norm"):
            ours.clip_grads_with_norm_(mine, bad, torch.tensor(8.0))
        assert all(torch.equal(p.grad, old) for p, old in zip(mine, large(), strict=True))


@pytest.mark.parametrize("foreach", FOREACH)
class TestClipGradValue:
    """torch's ``test_clip_grad_value``."""

    @pytest.mark.parametrize("bias", [torch.ones(10) * 2, None])
    def test_every_entry_is_bounded(self, foreach, bias):
        weight = torch.arange(-50.0, 50.0).view(10, 10) / 5
        mine, others = with_gradients(weight, bias), with_gradients(weight, bias)
        assert ours.clip_grad_value_(mine, 2.5, foreach=foreach) is None
        theirs.clip_grad_value_(others, 2.5, foreach=foreach)
        torch.testing.assert_close(mine[0].grad, weight.clamp(-2.5, 2.5), rtol=0.0, atol=0.0)
        for p, q in zip(mine, others, strict=True):
            assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad)

    def test_a_tensor_by_itself_and_a_generator(self, foreach):
        weight = torch.arange(-50.0, 50.0).view(10, 10) / 5
        alone, listed, read = (with_gradients(weight) for _ in range(3))
        ours.clip_grad_value_(alone[0], 2.5, foreach=foreach)
        ours.clip_grad_value_(listed, 2.5, foreach=foreach)
        ours.clip_grad_value_((p for p in read), 2.5, foreach=foreach)
        same(alone, listed, 0.0)
        same(alone, read, 0.0)

    def test_nan_and_inf_as_in_torch(self, foreach):
        gradient = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
        mine, others = with_gradients(gradient), with_gradients(gradient)
        ours.clip_grad_value_(mine, 2.5, foreach=foreach)
        theirs.clip_grad_value_(others, 2.5, foreach=foreach)
        same(mine, others, 0.0)

    def test_several_dtypes(self, foreach):
        kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        gradients = [torch.linspace(-5, 5, 7).to(kind) for kind in kinds]
        mine, others = with_gradients(*gradients), with_gradients(*gradients)
        ours.clip_grad_value_(mine, 0.3, foreach=foreach)
        theirs.clip_grad_value_(others, 0.3, foreach=foreach)
        same(mine, others, 0.0)


POSITIVE, NEGATIVE = [0.1, 1, 2, 3.5, math.inf], [-0.1, -1, -2, -3.5]
# One bad entry or all of them; another parameter with gradient 1 first; the value; orders whose norm is not
# finite; orders whose norm is.
NON_FINITE = [
    (False, False, math.inf, [*POSITIVE, *NEGATIVE], []),
    (False, True, math.inf, POSITIVE, NEGATIVE),
    (True, False, math.inf, POSITIVE, NEGATIVE),
    (True, True, math.inf, POSITIVE, NEGATIVE),
    *[(one, first, math.nan, [*POSITIVE, *NEGATIVE], []) for one in (False, True) for first in (False, True)],
    (False, False, 2e22, [], [*POSITIVE, *NEGATIVE]),
]


class TestErrorIfNonfinite:
    """torch's ``test_clip_grad_norm_error_if_nonfinite``: the matrix of values and orders."""

    @staticmethod
    def parameters(one: bool, first: bool, value: float) -> list[nn.Parameter]:
        gradient = torch.full((10,), value, dtype=torch.float64)
        if one:
            gradient[1:] = 0.0
        return with_gradients(*[torch.ones(10, dtype=torch.float64)] * first, gradient)

    @pytest.mark.parametrize(("foreach", "case"), each_value(FOREACH, NON_FINITE))
    def test_matrix(self, foreach, case):
        one, first, value, not_finite, finite = case
        for order in [*not_finite, *finite]:
            runs = {}
            for module in (ours, theirs):
                for strict in (True, False):
                    given = self.parameters(one, first, value)
                    before = [p.grad.clone() for p in given]
                    if strict and order in not_finite:
                        with pytest.raises(RuntimeError, match=r"total norm of order .* non-finite"):
                            module.clip_grad_norm_(
                                given, 1, norm_type=order, error_if_nonfinite=True, foreach=foreach
                            )
                        same(given, with_gradients(*before), 0.0)
                        continue
                    with warnings.catch_warnings():
                        warnings.simplefilter("error")
                        module.clip_grad_norm_(
                            given, 1, norm_type=order, error_if_nonfinite=strict, foreach=foreach
                        )
                    runs[module, strict] = given
            same(runs[ours, False], runs[theirs, False], 1e-9)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_the_total_norm_alone(self, bad):
        for module in (ours, theirs):
            with pytest.raises(RuntimeError, match="non-finite"):
                module.get_total_norm([torch.ones(2), torch.tensor([bad])], error_if_nonfinite=True)

    def test_a_norm_that_only_torch_loses_is_no_error(self):
        """2e200 squared overflows float64: torch raises, or scales by 0."""
        mine, others = self.parameters(False, False, 2e200), self.parameters(False, False, 2e200)
        with pytest.raises(RuntimeError, match="non-finite"):
            theirs.clip_grad_norm_(others, 1.0, error_if_nonfinite=True)
        norm = ours.clip_grad_norm_(mine, 1.0, error_if_nonfinite=True)
        assert norm.item() == pytest.approx(2e200 * math.sqrt(10), rel=1e-12)
        assert norm_of(mine, 2) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("foreach", FOREACH)
@pytest.mark.parametrize("order", ORDERS)
def test_several_devices(foreach, order):
    """torch's ``test_clip_grad_norm_multi_device``."""
    mine, others = with_gradients(*large()), with_gradients(*large())
    for pair in (mine, others):
        pair[1] = nn.Parameter(pair[1].detach().cuda())
        pair[1].grad = large()[1].cuda()
    returned = ours.clip_grad_norm_(mine, 2, norm_type=order, foreach=foreach)
    expected = theirs.clip_grad_norm_(others, 2, norm_type=order, foreach=foreach)
    torch.testing.assert_close(returned, expected, rtol=1e-5, atol=0.0)
    assert returned.device == expected.device
    same(mine, others)


def dense(parameter: nn.Parameter) -> Tensor:
    return parameter.grad.to_dense()


# The functions on one parameter, its gradient of norm 5, to norm 1 or entries of at most 1.
BY_NORM = [
    pytest.param(lambda module, given: module.clip_grad_norm_(given, 1.0), id="clip_grad_norm_"),
    pytest.param(
        lambda module, given: module.clip_grads_with_norm_(given, 1.0, torch.tensor(5.0)),
        id="clip_grads_with_norm_",
    ),
]


class TestWhereTorchIsNotRight:
    @pytest.mark.parametrize("parameters", [[], [nn.Parameter(torch.zeros(2))]])
    def test_clip_grad_value_without_any_gradient(self, parameters):
        with pytest.raises(RuntimeError):  # an internal check of torch's
            theirs.clip_grad_value_(parameters, 1.0)
        assert ours.clip_grad_value_(parameters, 1.0) is None

    @pytest.mark.parametrize("others", [[], [torch.tensor([3.0, -4.0])]])
    def test_zero_size_gradients_with_the_largest_magnitude(self, others):
        gradients = [torch.zeros(0, 3), *others]
        with pytest.raises(RuntimeError, match="infinity norm on an empty tensor"):
            theirs.clip_grad_norm_(with_gradients(*gradients), 1.0, math.inf)
        mine = with_gradients(*gradients)
        assert ours.clip_grad_norm_(mine, 1.0, math.inf).item() == (4.0 if others else 0.0)
        if others:
            torch.testing.assert_close(mine[1].grad, torch.tensor([0.75, -1.0]))
        assert ours.get_total_norm(gradients, math.inf).item() == (4.0 if others else 0.0)

    @pytest.mark.parametrize("clip", BY_NORM)
    def test_sparse_gradients(self, clip):
        places, values = torch.tensor([[2, 0, 2]]), torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 2.0]])
        gradient = torch.sparse_coo_tensor(places, values, (4, 2), check_invariants=True)  # (3, 4) in row 2
        with pytest.raises(NotImplementedError):
            theirs.clip_grad_norm_(with_gradients(gradient), 1.0)
        mine = with_gradients(gradient)
        clip(ours, mine)
        expected = torch.zeros(4, 2)
        expected[2] = torch.tensor([0.6, 0.8])
        torch.testing.assert_close(dense(mine[0]), expected, rtol=1e-6, atol=0.0)
        assert ours.get_total_norm([gradient]).item() == 5.0

    def test_sparse_gradients_by_value(self):
        gradient = torch.sparse_coo_tensor([[1, 1]], [3.0, -1.0], (3,), check_invariants=True)
        with pytest.raises(NotImplementedError):
            theirs.clip_grad_value_(with_gradients(gradient), 0.5)
        mine = with_gradients(gradient)
        ours.clip_grad_value_(mine, 0.5)
        assert dense(mine[0]).tolist() == [0.0, 0.5, 0.0]

    @pytest.mark.parametrize("clip", BY_NORM)
    def test_tied_parameters(self, clip):
        mine, others = with_gradients(torch.tensor([3.0, 4.0])), with_gradients(torch.tensor([3.0, 4.0]))
        clip(ours, mine * 3)
        clip(theirs, others * 3)
        torch.testing.assert_close(mine[0].grad, torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0.0)
        assert norm_of(others, 2) < 0.1  # torch scales it once for each time it is listed

    def test_tied_parameters_are_measured_once(self):
        mine, others = with_gradients(torch.tensor([3.0, 4.0])), with_gradients(torch.tensor([3.0, 4.0]))
        assert ours.clip_grad_norm_(mine * 2, 100.0).item() == 5.0
        assert theirs.clip_grad_norm_(others * 2, 100.0).item() == pytest.approx(math.sqrt(50))

    @pytest.mark.parametrize("clip", BY_NORM)
    @pytest.mark.parametrize("shape", [(25,), (5, 5), (1, 25, 1)])
    def test_expanded_gradients(self, clip, shape):
        """As ``loss = weight.sum()`` leaves them; torch refuses to write to memory that entries share."""
        runs = {}
        for module in (ours, theirs):
            parameter = nn.Parameter(torch.zeros(shape))
            parameter.grad = torch.tensor(1.0).expand(shape)
            runs[module] = [parameter]
        with pytest.raises(RuntimeError, match="single memory location"):
            clip(theirs, runs[theirs])
        clip(ours, runs[ours])
        expected = torch.full(shape, 0.2)
        torch.testing.assert_close(runs[ours][0].grad, expected, rtol=1e-6, atol=0.0)

    def test_expanded_gradients_by_value(self):
        runs = {}
        for module in (ours, theirs):
            parameter = nn.Parameter(torch.zeros(2, 3))
            parameter.grad = torch.tensor([[1.0], [-4.0]]).expand(2, 3)
            runs[module] = [parameter]
        with pytest.raises(RuntimeError, match="single memory location"):
            theirs.clip_grad_value_(runs[theirs], 2.0)
        ours.clip_grad_value_(runs[ours], 2.0)
        assert runs[ours][0].grad.tolist() == [[1.0] * 3, [-2.0] * 3]

    @pytest.mark.parametrize("foreach", FOREACH)
    @pytest.mark.parametrize(
        ("dtype", "size", "tolerance"),
        [(torch.float16, 6e4, 1e-3), (torch.bfloat16, 1e37, 4e-3), (torch.float32, 1e20, 1e-6)],
        ids=str,
    )
    def test_finite_gradients_whose_norm_or_squares_overflow(self, foreach, dtype, size, tolerance):
        """torch's norm is Inf and its coefficient 0: the gradient is gone."""
        gradient = (torch.linspace(-1, 1, 100, dtype=torch.float64) * size).to(dtype)
        mine, others = with_gradients(gradient), with_gradients(gradient)
        assert theirs.clip_grad_norm_(others, 1.0, foreach=foreach).item() == math.inf
        assert not others[0].grad.any()
        norm = ours.clip_grad_norm_(mine, 1.0, foreach=foreach)
        assert norm.dtype == torch.float32
        assert norm.item() == pytest.approx(gradient.double().norm().item(), rel=1e-6)
        assert norm_of(mine, 2) == pytest.approx(1.0, rel=tolerance)
        cosine = torch.cosine_similarity(mine[0].grad.double(), gradient.double() / size, dim=0)
        assert cosine.item() == pytest.approx(1.0, abs=1e-5)

    @pytest.mark.parametrize("bad", [-1.0, -math.inf, math.nan])
    def test_bad_thresholds(self, bad):
        """torch turns the gradient round, or makes NaN of it."""
        others = with_gradients(torch.tensor([3.0, 4.0]))
        theirs.clip_grad_norm_(others, bad)
        assert not (others[0].grad > 0).any()
        for function in (ours.clip_grad_norm_, ours.clip_grad_value_):
            mine = with_gradients(torch.tensor([3.0, 4.0]))
            with pytest.raises(ThresholdError):
                function(mine, bad)
            assert mine[0].grad.tolist() == [3.0, 4.0]

    def test_a_bad_threshold_for_a_value(self):
        others = with_gradients(torch.tensor([3.0, -4.0]))
        theirs.clip_grad_value_(others, -1.0)
        assert others[0].grad.unique().numel() == 1  # every entry the same: min above max
