"""The networks: an encoder of the input, a recurrent or attention core, and a linear head.

Shapes: ``B`` sequences of ``T`` steps. A core maps ``(B, T, features)`` to ``(B, T, hidden_size)``.
"""

import functools
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Kind", "ModelSpec", "SequenceModel", "State", "build_model", "detached"]

Kind: TypeAlias = Literal["LSTM", "GRU", "RNN", "Transformer"]
State: TypeAlias = Tensor | tuple[Tensor, Tensor] | None
"""What a recurrent core carries from one chunk of a stream to the next; None at the start of a stream."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All that determines the shapes of a model, so that it can be rebuilt without the data.

    Attributes:
        kind: the core: ``"LSTM"``, ``"GRU"``, ``"RNN"`` (tanh) or ``"Transformer"``.
        outputs: number of outputs: classes, or 1.
        vocabulary: number of symbols if the input is one symbol per step; else 0.
        numeric: number of real features per step.
        categories: number of values of each categorical feature.
        per_step: whether every step has an output (language), or only the last one of a sequence.
        sequence_length: the longest sequence; a Transformer has no positions beyond it.
        hidden_size, layers, embedding_size, heads, dropout, layer_norm: as in the configuration.
    """

    kind: Kind
    outputs: int
    vocabulary: int = 0
    numeric: int = 0
    categories: tuple[int, ...] = ()
    per_step: bool = False
    sequence_length: int = 64
    hidden_size: int = 128
    layers: int = 1
    embedding_size: int = 64
    heads: int = 4
    dropout: float = 0.0
    layer_norm: bool = False


@functools.cache
def _has_bfloat16_cells() -> bool:
    """Whether torch has recurrent cells in bfloat16 here, tried on one: oneDNN may be held to less."""
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
        except RuntimeError:
            return False
    return True


class RecurrentCore(nn.Module):
    """LSTM, GRU or tanh RNN; its state is carried from one chunk of a stream to the next."""

    def __init__(self, spec: ModelSpec, input_size: int) -> None:
        super().__init__()
        cell = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[spec.kind]
        between = (
            spec.dropout if spec.layers > 1 else 0.0
        )  # torch drops between layers only, and warns otherwise
        self.cell = cell(input_size, spec.hidden_size, spec.layers, batch_first=True, dropout=between)
        self.before = nn.LayerNorm(input_size) if spec.layer_norm else nn.Identity()
        self.after = nn.LayerNorm(spec.hidden_size) if spec.layer_norm else nn.Identity()

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        x = self.before(x)
        # Padding follows the sequence, so no step of it reaches the steps that are read.
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not _has_bfloat16_cells():
            with torch.autocast("cpu", enabled=False):
                out, state = self.cell(x.float(), _as_float32(state))
        else:
            out, state = self.cell(x, state)
        return self.after(out), state


def _as_float32(state: State) -> State:
    if isinstance(state, tuple):
        hidden, cell = state
        return hidden.float(), cell.float()
    return None if state is None else state.float()


class TransformerCore(nn.Module):
    """Pre-norm Transformer with learned positions; causal where every step has an output."""

    def __init__(self, spec: ModelSpec, input_size: int) -> None:
        super().__init__()
        self.causal = spec.per_step
        self.project = nn.Linear(input_size, spec.hidden_size)
        self.positions = nn.Parameter(0.02 * torch.randn(spec.sequence_length, spec.hidden_size))
        layer = nn.TransformerEncoderLayer(
            spec.hidden_size,
            spec.heads,
            dim_feedforward=4 * spec.hidden_size,
            dropout=spec.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, spec.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(spec.hidden_size)

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        steps = x.shape[1]
        x = self.project(x) + self.positions[:steps]
        mask = None
        if self.causal:
            mask = torch.ones(steps, steps, dtype=torch.bool, device=x.device).triu(1)
        padding = None
        if lengths is not None:
            padding = torch.arange(steps, device=x.device) >= lengths[:, None]
        return self.norm(self.encoder(x, mask=mask, src_key_padding_mask=padding)), None


class SequenceModel(nn.Module):
    """Encoder, core and head; see `ModelSpec`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.vocabulary:
            self.symbols = nn.Embedding(spec.vocabulary, spec.embedding_size)
            size = spec.embedding_size
        else:
            # A category with n values gets about n/2 dimensions, at most embedding_size.
            widths = [min(spec.embedding_size, (n + 1) // 2) for n in spec.categories]
            self.values = nn.ModuleList(
                nn.Embedding(n, w) for n, w in zip(spec.categories, widths, strict=True)
            )
            size = spec.numeric + sum(widths)
        self.core = TransformerCore(spec, size) if spec.kind == "Transformer" else RecurrentCore(spec, size)
        self.drop = nn.Dropout(spec.dropout)
        self.head = nn.Linear(spec.hidden_size, spec.outputs)

    def forward(
        self,
        x: Tensor,
        state: State = None,
        *,
        lengths: Tensor | None = None,
        categories: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Outputs and the state after the last step.

        Args:
            x: symbols ``(B, T)``, or real features ``(B, T, numeric)``.
            state: the state after the previous chunk.
            lengths: number of steps of each sequence ``(B,)``; the rest is padding. None: all steps.
            categories: categorical features ``(B, T, len(spec.categories))``.

        Returns:
            ``(B, T, outputs)`` with ``per_step``, else ``(B, outputs)``; and the state.
        """
        if self.spec.vocabulary:
            x = self.symbols(x)
        elif categories is not None:
            x = torch.cat([x, *(table(categories[..., i]) for i, table in enumerate(self.values))], dim=-1)
        out, state = self.core(x, state, lengths)
        if not self.spec.per_step:
            out = (
                out[:, -1] if lengths is None else out[torch.arange(len(out), device=out.device), lengths - 1]
            )
        return self.head(self.drop(out)), state


def build_model(spec: ModelSpec) -> SequenceModel:
    """The model of a specification, initialised from torch's global random state.

    >>> model = build_model(ModelSpec(kind="GRU", outputs=5, vocabulary=5, per_step=True))
    >>> model(torch.zeros(2, 7, dtype=torch.long))[0].shape
    torch.Size([2, 7, 5])
    """
    return SequenceModel(spec)


def detached(state: State) -> State:
    """The state detached from its graph, for truncated backpropagation through time."""
    if state is None:
        return None
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()  # type: ignore[return-value]
