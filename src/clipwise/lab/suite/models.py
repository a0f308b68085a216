"""Recurrent cells of the old kind, whose start is part of the published settings."""

import torch
from torch import Tensor, nn

__all__ = ["Elman"]


class Elman(nn.Module):
    """``h_t = f(W x_t + U h_(t-1) + b)``, read by a linear layer after the last step, or after each.

    With ``layer_norm`` the sum is normalised in every step before ``f`` (Ba, Kiros, Hinton 2016,
    arXiv:1607.06450).

    Args:
        inputs, hidden, outputs: sizes.
        f: ``"tanh"``, ``"relu"`` or ``"sigmoid"``.
        layer_norm: normalise.
        each: read after each step.

    Shapes: ``(B, T, inputs)`` to ``(B, outputs)``, or ``(B, T, outputs)`` with ``each``.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, f: str, *, layer_norm: bool = False, each: bool = False
    ) -> None:
        super().__init__()
        self.each = each
        self.f = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}[f]
        # torch has whole sequences of two of them; the others go step by step, on the same weights.
        self.cell = nn.RNN(inputs, hidden, nonlinearity="relu" if f == "relu" else "tanh", batch_first=True)
        self.fused = f != "sigmoid" and not layer_norm
        self.norm = nn.LayerNorm(hidden) if layer_norm else nn.Identity()
        self.head = nn.Linear(hidden, outputs)

    def start_(self, *, inputs: float, recurrent: Tensor) -> None:
        """Normal input and output weights with a deviation, the given recurrent ones, biases of 0."""
        into, between, *biases = self.cell.parameters()
        with torch.no_grad():
            into.normal_(0, inputs)
            self.head.weight.normal_(0, inputs)
            between.copy_(recurrent)
            for bias in (*biases, self.head.bias):
                bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        states = self._states(x)
        return self.head(states if self.each else states[:, -1])  # type: ignore[no-any-return]

    def _states(self, x: Tensor) -> Tensor:
        """The state after each step, ``(B, T, hidden)``."""
        if self.fused:
            states: Tensor = self.cell(x)[0]
            return states
        into, between, *biases = self.cell.parameters()
        fed = nn.functional.linear(x, into, biases[0] + biases[1])
        state = x.new_zeros(len(x), self.cell.hidden_size)
        found = []
        for one in fed.unbind(1):
            state = self.f(self.norm(one + state @ between.T))
            found.append(state)
        return torch.stack(found, dim=1)
