"""QK-Clip on real projections: after the step the largest logit is tau, by a float64 computation."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from clipwise.errors import ArgumentError, StateError
from clipwise.torch import QKClip

HEADS, SIZE, WIDTH = 4, 3, 12
TAU = 2.0


def linear(heads, bias=True):
    return nn.Linear(WIDTH, heads * SIZE, bias=bias)


def inputs(seed=0):
    return torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2.0


def rows(module):
    return [p.detach().double().numpy() for p in (module.weight, module.bias) if p is not None]


def largest(x, q, k, heads, kv_heads):
    """The largest logit of each head, from weights, in float64."""
    x = x.double().numpy()
    qs, ks = (x @ part[0].T + (part[1] if len(part) > 1 else 0) for part in (q, k))
    found = []
    for h in range(heads):
        g = h // (heads // kv_heads)
        one, two = qs[..., h * SIZE : (h + 1) * SIZE], ks[..., g * SIZE : (g + 1) * SIZE]
        found.append((one @ np.swapaxes(two, -1, -2)).max() / SIZE**0.5)
    return np.array(found)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("alpha", [0.5, 0.0, 0.8, 1.0])
@pytest.mark.parametrize(("kv_heads", "shared"), [(4, "query"), (2, "query"), (1, "query")])
def test_the_largest_logit_is_tau_after_the_step(bias, alpha, kv_heads, shared):
    torch.manual_seed(3)
    q, k, x = linear(HEADS, bias), linear(kv_heads, bias), inputs()
    before, old = largest(x, rows(q), rows(k), HEADS, kv_heads), [rows(q), rows(k)]
    tau = float(np.median(before))  # some heads are above, and some are not
    over = before > tau
    clip = QKClip(q, k, heads=HEADS, kv_heads=kv_heads, tau=tau, alpha=alpha, shared=shared)
    clip.observe_inputs(x)
    np.testing.assert_allclose(clip.largest, before, rtol=1e-5)
    gamma = clip.step_()
    np.testing.assert_allclose(gamma, np.minimum(1, tau / before), rtol=1e-5)
    after = largest(x, rows(q), rows(k), HEADS, kv_heads)
    np.testing.assert_allclose(after, np.where(over, tau, before), rtol=2e-6)
    for found, expected in zip(rows(q), old[0], strict=True):  # gamma**alpha, or gamma where k is shared
        power = alpha if kv_heads == HEADS else 1.0
        factor = np.repeat(gamma.double().numpy() ** power, SIZE)
        np.testing.assert_allclose(
            found, expected * (factor[:, None] if found.ndim > 1 else factor), rtol=1e-6
        )
        still = np.repeat(~over, SIZE)
        np.testing.assert_array_equal(found[still], expected[still])  # to the bit
    if kv_heads < HEADS:
        np.testing.assert_array_equal(rows(k)[0], old[1][0])
    assert clip.largest is None


def test_keys_that_are_shared_give_way_by_the_least_gamma():
    torch.manual_seed(3)
    q, k, x = linear(HEADS), linear(2), inputs()
    before, old = largest(x, rows(q), rows(k), HEADS, 2), rows(k)
    gamma = np.minimum(1, TAU / before)
    clip = QKClip(q, k, heads=HEADS, kv_heads=2, tau=TAU, shared="min")
    clip.observe_inputs(x)
    clip.step_()
    after = largest(x, rows(q), rows(k), HEADS, 2)
    least = gamma.reshape(2, 2).min(1)
    expected = before * np.sqrt(gamma) * np.repeat(np.sqrt(least), 2)
    np.testing.assert_allclose(after, expected, rtol=1e-5)
    assert after.max() <= TAU * (1 + 1e-6)
    np.testing.assert_allclose(rows(k)[0], old[0] * np.repeat(np.sqrt(least), SIZE)[:, None], rtol=1e-6)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("bias", "kdim"), [(True, None), (False, None), (True, 5)])
def test_multihead_attention(batch_first, bias, kdim):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, kdim=kdim, batch_first=batch_first).double()
    x = 4 * inputs().double()
    key = x if kdim is None else 4 * torch.randn(2, 7, kdim, dtype=torch.float64)
    value = x if kdim is None else key.new_ones(2, 7, WIDTH)
    captured = {}

    def logits():
        """By what torch's own attention weights say: differences of logits are of their logarithms."""
        size = module.embed_dim
        if kdim is None:
            weights = module.in_proj_weight[:size], module.in_proj_weight[size : 2 * size]
        else:
            weights = module.q_proj_weight, module.k_proj_weight
        biases = (0, 0) if not bias else (module.in_proj_bias[:size], module.in_proj_bias[size : 2 * size])
        q, k = (
            (a @ w.T + b).unflatten(-1, (HEADS, SIZE))
            for a, w, b in zip((x, key), weights, biases, strict=True)
        )
        found = torch.einsum("bihd,bjhd->bhij", q, k) / SIZE**0.5
        out = module(
            *(a if batch_first else a.transpose(0, 1) for a in (x, key, value)), average_attn_weights=False
        )
        torch.testing.assert_close(found.softmax(-1), out[1])  # so these are the logits that torch uses
        captured["value"] = out[0]
        return found.amax((0, 2, 3)).detach()

    with torch.no_grad():
        if bias:
            nn.init.normal_(module.in_proj_bias)
    before, values = logits(), (module.in_proj_weight if kdim is None else module.v_proj_weight).clone()
    clip = QKClip(module, tau=TAU)
    clip.observe_inputs(*(a if batch_first else a.transpose(0, 1) for a in (x, key)))
    torch.testing.assert_close(clip.largest, before)
    clip.step_()
    torch.testing.assert_close(logits(), before.clamp(max=TAU))
    assert (before > TAU).any()
    weights = module.in_proj_weight if kdim is None else module.v_proj_weight
    assert torch.equal(weights[-WIDTH:], values[-WIDTH:])  # those of v stay


