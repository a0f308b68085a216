"""The gradient penalty against float64 numpy, finite differences, and the edges of its formula."""

import numpy as np
import pytest
import torch
from torch import nn

from clipwise.errors import ArgumentError
from clipwise.torch import gradient_penalty

RNG = np.random.default_rng(11)
W1, B1 = RNG.normal(size=(4, 6)), RNG.normal(size=6)
W2 = RNG.normal(size=6)
REAL, FAKE = RNG.normal(size=(2, 5, 4))
ALPHA = RNG.uniform(size=5)


def by_hand(w1=W1, b1=B1, w2=W2, *, weight=10.0, target=1.0, one_sided=False):
    """Of the critic ``tanh(x w1 + b1) w2``."""
    points = ALPHA[:, None] * REAL + (1 - ALPHA[:, None]) * FAKE
    slopes = ((1 - np.tanh(points @ w1 + b1) ** 2) * w2) @ w1.T
    beyond = np.linalg.norm(slopes, axis=1) - target
    return weight * np.mean((np.maximum(beyond, 0) if one_sided else beyond) ** 2)


def tensors(*arrays, dtype=torch.float64):
    return [torch.tensor(array, dtype=dtype) for array in arrays]


@pytest.mark.parametrize("settings", [{}, {"weight": 2.5, "target": 4.0}, {"target": 3.5, "one_sided": True}])
def test_formula(settings):
    w1, b1, w2, real, fake, alpha = tensors(W1, B1, W2, REAL, FAKE, ALPHA)
    found = gradient_penalty(lambda x: torch.tanh(x @ w1 + b1) @ w2, real, fake, alpha=alpha, **settings)
    assert found.shape == ()
    assert found.item() == pytest.approx(by_hand(**settings), rel=1e-12)


@pytest.mark.parametrize("one_sided", [False, True])
def test_its_gradient_is_that_of_finite_differences(one_sided):
    w1, b1, w2, real, fake, alpha = tensors(W1, B1, W2, REAL, FAKE, ALPHA)
    leaves = [one.requires_grad_() for one in (w1, b1, w2)]
    settings = {"target": 3.5, "one_sided": one_sided}
    gradient_penalty(lambda x: torch.tanh(x @ w1 + b1) @ w2, real, fake, alpha=alpha, **settings).backward()
    for place, leaf in enumerate(leaves):
        values = [W1, B1, W2]
        for index in np.ndindex(leaf.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [v.copy() for v in values]
                moved[place][index] += step
                ends.append(by_hand(*moved, **settings))
            assert float(leaf.grad[index]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-6)


def test_twice_differentiable_in_its_parameters():
    real, fake, alpha = tensors(REAL, FAKE, ALPHA)
    w1, w2 = (one.requires_grad_() for one in tensors(W1, W2))

    def penalty(w1, w2):
        return gradient_penalty(lambda x: torch.tanh(x @ w1) @ w2, real, fake, alpha=alpha)

    assert torch.autograd.gradcheck(penalty, (w1, w2))
    assert torch.autograd.gradgradcheck(penalty, (w1, w2))


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4, 4), (3, 1, 2, 3, 2)])
def test_any_rank(shape):
    """Of ``sum of slope x`` the norm is that of the slope over all axes but the first."""
    slope = torch.randn(shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = torch.zeros(shape, dtype=torch.float64)

    def critic(x):
        return (x * slope).reshape(len(x), -1).sum(1, keepdim=True)

    norm = float(np.linalg.norm(np.ravel(slope.numpy())))
    assert float(gradient_penalty(critic, batch, batch)) == pytest.approx(10 * (norm - 1) ** 2, rel=1e-12)


def test_points_lie_between_each_pair_by_one_alpha():
    seen = []

    def critic(x):
        seen.append(x.detach().clone())
        return x.sum((1, 2))

    real, fake = torch.ones(64, 3, 2), torch.zeros(64, 3, 2)
    found = gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(3))
    again = gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(3))
    assert found == again
    assert torch.equal(seen[0], seen[1])
    alphas = seen[0][:, 0, 0]
    assert torch.equal(seen[0], alphas[:, None, None].expand(64, 3, 2))
    assert len(alphas.unique()) == 64
    assert 0 <= alphas.min() < 0.15
    assert 0.85 < alphas.max() <= 1
    gradient_penalty(critic, real, fake, alpha=0.25)
    assert (seen[-1] == 0.25).all()
    gradient_penalty(critic, real, fake, alpha=alphas[:, None, None])
    assert torch.equal(seen[-1], seen[0])


@pytest.mark.parametrize("real", [torch.float16, torch.float32])
def test_a_number_for_alpha_has_the_digits_of_the_points(real):
    """Those of the wider batch: 0.1 in float16 is off by 2e-5."""
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.sum(1)

    gradient_penalty(critic, torch.ones(2, 3, dtype=real), torch.zeros(2, 3, dtype=torch.float64), alpha=0.1)
    assert (seen[0] == torch.tensor(0.1, dtype=torch.float64)).all()


