"""QK-Clip: the weights behind the queries and keys, head by head, so that no attention logit passes tau."""

from typing import Any

import torch
from torch import Tensor, nn

from clipwise.errors import ArgumentError, StateError
from clipwise.functional.attention import as_alpha, as_tau, max_logits, qk_clip_factors

__all__ = ["QKClip"]


class QKClip:
    """QK-Clip on the projections of one attention module, after each step of the optimizer.

    For each head ``gamma = min(1, tau / its largest logit)``; the rows of the query projection (weights and
    bias) are multiplied with ``gamma**alpha``, those of the key projection with ``gamma**(1 - alpha)``.
    On the inputs that were observed the largest logit is then tau, to rounding; heads that were not above
    are not touched by one bit. It is so where what lies between the projections and the logits is linear, as
    rotary embeddings are; a normalisation of q or k in between undoes it, and has no need of it.

    ::

        qk = [QKClip(block.q_proj, block.k_proj, heads=32, kv_heads=8) for block in blocks]
        ... in the forward pass: qk[i].observe(q, k, causal=True)
        optimizer.step()
        for each in qk: each.step_()

    Args:
        q_proj, k_proj: linear modules, whose weight is ``(heads * d, inputs)``; or one
            `torch.nn.MultiheadAttention`, which says its heads itself.
        heads: how many heads the queries have.
        kv_heads: how many the keys have; as many by default. Fewer: neighbouring heads of q share one of k.
        tau: the bound, above 0.
        alpha: which share q has of it, from 0 to 1.
        shared: who gives way where heads share a key: ``"query"`` (q alone, so each head ends at tau) or
            ``"min"`` (k by the least gamma of its heads), see `qk_clip_factors` in
            `clipwise.functional.attention`.

    Attributes:
        largest: the largest logit of each head since the last step, ``(heads,)``, on the device, in float32
            or wider; None before any was observed.

    Raises:
        ArgumentError: a projection is not a linear module, or its rows do not divide into the heads; an
            argument is outside what is allowed.

    >>> attention = nn.MultiheadAttention(8, 2, batch_first=True)
    >>> qk = QKClip(attention, tau=1.0)
    >>> x = 100 * torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    >>> qk.observe_inputs(x)
    >>> bool((qk.largest > 1).all())
    True
    >>> gamma = qk.step_()
    >>> qk.observe_inputs(x)
    >>> torch.allclose(qk.largest, torch.ones(2))
    True

    Source: Kimi Team 2025, "Kimi K2: open agentic intelligence", arXiv:2507.20534, algorithm 1.
    """

    def __init__(
        self,
        q_proj: nn.Module,
        k_proj: nn.Module | None = None,
        *,
        heads: int | None = None,
        kv_heads: int | None = None,
        tau: float = 100.0,
        alpha: float = 0.5,
        shared: str = "query",
    ) -> None:
        self.tau, self.alpha, self.shared = as_tau(tau), as_alpha(alpha), shared
        self.largest: Tensor | None = None
        self._module = None
        if isinstance(q_proj, nn.MultiheadAttention):
            if k_proj is not None or heads not in (None, q_proj.num_heads) or kv_heads is not None:
                raise ArgumentError(
                    "a MultiheadAttention says its projections and heads itself: give it alone"
                )
            if q_proj.bias_k is not None or q_proj.add_zero_attn:
                raise ArgumentError(
                    "add_bias_kv and add_zero_attn are not supported: they add keys of their own"
                )
            self._module = q_proj
            heads = kv_heads = q_proj.num_heads
        else:
            _refuse_projections(q_proj, k_proj)
        self._projections: tuple[Any, Any] = (q_proj, k_proj)
        if type(heads) is not int or heads < 1:
            raise ArgumentError(f"heads must be a whole number above 0, got {heads!r}")
        self.heads, self.kv_heads = heads, heads if kv_heads is None else kv_heads
        qk_clip_factors(
            torch.ones(heads), kv_heads=self.kv_heads, shared=shared
        )  # raises where they do not fit
        (q_rows, *_), (k_rows, *_) = self._rows()
        if q_rows.shape[0] % heads or q_rows.shape[0] * self.kv_heads != k_rows.shape[0] * heads:
            raise ArgumentError(
                f"projections of {q_rows.shape[0]} and {k_rows.shape[0]} rows do not divide into"
                f" {heads} heads of q and {self.kv_heads} of k of one size"
            )

    def observe(
        self,
        q: Tensor,
        k: Tensor,
        *,
        scale: float | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> None:
        """Take note of the logits of one forward pass; several before a step count as one batch.

        Args:
            q, k, scale, mask, causal: as for `clipwise.functional.attention.max_logits`: q of shape
                ``(..., heads, queries, d)``, as it goes into the product.

        Raises:
            ArgumentError: the shapes do not fit; ``q`` has another number of heads.
        """
        with torch.no_grad():
            self.observe_logits(max_logits(q, k, scale=scale, mask=mask, causal=causal))

    def observe_logits(self, largest: Tensor) -> None:
        """Take note of the largest logits of one forward pass, where the attention kernel knows them.

        Args:
            largest: after the scale, before the softmax, of shape ``(heads,)``.

        Raises:
            ArgumentError: the shape is another.
        """
        if tuple(largest.shape) != (self.heads,):
            raise ArgumentError(
                f"expected the logits of {self.heads} heads, got the shape {tuple(largest.shape)}"
            )
        largest = largest.detach().to(torch.promote_types(largest.dtype, torch.float32))
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)

    def observe_inputs(
        self, query: Tensor, key: Tensor | None = None, *, mask: Tensor | None = None, causal: bool = False
    ) -> None:
        """Take note of what comes into the projections, without anything between them and the logits.

        It projects once more, as a MultiheadAttention does not show its q and k.

        Args:
            query: ``(batch, queries, inputs)``, or as the MultiheadAttention takes it.
            key: what the keys are made of; the query by default.
            mask: True where a query sees a key. (A MultiheadAttention's own ``attn_mask`` says the opposite.)
            causal: a query sees the keys up to its own place only.
        """
        key = query if key is None else key
        if self._module is not None and not self._module.batch_first and query.ndim == 3:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        (q_weight, *q_bias), (k_weight, *k_bias) = self._rows()
        with torch.no_grad():
            q = nn.functional.linear(query, q_weight, *q_bias).unflatten(-1, (self.heads, -1))
            k = nn.functional.linear(key, k_weight, *k_bias).unflatten(-1, (self.kv_heads, -1))
            self.observe(q.transpose(-2, -3), k.transpose(-2, -3), mask=mask, causal=causal)

    def step_(self) -> Tensor:
        """Scale the projections by what was observed since the last step, and forget it.

        Over the processes of `torch.distributed`, where there are several, the largest logit of all counts,
        so that they stay equal. Nothing waits for the device.

        Returns:
            gamma of each head, ``(heads,)``: 1 where nothing was done, as for a logit of NaN or Inf.

        Raises:
            StateError: nothing was observed since the last step.
            ArgumentError: the weights are sharded.
        """
        if self.largest is None:
            raise StateError("QKClip.step_ needs an observation since the last step: call observe before it")
        q_rows, k_rows = self._rows()
        largest = self.largest
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            largest = largest.clone()
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        settings: dict[str, Any] = {"tau": self.tau, "kv_heads": self.kv_heads, "shared": self.shared}
        factors = qk_clip_factors(largest, alpha=self.alpha, **settings)
        with torch.no_grad():
            for rows, factor in ((q_rows, factors[0]), (k_rows, factors[1])):
                for part in rows:
                    by_head = part.unflatten(0, (len(factor), -1))
                    by_head.mul_(factor.to(part.device).reshape(-1, *[1] * (by_head.ndim - 1)))
        self.largest = None
        gamma: Tensor = qk_clip_factors(largest, tau=self.tau, alpha=1.0)[0]
        return gamma

    def _rows(self) -> tuple[list[Tensor], list[Tensor]]:
        """What makes the queries and what makes the keys: the weight and, where there is one, the bias."""
        module = self._module
        if module is None:
            found = [
                [p.detach() for p in (proj.weight, proj.bias) if p is not None] for proj in self._projections
            ]
        else:
            size = module.embed_dim
            if module.in_proj_weight is not None:
                weights = [
                    module.in_proj_weight.detach()[:size],
                    module.in_proj_weight.detach()[size : 2 * size],
                ]
            else:
                weights = [module.q_proj_weight.detach(), module.k_proj_weight.detach()]
            bias = module.in_proj_bias
            biases = [[], []] if bias is None else [[bias.detach()[:size]], [bias.detach()[size : 2 * size]]]
            found = [[weight, *bias] for weight, bias in zip(weights, biases, strict=True)]
        for part in (*found[0], *found[1]):
            if hasattr(part, "full_tensor"):
                raise ArgumentError("QKClip needs whole projections, and these are sharded (DTensor)")
        return found[0], found[1]


def _refuse_projections(q_proj: Any, k_proj: Any) -> None:
    for name, proj in (("q_proj", q_proj), ("k_proj", k_proj)):
        if not isinstance(proj, nn.Linear):
            raise ArgumentError(
                f"{name} must be a torch.nn.Linear, or q_proj alone a torch.nn.MultiheadAttention; "
                f"got {type(proj).__name__}"
            )
    if q_proj.weight is k_proj.weight:
        raise ArgumentError("q_proj and k_proj share one weight, which would be scaled twice")
