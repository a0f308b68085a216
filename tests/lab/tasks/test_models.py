"""The networks: no look into the future, no trace of the padding, a state that continues."""

import pytest
import torch

from clipwise.lab.tasks.models import Kind, ModelSpec, build_model, detached

RECURRENT: list[Kind] = ["LSTM", "GRU", "RNN"]
ALL: list[Kind] = [*RECURRENT, "Transformer"]


def language(kind: Kind, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    spec = {"vocabulary": 11, "outputs": 11, "per_step": True, "hidden_size": 16, "embedding_size": 8}
    return build_model(ModelSpec(kind=kind, **spec | options)).eval()  # type: ignore[arg-type]


def classifier(kind: Kind) -> torch.nn.Module:
    torch.manual_seed(0)
    spec = ModelSpec(
        kind=kind, outputs=3, numeric=2, categories=(4, 300), hidden_size=16, embedding_size=8, layers=2
    )
    return build_model(spec).eval()


@pytest.mark.parametrize("kind", ALL)
def test_an_output_depends_on_nothing_after_it(kind: Kind) -> None:
    model = language(kind, layers=2)
    x = torch.randint(11, (2, 9))
    changed = x.clone()
    changed[:, 6:] = (x[:, 6:] + 1) % 11
    before, after = model(x)[0], model(changed)[0]
    # Masked attention adds exact zeros, but another kernel may sum in another order.
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-3)


@pytest.mark.parametrize("kind", ALL)
def test_padding_changes_nothing(kind: Kind) -> None:
    model = classifier(kind)
    x, categories = torch.randn(1, 5, 2), torch.randint(4, (1, 5, 2))
    alone, _ = model(x, categories=categories)
    longer = torch.cat([x, torch.full((1, 3, 2), 99.0)], dim=1)
    more = torch.cat([categories, torch.full((1, 3, 2), 3)], dim=1)
    padded, _ = model(longer, lengths=torch.tensor([5]), categories=more)
    # The same sums, in another order.
    torch.testing.assert_close(alone, padded, rtol=1e-5, atol=1e-6)
    shorter, _ = model(longer, lengths=torch.tensor([4]), categories=more)
    assert not torch.allclose(alone, shorter, atol=1e-3)


def test_layer_norm_is_around_a_recurrent_core() -> None:
    model = language("GRU", layer_norm=True)
    x = torch.randint(11, (2, 9))
    into = model.symbols(x).double()
    into = (into - into.mean(-1, keepdim=True)) / (into.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    out = model.core.cell(into.float())[0].double()
    out = (out - out.mean(-1, keepdim=True)) / (out.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(model(x)[0], model.head(out.float()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", RECURRENT)
def test_two_chunks_with_the_state_between_are_one(kind: Kind) -> None:
    model = language(kind)
    x = torch.randint(11, (2, 10))
    whole, _ = model(x)
    first, state = model(x[:, :6])
    second, _ = model(x[:, 6:], detached(state))
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_detached_state_has_no_graph(kind: Kind) -> None:
    _, state = language(kind)(torch.randint(11, (2, 3)))
    states = state if isinstance(state, tuple) else (state,)
    kept = detached(state)
    assert all(s.requires_grad for s in states)
    assert not any(s.requires_grad for s in (kept if isinstance(kept, tuple) else (kept,)))
    assert detached(None) is None


@pytest.mark.parametrize("kind", ALL)
def test_every_parameter_gets_a_gradient(kind: Kind) -> None:
    model = classifier(kind)
    out, _ = model(
        torch.randn(4, 5, 2), lengths=torch.tensor([5, 1, 3, 2]), categories=torch.randint(4, (4, 5, 2))
    )
    assert out.shape == (4, 3)
    out.square().sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []


def test_an_rnn_is_tanh_of_its_sums() -> None:
    model = language("RNN")
    x = torch.randint(11, (1, 3))
    cell = model.core.cell  # type: ignore[union-attr]
    h = torch.zeros(16)
    for symbol in x[0]:
        e = model.symbols.weight[symbol]  # type: ignore[union-attr, index]
        h = torch.tanh(cell.weight_ih_l0 @ e + cell.bias_ih_l0 + cell.weight_hh_l0 @ h + cell.bias_hh_l0)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model(x)[0][0, -1], model.head(h), rtol=1e-5, atol=1e-6)  # type: ignore[operator]