def test_a_gradient_of_zeros_costs_the_target_and_pulls_nowhere():
    w = torch.zeros(4, requires_grad=True)
    found = gradient_penalty(lambda x: x @ w, torch.ones(3, 4), torch.zeros(3, 4))
    found.backward()
    assert found.item() == 10.0
    assert torch.equal(w.grad, torch.zeros(4))


def test_the_squares_of_small_slopes_are_not_lost():
    """In float32 they are 0, and nothing would pull such a critic up."""
    w = torch.tensor([3e-25, 4e-25], requires_grad=True)
    gradient_penalty(lambda x: x @ w, torch.ones(2, 2), torch.zeros(2, 2), weight=1.0).backward()
    np.testing.assert_allclose(w.grad.numpy(), [-2 * 0.6, -2 * 0.8], rtol=1e-6)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_are_not_hidden(bad, one_sided):
    slope = torch.tensor([bad, 1.0])
    found = gradient_penalty(lambda x: x @ slope, torch.ones(2, 2), torch.zeros(2, 2), one_sided=one_sided)
    assert not torch.isfinite(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    real, fake, alpha = tensors(REAL, FAKE, ALPHA, dtype=torch.float32)
    exact = gradient_penalty(critic, real, fake, alpha=alpha)
    wanted = torch.autograd.grad(exact, list(critic.parameters())[:1])[0]
    with torch.autocast("cpu", dtype=dtype):
        inside = gradient_penalty(critic, real, fake.to(dtype), alpha=alpha)
        assert inside.dtype == torch.float32
    inside.backward()
    assert inside.item() == pytest.approx(exact.item(), rel=0.05)
    found = critic[0].weight.grad
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found.ravel(), wanted.ravel(), dim=0) > 0.99


def test_a_scaler_scales_the_loss_only():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    real, fake, alpha = tensors(REAL, FAKE, ALPHA, dtype=torch.float32)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    (plain,) = torch.autograd.grad(gradient_penalty(critic, real, fake, alpha=alpha), [critic[0].weight])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(gradient_penalty(critic, real, fake, alpha=alpha)).backward()
    scaler.unscale_(optimizer)
    torch.testing.assert_close(critic[0].weight.grad, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_halves_are_wide(dtype):
    """512 slopes of 256: their squares leave float16, their sum has more digits than bfloat16."""
    slope = torch.full((512,), 256.0, dtype=dtype)
    batch = torch.zeros(2, 512, dtype=dtype)
    found = gradient_penalty(lambda x: x @ slope, batch, batch, weight=1.0, target=0.0)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(512 * 256.0**2, rel=1e-6)


def test_without_grad_it_is_a_number():
    w = torch.ones(4, requires_grad=True)
    with torch.no_grad():
        found = gradient_penalty(lambda x: x @ w, torch.ones(3, 4), torch.zeros(3, 4))
    assert not found.requires_grad
    assert float(found) == 10.0
    with torch.inference_mode(), pytest.raises(ArgumentError, match=r"torch\.inference_mode.*torch\.no_grad"):
        gradient_penalty(lambda x: x @ w, torch.ones(3, 4), torch.zeros(3, 4))


def test_nothing_flows_back_into_the_samples():
    w = torch.ones(4, requires_grad=True)
    fake = torch.zeros(3, 4, requires_grad=True)
    gradient_penalty(lambda x: (x**2) @ w, torch.ones(3, 4), fake).backward()
    assert fake.grad is None
    assert w.grad is not None


TWO = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fake": torch.zeros(2, 4)}, r"the same shape, got \(2, 3\) and \(2, 4\)"),
        ({"real": torch.tensor(1.0), "fake": torch.tensor(1.0)}, "single numbers"),
        ({"real": torch.zeros(0, 3), "fake": torch.zeros(0, 3)}, r"shape \(0, 3\)"),
        ({"real": torch.zeros(2, 3, dtype=torch.uint8)}, "real must be a tensor of floats, got torch.uint8"),
        ({"fake": [[0.0]]}, "fake must be a tensor of floats, got list"),
        ({"critic": lambda x: x.mean()}, r"one number per sample.*got the shape \(\)"),
        ({"critic": lambda x: x}, r"got the shape \(2, 3\)"),
        ({"critic": lambda x: torch.zeros(2)}, "does not depend on its input"),
        ({"critic": lambda x: torch.zeros(2, requires_grad=True)}, "does not depend on its input"),
        ({"critic": lambda x: 1.0}, "must return a tensor, returned float"),
        ({"alpha": torch.zeros(3)}, r"shape \(2,\), got the shape \(3,\)"),
        ({"alpha": torch.zeros(2, 3)}, r"got the shape \(2, 3\)"),
        ({"alpha": 1.5}, "between 0 and 1, got 1.5"),
        ({"alpha": 0.5, "generator": torch.Generator()}, "not both"),
        ({"weight": -1.0}, "weight must be a finite number of at least 0, got -1.0"),
        ({"target": float("nan")}, "target must be a finite number of at least 0, got nan"),
        ({"target": "1"}, "target must be a finite number of at least 0, got '1'"),
    ],
)
def test_refused(change, said):
    arguments = {"critic": lambda x: x.sum(1), "real": TWO, "fake": TWO} | change
    with pytest.raises(ArgumentError, match=said):
        gradient_penalty(**arguments)
