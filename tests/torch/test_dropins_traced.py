"""The drop-ins and `patch()` inside `torch.compile(fullgraph=True)`, where torch's own functions trace."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import utils

import clipwise
from tests.depth import brief

ATTACHED = "torch's own, a clip attached elsewhere"


def parameters() -> list[nn.Parameter]:
    """One is listed twice, one has no entries, one no gradient; one gradient shows one memory three times."""
    gradients = [
        torch.tensor([3e20, -4e20]),
        torch.tensor([1e4, 6e4], dtype=torch.float16),
        torch.tensor([3 - 4j, 0.1j], dtype=torch.complex64),
        torch.zeros(0),
        torch.tensor([2.0]).expand(3),
        torch.tensor([[0.25], [-0.5]], dtype=torch.float64),
    ]
    found = [nn.Parameter(torch.zeros(g.shape, dtype=g.dtype)) for g in gradients]
    for parameter, gradient in zip(found, gradients, strict=True):
        parameter.grad = gradient
    return [*found, found[0], nn.Parameter(torch.zeros(2))]


def values(some: list[nn.Parameter]) -> list[np.ndarray]:
    return [p.grad.to(torch.complex128).numpy().copy() for p in some[:6]]


def norm_of(gradients: list[np.ndarray]) -> float:
    largest = max(np.abs(g).max(initial=0.0) for g in gradients)
    return largest * math.sqrt(sum((np.abs(g / largest) ** 2).sum() for g in gradients))


def step(functions, first, second, third, max_norm):
    norm = functions.clip_grad_norm_(first, max_norm)
    functions.clip_grad_value_(second, 0.25)
    total = functions.get_total_norm([p.grad for p in third[:6]])
    functions.clip_grads_with_norm_(third, max_norm, total)
    return norm, total


@pytest.mark.parametrize("whose", brief(["ours", "patched", ATTACHED], "patched", ATTACHED))
def test_they_trace(whose):
    torch._dynamo.reset()
    functions = clipwise.torch if whose == "ours" else utils
    if whose == "patched":
        context = clipwise.torch.patch()
    else:
        other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        context = clipwise.torch.attach(other, "clip_by_global_norm(1.0)")

    def traced(*args):
        return step(functions, *args)

    compiled = torch.compile(traced, fullgraph=True, backend="eager")
    with context:
        # The threshold is a constant of the graph first, and then a number that it is given.
        for max_norm in (0.5, 0.25, 0.125):
            given = [parameters() for _ in range(3)]
            if whose == ATTACHED:  # torch's own lose half of these
                given = [[one[5], one[7]] for one in given]
                before = [values(one[:1]) for one in given]
            else:
                before = [values(one) for one in given]
            norms = compiled(*given, max_norm)
            expected = norm_of(before[0])
            assert [float(norm) for norm in norms] == pytest.approx([expected] * 2, rel=1e-6)
            coefficient = min(1.0, max_norm / (expected + 1e-6))
            for some, old in zip(given, before, strict=True):
                for new, g in zip(values(some[: len(old)]), old, strict=True):
                    size = np.maximum(np.abs(g), 0.25)
                    wanted = g * 0.25 / size if some is given[1] else g * coefficient
                    # Half precision keeps eleven bits, and of the smallest numbers fewer.
                    np.testing.assert_allclose(new, wanted, rtol=1e-6, atol=1e-7)
    torch._dynamo.reset()


def test_orders_and_what_is_refused():
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def clip(weight, order, max_norm):
        clipwise.torch.clip_grad_norm_(weight, max_norm, order)

    def compiled(order, max_norm):
        weight = nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor([3.0, -4.0])
        clip(weight, order, max_norm)
        return weight.grad

    assert compiled(math.inf, torch.tensor(0.4)).tolist() == pytest.approx([0.3, -0.4], rel=1e-5)
    assert compiled(1.0, 0.7).tolist() == pytest.approx([0.3, -0.4], rel=1e-5)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="exception"):
        compiled(2.0, -1.0)
    torch._dynamo.reset()
