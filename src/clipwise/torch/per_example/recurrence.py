"""Recurrences over time, with what comes back to the gates of every step."""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Kind", "Recurrence"]

Kind: TypeAlias = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]


class Recurrence(torch.autograd.Function):
    """One layer in one direction, from ``z = x W_ih^T + b_ih`` on, with weights that get no gradient.

    ``Recurrence.apply(kind, backwards, z, at_hidden, at_output, h0, c0, w_hh, b_hh, w_hr)`` gives the outputs
    ``(T, examples, out)``, the last cell state of an LSTM, and of one with a projection what is projected.

    ``at_hidden`` and ``at_output`` are zeros that would be added to ``h W_hh^T + b_hh`` and to ``h W_hr^T``
    at each step. They are not read: their gradients are what the weights need.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kind: Kind,
        backwards: bool,
        z: Tensor,
        at_hidden: Tensor,
        at_output: Tensor | None,
        h0: Tensor,
        c0: Tensor | None,
        w_hh: Tensor,
        b_hh: Tensor | None,
        w_hr: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        ctx.kind, ctx.backwards = kind, backwards
        size = w_hh.shape[0] // {"lstm": 4, "gru": 3}.get(kind, 1)
        outputs = z.new_empty(*z.shape[:2], h0.shape[-1])
        # Of each step: the gates after their nonlinearity, and what else the way back needs.
        gates = outputs if kind.startswith("rnn") else torch.empty_like(z)
        kept = None if kind.startswith("rnn") else z.new_empty(*z.shape[:2], size)
        projected = None if w_hr is None else z.new_empty(*z.shape[:2], size)
        h, c = h0, c0
        with torch.autocast(z.device.type, enabled=False):
            for t in _times(len(z), backwards):
                a = h @ w_hh.mT if b_hh is None else torch.addmm(b_hh, h, w_hh.mT)
                if kind == "lstm":
                    assert c is not None
                    a += z[t]
                    i, f, g, o = a.chunk(4, 1)
                    a[:, : 2 * size].sigmoid_()
                    g.tanh_()
                    o.sigmoid_()
                    c = torch.addcmul(f * c, i, g)
                    h = o * c.tanh()
                    gates[t], kept[t] = a, c  # type: ignore[index]
                    if projected is not None:
                        projected[t] = h
                        h = h @ w_hr.mT  # type: ignore[union-attr]
                elif kind == "gru":
                    own = a[:, 2 * size :]
                    kept[t] = own  # type: ignore[index]
                    r, u = (a[:, : 2 * size] + z[t, :, : 2 * size]).sigmoid_().chunk(2, 1)
                    n = torch.addcmul(z[t, :, 2 * size :], r, own).tanh_()
                    h = n + u * (h - n)
                    torch.cat([r, u, n], 1, out=gates[t])
                else:
                    h = (a + z[t]).tanh_() if kind == "rnn_tanh" else (a + z[t]).relu_()
                outputs[t] = h
        ctx.save_for_backward(outputs, gates, kept, h0, c0, w_hh, w_hr)
        if projected is not None:
            ctx.mark_non_differentiable(projected)
        return outputs, c, projected

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor, d_c: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        outputs, gates, kept, h0, c0, w_hh, w_hr = ctx.saved_tensors
        times = list(_times(len(gates), ctx.backwards))
        deltas = torch.empty(*gates.shape[:2], len(w_hh), dtype=gates.dtype, device=gates.device)
        at_hidden = torch.empty_like(deltas) if ctx.kind == "gru" else deltas
        at_output = None if w_hr is None else torch.empty_like(outputs)
        d_h = torch.zeros_like(h0)
        with torch.autocast(gates.device.type, enabled=False):
            for place in reversed(range(len(times))):
                t, before = times[place], times[place - 1]
                h = outputs[before] if place else h0
                d_h = d_h + d_outputs[t]
                if at_output is not None:
                    at_output[t] = d_h
                    d_h = d_h @ w_hr
                if ctx.kind == "lstm":
                    i, f, g, o = gates[t].chunk(4, 1)
                    tanh = kept[t].tanh()
                    d_c = d_c + d_h * o * (1 - tanh * tanh)
                    c = kept[before] if place else c0
                    d_i, d_f, d_g = d_c * g * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - g * g)
                    torch.cat([d_i, d_f, d_g, d_h * tanh * o * (1 - o)], 1, out=deltas[t])
                    d_c, d_h = d_c * f, deltas[t] @ w_hh
                elif ctx.kind == "gru":
                    r, u, n = gates[t].chunk(3, 1)
                    d_n = d_h * (1 - u) * (1 - n * n)
                    d_r, d_u = d_n * kept[t] * r * (1 - r), d_h * (h - n) * u * (1 - u)
                    torch.cat([d_r, d_u, d_n], 1, out=deltas[t])
                    torch.cat([d_r, d_u, d_n * r], 1, out=at_hidden[t])
                    d_h = torch.addmm(d_h * u, at_hidden[t], w_hh)
                else:
                    own = outputs[t]
                    deltas[t] = d_h * ((1 - own * own) if ctx.kind == "rnn_tanh" else (own > 0))
                    d_h = deltas[t] @ w_hh
        return (
            None,
            None,
            deltas,
            at_hidden,
            at_output,
            d_h,
            d_c if c0 is not None else None,
            None,
            None,
            None,
        )


def _times(length: int, backwards: bool) -> Iterator[int]:
    return iter(reversed(range(length)) if backwards else range(length))
