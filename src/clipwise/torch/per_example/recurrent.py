"""LSTM, GRU and RNN, and their cells, made of what has a formula: linear layers around a recurrence."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from clipwise.torch.per_example.linear import LinearUse
from clipwise.torch.per_example.recurrence import Kind, Recurrence
from clipwise.torch.per_example.uses import NotFollowed, Use

if TYPE_CHECKING:
    from clipwise.torch.per_example.recorder import Recorder

__all__ = ["RECURRENT"]


def _layers(
    kind: Kind,
    recorder: "Recorder",
    input: Tensor,
    hx: Any,
    params: Any,
    has_biases: Any,
    num_layers: Any = None,
    dropout: Any = None,
    train: Any = None,
    bidirectional: Any = None,
    batch_first: Any = False,
) -> tuple[Tensor, ...]:
    """torch's functions of the same names, with the same arguments and results."""
    if not isinstance(has_biases, bool):  # the arguments for a packed sequence are others
        tensors = [*([params] if isinstance(params, Tensor) else params), *has_biases]
        raise NotFollowed(
            f"{recorder.seen.name_of(*tensors)!r} is applied to a packed sequence, whose rows are not sorted"
            " by example: use the padded sequence, and exclude the padding from the loss"
        )
    states = [hx] if isinstance(hx, Tensor) else list(hx)
    axis = 0 if batch_first else 1
    fits = input.ndim == 3 and input.shape[axis] == recorder.size
    _refuse(recorder, [input], [*params, *states], fits, axis)
    states = [_learned(recorder, one) for one in states]
    x = input.transpose(0, 1) if batch_first else input
    directions = 2 if bidirectional else 1
    each = len(params) // (num_layers * directions)
    last: list[list[Tensor]] = [[] for _ in states]
    for layer in range(num_layers):
        recorder.seen.mark(x, True)
        outputs = []
        for place in range(layer * directions, (layer + 1) * directions):
            own = list(params[place * each : (place + 1) * each])
            w_ih, w_hh, *biases = own[: 4 if has_biases else 2]
            w_hr = own[-1] if len(own) in (3, 5) else None
            backwards = place % directions == 1
            found = _over_time(
                recorder, kind, x, [one[place] for one in states], w_ih, w_hh, biases, w_hr, backwards
            )
            outputs.append(found[0])
            for kept, one in zip(last, (found[0][0 if backwards else -1], *found[1:]), strict=True):
                kept.append(one)
        x = torch.cat(outputs, 2) if bidirectional else outputs[0]
        if train and dropout and layer < num_layers - 1:
            x = F.dropout(x, dropout)
    return (x.transpose(0, 1) if batch_first else x, *(torch.stack(one) for one in last))


class _FirstState(Use):
    """A first state ``(layers, examples, width)`` that is made of parameters, as a copy for each example."""

    def replace(self, places: Tensor) -> None:
        self._gradient = self.gradient[:, places]

    def examples(self, role: int, some: slice) -> Tensor:
        own = self.gradient[:, some].transpose(0, 1)
        found = own.new_zeros(len(own), *self.gradient.shape)
        places = torch.arange(some.start, some.start + len(own), device=own.device)
        found[places - some.start, :, places] = own
        return found

    def total(self, role: int, factors: Tensor) -> Tensor:
        return self.gradient * factors.to(self.gradient.dtype)[:, None]


def _learned(recorder: "Recorder", state: Tensor) -> Tensor:
    """A first state; of one that is learned its use is noted."""
    weight = recorder.seen.by_id.get(id(state))
    if weight is None:
        return state
    state = state.view_as(state)  # a place in the graph of its own: it may be used elsewhere
    recorder.uses.append((_FirstState([weight], recorder.size), get_gradient_edge(state)))
    return state


