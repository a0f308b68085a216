"""The losses of CleanRL, Stable-Baselines3 and TRL at their defaults, in torch, from what they publish.

CleanRL: docs.cleanrl.dev/rl-algorithms/ppo. TRL 1.16: GRPOTrainer, epsilon 0.2, no delta, no KL penalty.
"""

import pytest
import torch

from clipwise.functional import ratios
from tests.functional.ratios import cases


def tensors(seed, dtype=torch.float32):
    logp, old, by_token, by_sequence, mask = cases.batch(seed)
    logp = torch.tensor(logp, dtype=dtype, requires_grad=True)
    return logp, *(torch.tensor(x, dtype=dtype) for x in (old, by_token, by_sequence)), torch.tensor(mask)


def agree(logp, found, wanted):
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=1e-7)
    (mine,) = torch.autograd.grad(found, logp)
    (theirs,) = torch.autograd.grad(wanted, logp)
    torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=1e-7)
    assert theirs.any()


def test_cleanrl_policy_loss_and_figures():
    logp, old, worth, _, _ = (x.reshape(-1) for x in tensors(21))
    logp = logp.detach().requires_grad_()
    log_ratio = logp - old
    ratio = torch.exp(log_ratio)
    worse = torch.maximum(-worth * ratio, -worth * torch.clip(ratio, 0.8, 1.2))
    loss, figures = ratios.ppo_clip(logp, old, worth, low=0.2)
    agree(logp, loss, torch.mean(worse))
    torch.testing.assert_close(figures.kl_k1, -log_ratio.detach().mean())
    torch.testing.assert_close(figures.kl_k3, (ratio.detach() - 1 - log_ratio.detach()).mean())
    torch.testing.assert_close(figures.outside, ((ratio.detach() - 1).abs() > 0.2).float().mean())


def test_cleanrl_and_baselines3_value_loss():
    values, old, returns, _, _ = (x.reshape(-1) for x in tensors(22))
    values = values.detach().requires_grad_()

    def near():
        return old + torch.clip(values - old, -0.2, 0.2)

    worse = torch.maximum((values - returns) ** 2, (near() - returns) ** 2)
    agree(values, ratios.value_clip(values, old, returns).loss, worse.mean() / 2)
    found = ratios.value_clip(values, old, returns, convention="clipped").loss
    agree(values, found, torch.nn.functional.mse_loss(near(), returns))


def trl(logp, old, worth, mask, kind, *, delta=None, longest=None, per_sequence=False, epsilon_high=0.2):
    """TRL's loss for one process and no accumulation."""
    m = mask.to(logp.dtype)
    log_ratio = logp - old
    if per_sequence:
        log_ratio = torch.einsum("bt,bt->b", log_ratio, m)[:, None] / m.sum(1, keepdim=True).clip(min=1)
    ratio, a = log_ratio.exp(), worth[:, None]
    if kind == "cispo":
        terms = -(ratio.clip(max=epsilon_high).detach() * a * logp)
    else:
        free = ratio if delta is None else ratio.clip(max=delta)
        terms = -torch.minimum(free * a, ratio.clip(0.8, 1 + epsilon_high) * a)
    if kind == "grpo":
        return ((terms * m).sum(1) / m.sum(1).clip(min=1)).mean()
    if kind == "dr_grpo":
        return (terms * m).sum() / (len(m) * longest)
    return (terms * m).sum() / m.sum().clip(min=1)  # bnpo, dapo, cispo: over the tokens of the batch


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        ({"kind": "grpo"}, ratios.grpo),
        ({"kind": "bnpo"}, ratios.ppo_clip),
        ({"kind": "dapo", "epsilon_high": 0.28}, ratios.dapo),
        ({"kind": "dr_grpo", "longest": 9}, lambda *x, mask: ratios.dr_grpo(*x, length=9, mask=mask)),
        ({"kind": "dapo", "delta": 1.5}, lambda *x, mask: ratios.two_sided(*x, delta=1.5, mask=mask)),
        (
            {"kind": "grpo", "per_sequence": True},
            lambda *x, mask: ratios.gspo(*x, low=0.2, high=0.2, mask=mask),
        ),
        (
            {"kind": "bnpo", "per_sequence": True},
            lambda *x, mask: ratios.ppo_clip(*x, per="sequence", mask=mask),
        ),
        (
            {"kind": "cispo"},  # with TRL's own default: every ratio above 0.2 weighs 0.2
            lambda *x, mask: ratios.cispo(*x, high=0.2, convention="trl", mask=mask),
        ),
        (
            {"kind": "cispo", "epsilon_high": 5.0},  # the number its documentation gives
            lambda *x, mask: ratios.cispo(*x, high=4.0, mask=mask),
        ),
    ],
)
def test_trl(theirs, mine, empty):
    logp, old, _, worth, mask = tensors(23)
    if empty:
        mask[1] = False
    agree(logp, mine(logp, old, worth, mask=mask).loss, trl(logp, old, worth, mask, **theirs))


def test_trl_clip_ratios():
    logp, old, _, worth, mask = tensors(24)
    found = ratios.grpo(logp, old, worth, mask=mask).figures
    ratio, a = (logp - old).exp().detach(), worth[:, None]
    low = ((ratio < 0.8) & (a < 0))[mask].float().mean()
    high = ((ratio > 1.2) & (a > 0))[mask].float().mean()
    torch.testing.assert_close(torch.stack([found.binding_low, found.binding_high]), torch.stack([low, high]))
    torch.testing.assert_close(found.binding, low + high)
    assert low > 0
    assert high > 0