def test_in_a_forward_pass_causal_over_two_micro_batches():
    torch.manual_seed(1)
    q, k = linear(HEADS), linear(2)
    clip = QKClip(q, k, heads=HEADS, kv_heads=2, tau=0.5)
    seen = []
    for x in (inputs(1), inputs(2)):
        heads = [p(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for p in (q, k)]
        clip.observe(*heads, causal=True, scale=0.3)
        logits = 0.3 * heads[0] @ heads[1].repeat_interleave(2, 1).mT
        seen.append(logits.masked_fill(~torch.ones(6, 6).tril().bool(), -np.inf).amax((0, 2, 3)))
    torch.testing.assert_close(clip.largest, torch.stack(seen).amax(0).detach())
    assert not clip.largest.requires_grad
    assert clip.step_().min() < 1


def test_a_logit_that_is_not_finite_leaves_its_head_alone():
    q, k = linear(HEADS), linear(HEADS)
    old = q.weight.clone()
    clip = QKClip(q, k, heads=HEADS)
    clip.observe_logits(torch.tensor([np.nan, np.inf, 400.0, -np.inf]))
    assert clip.step_().tolist() == [1, 1, 0.25, 1]
    changed = (q.weight != old).flatten(1).any(1).unflatten(0, (HEADS, SIZE)).all(1)
    assert changed.tolist() == [False, False, True, False]
    assert torch.isfinite(q.weight).all()


def test_after_each_step_of_an_optimizer_in_half_precision():
    q, k = linear(HEADS).bfloat16(), linear(HEADS).bfloat16()
    optimizer = torch.optim.SGD([*q.parameters(), *k.parameters()], 0.0)
    clip = QKClip(q, k, heads=HEADS, tau=TAU)
    optimizer.register_step_post_hook(lambda *_: clip.step_())
    x = 3 * inputs().bfloat16()
    clip.observe_inputs(x)
    optimizer.step()
    after = largest(x, rows(q), rows(k), HEADS, HEADS)
    assert after.max() <= TAU * 1.02
    with pytest.raises(StateError, match="needs an observation"):
        optimizer.step()


SEEN = [  # by rank: what the four heads of two modules saw; one of them nothing
    ([400.0, 60.0, 100.0, -5.0], None),
    ([50.0, 200.0, np.nan, -np.inf], [100.0, 125.0, 3.0, 800.0]),
]
TOGETHER = [[0.25, 0.5, 1.0, 1.0], [1.0, 0.8, 1.0, 0.125]]  # gamma of the larger of both


def two_ranks(rank, folder):
    """What each of two processes has of a step of two modules; written to a file by each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    reduce, calls, said = dist.all_reduce, [], {}
    dist.all_reduce = lambda *a, **k: calls.append(a) or reduce(*a, **k)

    def stepped(name, group, seen=SEEN[rank]):
        queries = [linear(HEADS, False) for _ in seen]
        clips = [QKClip(q, linear(HEADS, False), heads=HEADS, alpha=1.0) for q in queries]
        for clip, q, each in zip(clips, queries, seen, strict=True):
            nn.init.ones_(q.weight)
            if each:
                clip.observe_logits(torch.tensor(each))
        try:
            gamma = [g.tolist() for g in QKClip.step_together_(clips, group=group)]
            said[name] = gamma, [q.weight[::SIZE, 0].tolist() for q in queries], len(calls)
        except StateError as error:
            assert all((q.weight == 1).all() for q in queries)
            said[name] = str(error)
        calls.clear()

    stepped("default", None)
    stepped("none", False)
    stepped("own", [dist.new_group([0]), dist.new_group([1])][rank], SEEN[rank][:1])
    stepped("nobody", None, [SEEN[rank][0], None])
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(said, file)
    dist.destroy_process_group()


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)
def test_processes_take_the_largest_of_all_in_one_collective(tmp_path):
    mp.spawn(two_ranks, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["default"] == second["default"]
    gamma, weights, calls = first["default"]
    np.testing.assert_allclose([gamma, weights], [TOGETHER, TOGETHER], rtol=1e-6)
    assert calls == 1
    np.testing.assert_allclose(second["none"][0], [[1, 0.5, 1, 1], TOGETHER[1]], rtol=1e-6)
    assert second["none"][2] == 0
    assert "clips[1] needs an observation" in first["none"]
    assert first["own"][0], second["own"][0] == ([[0.25, 1, 1, 1]], [[1, 0.5, 1, 1]])
    assert first["nobody"] == second["nobody"]
    assert "clips[1] needs an observation" in first["nobody"]


def weight_normed(module, name="weight"):
    return nn.utils.parametrizations.weight_norm(module, name)


def test_weights_that_are_made_anew_in_each_pass_are_refused():
    q, k = linear(HEADS), linear(HEADS)
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(linear(HEADS))
    for arguments in (
        (weight_normed(linear(HEADS)), k),
        (k, old),
        (weight_normed(nn.MultiheadAttention(8, 4), "in_proj_weight"),),
        (weight_normed(nn.MultiheadAttention(8, 4, kdim=3), "k_proj_weight"),),
    ):
        with pytest.raises(ArgumentError, match=r"weight of .* is not a parameter: .* parametrized"):
            QKClip(*arguments, heads=HEADS)
    clip = QKClip(q, k, heads=HEADS)
    clip.observe_logits(torch.full((HEADS,), 400.0))
    weight_normed(k)
    before = q.weight.clone()
    with pytest.raises(ArgumentError, match="parametrized"):
        clip.step_()
    assert torch.equal(q.weight, before)


def test_what_is_refused():
    q, k = linear(HEADS), linear(2)
    attention = nn.MultiheadAttention(8, 2)
    for arguments, words in [
        (((q, k), {"heads": 4, "kv_heads": 3}), "heads a multiple"),
        (((q, k), {"heads": 4}), "do not divide into 4 heads of q and 4 of k"),
        (((q, k), {"heads": 5, "kv_heads": 5}), "projections of 12 and 6 rows do not divide"),
        (((q, k), {}), "heads must be"),
        (((q, q), {"heads": 4}), "share one weight"),
        (((q,), {"heads": 4}), "k_proj must be a torch.nn.Linear"),
        (((nn.Conv1d(1, 1, 1), k), {"heads": 4}), "q_proj must be a torch.nn.Linear"),
        (((attention,), {"heads": 4}), "give it alone"),
        (((attention, k), {}), "give it alone"),
        (((nn.MultiheadAttention(8, 2, add_bias_kv=True),), {}), "add_bias_kv"),
        (((q, k), {"heads": 4, "kv_heads": 2, "tau": 0.0}), "tau must be"),
        (((q, k), {"heads": 4, "kv_heads": 2, "alpha": 2.0}), "alpha must be"),
        (((q, k), {"heads": 4, "kv_heads": 2, "shared": "max"}), "shared must be"),
    ]:
        with pytest.raises(ArgumentError, match=words):
            QKClip(*arguments[0], **arguments[1])
    clip = QKClip(q, k, heads=4, kv_heads=2)
    with pytest.raises(ArgumentError, match="given twice"):
        QKClip.step_together_([clip, clip])
    with pytest.raises(ArgumentError, match=r"group must be a process group, .* got True"):
        clip.step_(group=True)
    with pytest.raises(StateError, match="observation"):
        clip.step_()
    with pytest.raises(ArgumentError, match=r"logits of 4 heads, got the shape \(3,\)"):
        clip.observe_logits(torch.ones(3))
    with pytest.raises(ArgumentError, match="logits of 4 heads"):
        clip.observe(torch.ones(2, 2, 5, 3), torch.ones(2, 2, 5, 3))