def _over_time(
    recorder: "Recorder",
    kind: Kind,
    x: Tensor,
    states: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    biases: Sequence[Tensor],
    w_hr: Tensor | None,
    backwards: bool,
) -> tuple[Tensor, ...]:
    """One layer in one direction: its outputs, and the last cell state of an LSTM."""
    seen = recorder.seen
    b_ih, b_hh = biases or (None, None)
    before, seen.time_first = seen.time_first, True
    try:
        with recorder:
            z = F.linear(x, w_ih, b_ih)
    finally:
        seen.time_first = before
    h0, *c0 = (one.to(z.dtype) for one in states)
    values = [None if one is None else one.detach().to(z.dtype) for one in (w_hh, b_hh, w_hr)]
    at_hidden = _nothing(z, len(w_hh))
    at_output = None if w_hr is None else _nothing(z, len(w_hr))
    outputs, c, projected = Recurrence.apply(  # type: ignore[no-untyped-call]
        kind, backwards, z, at_hidden, at_output, h0, c0[0] if c0 else None, *values
    )
    steps = outputs.detach()
    came = torch.cat([steps[1:], h0.detach()[None]] if backwards else [h0.detach()[None], steps[:-1]])
    for at, given, pair in ((at_hidden, came, (w_hh, b_hh)), (at_output, projected, (w_hr, None))):
        weights, roles = seen.roles(*pair)
        if weights and at is not None:
            use = LinearUse(weights, roles, recorder.size, given, time_first=True)
            recorder.uses.append((use, get_gradient_edge(at)))
    return (outputs, c) if c0 else (outputs,)


def _nothing(z: Tensor, length: int) -> Tensor:
    """A zero as ``(T, examples, length)``, of which only the gradient takes memory."""
    zero = torch.zeros((), dtype=z.dtype, device=z.device, requires_grad=True)
    return zero.expand(*z.shape[:2], length)


def _cell(
    kind: Kind,
    recorder: "Recorder",
    input: Tensor,
    hx: Any,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Any:
    """torch's functions ``lstm_cell``, ``gru_cell``, ..., with the same arguments and results."""
    h, *c = [hx] if isinstance(hx, Tensor) else list(hx)
    fits = input.ndim == 2 and len(input) == recorder.size
    _refuse(recorder, [input, h, *c], [w_ih, w_hh, b_ih, b_hh], fits, 0)
    for one in (input, h, *c):
        recorder.seen.mark(one, True)
    with recorder:
        a, b = F.linear(input, w_ih, b_ih), F.linear(h, w_hh, b_hh)
    if kind == "lstm":
        i, f, g, o = (a + b).chunk(4, 1)
        cell = f.sigmoid() * c[0] + i.sigmoid() * g.tanh()
        found: Any = (o.sigmoid() * cell.tanh(), cell)
    elif kind == "gru":
        (r, u, n), (own_r, own_u, own_n) = a.chunk(3, 1), b.chunk(3, 1)
        n = (n + (r + own_r).sigmoid() * own_n).tanh()
        found = n + (u + own_u).sigmoid() * (h - n)
    else:
        found = (a + b).tanh() if kind == "rnn_tanh" else (a + b).relu()
    recorder.seen.mark(found, True)
    return found


def _refuse(
    recorder: "Recorder", given: Sequence[Tensor], others: Sequence[Tensor | None], fits: bool, axis: int
) -> None:
    """NotFollowed if what is given is made of parameters alone, or does not fit; others are for the name."""
    seen = recorder.seen
    name = seen.name_of(*given, *others)
    if any(id(one) in seen.by_id for one in given):
        raise NotFollowed(f"{name!r}, which is the same for all examples, is an input of a recurrent layer")
    if not fits:
        raise NotFollowed(
            f"{name!r} is applied to a tensor of shape {tuple(given[0].shape)}, which does not have"
            f" the {recorder.size} examples along axis {axis}"
        )


_KINDS: tuple[Kind, ...] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
RECURRENT: dict[Any, Callable[..., Any]] = {
    getattr(torch, f"{kind}{suffix}"): partial(make, kind)
    for kind in _KINDS
    for suffix, make in (("", _layers), ("_cell", _cell))
}
"""What is put in the place of torch's functions; each is given the recorder and their arguments."""
