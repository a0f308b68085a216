"""Recurrent cells of the old kind, whose start is part of the published settings."""

import torch
from torch import Tensor, nn

__all__ = ["Elman"]


class Elman(nn.Module):
    """``h_t = f(W x_t + U h_(t-1) + b)``, read after the last step by a linear layer.

    With ``layer_norm`` the sum is normalised in every step before ``f`` (Ba, Kiros, Hinton 2016,
    arXiv:1607.06450).

    Args:
        inputs, hidden, outputs: sizes.
        f: ``"tanh"``, ``"relu"`` or ``"sigmoid"``.
        layer_norm: normalise.

    Shapes: ``(B, T, inputs)`` to ``(B, outputs)``.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, f: str, *, layer_norm: bool = False) -> None:
        super().__init__()
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
        return self.head(self._last(x))  # type: ignore[no-any-return]

    def _last(self, x: Tensor) -> Tensor:
        """The state after the last step."""
        if self.fused:
            states: Tensor = self.cell(x)[0]
            return states[:, -1]
        into, between, *biases = self.cell.parameters()
        fed = nn.functional.linear(x, into, biases[0] + biases[1])
        state = x.new_zeros(len(x), self.cell.hidden_size)
        for one in fed.unbind(1):
            state = self.f(self.norm(one + state @ between.T))
        return state
