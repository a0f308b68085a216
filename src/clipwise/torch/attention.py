"""QK-Clip: the weights behind the queries and keys, head by head, so that no attention logit passes tau."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clipwise.errors import ArgumentError, StateError
from clipwise.functional.attention import as_alpha, as_tau, max_logits, qk_clip_factors
from clipwise.torch._placements import is_sharded
from clipwise.torch._projections import Projections, Rows

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
        QKClip.step_together_(qk)

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
            argument is outside what is allowed; a weight is parametrized, as by ``weight_norm``.

    Weights may be spread over ranks (DTensors of ``fully_shard`` and tensor parallelism): heads are those of
    the whole projections, and each rank scales the rows that it holds. One that sees some of the heads only
    tells -inf for the others, by `observe_logits`.

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
        self._projections = Projections(q_proj, k_proj, heads, kv_heads)
        self.heads, self.kv_heads = self._projections.heads, self._projections.kv_heads
        # Raises where they do not fit.
        qk_clip_factors(torch.ones(self.heads), kv_heads=self.kv_heads, shared=shared)
        (q_rows, *_), (k_rows, *_) = self._projections.rows()
        if q_rows.length % self.heads or q_rows.length * self.kv_heads != k_rows.length * self.heads:
            raise ArgumentError(
                f"projections of {q_rows.length} and {k_rows.length} rows do not divide into"
                f" {self.heads} heads of q and {self.kv_heads} of k of one size"
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

        Raises:
            ArgumentError: the weights lie on several ranks, as those of ``fully_shard`` do outside the
                forward pass.
        """
        key = query if key is None else key
        module = self._projections.module
        if module is not None and not module.batch_first and query.ndim == 3:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        both = self._projections.rows()
        (q_weight, *q_bias), (k_weight, *k_bias) = ([part.here() for part in parts] for parts in both)
        with torch.no_grad():
            q = nn.functional.linear(query, q_weight, *q_bias).unflatten(-1, (self.heads, -1))
            k = nn.functional.linear(key, k_weight, *k_bias).unflatten(-1, (self.kv_heads, -1))
            self.observe(q.transpose(-2, -3), k.transpose(-2, -3), mask=mask, causal=causal)

    def step_(self, *, group: Any = None) -> Tensor:
        """Scale the projections by what was observed since the last step, and forget it.

        Over the processes of a group the largest logit of all counts, so that they stay equal; one that
        observed nothing takes part. Nothing waits for the device. Several modules: `step_together_`.

        Args:
            group: the processes that hold the same heads, such as those of data parallelism: a process group
                of `torch.distributed`; None is the default group, where there is one. False is this process
                alone, as where tensor parallelism gives each its own heads.

        Returns:
            gamma of each head, ``(heads,)``: 1 where nothing was done, as for a logit of NaN or Inf.

        Raises:
            StateError: nothing was observed since the last step, by any process.
            ArgumentError: the weights are parametrized, or those of ``fully_shard`` as a forward pass without
                a backward pass has left them; the group is no group.
        """
        return self.step_together_([self], group=group)[0]

    @staticmethod
    def step_together_(clips: Sequence["QKClip"], *, group: Any = None) -> list[Tensor]:
        """`step_` of several modules, with one collective for all of them.

        Args:
            clips: the same modules in the same order on every process of the group.
            group: as for `step_`.

        Returns:
            gamma of each, as `step_` gives it.

        Raises:
            StateError, ArgumentError: as `step_`, before any is scaled; one is given twice.
        """
        if len(set(map(id, clips))) < len(clips):
            raise ArgumentError("one QKClip is given twice, and would be scaled twice")
        rows = [clip._projections.rows_to_scale() for clip in clips]
        largest = _over_processes(clips, rows, group)
        return [clip._scale_(parts, seen) for clip, parts, seen in zip(clips, rows, largest, strict=True)]

    def _scale_(self, rows: tuple[list[Rows], list[Rows]], largest: Tensor) -> Tensor:
        settings: dict[str, Any] = {"tau": self.tau, "kv_heads": self.kv_heads, "shared": self.shared}
        factors = qk_clip_factors(largest, alpha=self.alpha, **settings)
        with torch.no_grad():
            for parts, factor in zip(rows, factors, strict=True):
                for part in parts:
                    part.scale_(factor)
        self.largest = None
        gamma: Tensor = qk_clip_factors(largest, tau=self.tau, alpha=1.0)[0]
        return gamma


def _over_processes(clips: Sequence[QKClip], rows: Sequence[Any], group: Any) -> list[Tensor]:
    """The largest logits of each module that any process of the group saw; StateError where none did."""
    found = [clip.largest for clip in clips]
    seen = [one is not None for one in found]
    if _in_processes(group) and clips:
        # The weights say type and device, as they are the same on every process.
        weights = [q[0].parameter for q, _ in rows]
        wide = torch.float64 if torch.float64 in [w.dtype for w in weights] else torch.float32
        like: dict[str, Any] = {"dtype": wide, "device": _device_of(weights[0])}
        none = torch.full((max(clip.heads for clip in clips),), -math.inf, **like)
        parts = [
            # A maximum over processes may lose NaN; Inf leaves a head alone as well.
            none[: clip.heads] if one is None else one.to(**like).nan_to_num(math.inf, math.inf, -math.inf)
            for clip, one in zip(clips, found, strict=True)
        ]
        told = [torch.full((1,), float(one), **like) for one in seen]
        joint = torch.cat([*parts, *told])
        dist.all_reduce(joint, dist.ReduceOp.MAX, group=group)
        *found, flags = joint.split([*(clip.heads for clip in clips), len(clips)])
        if not all(seen):  # only here, and rarely, the host waits
            seen = [flag > 0 for flag in flags.tolist()]
    if not all(seen):
        which = f"clips[{seen.index(False)}]" if len(clips) > 1 else "QKClip.step_"
        raise StateError(f"{which} needs an observation since the last step: call observe before it")
    return found  # type: ignore[return-value]


def _device_of(weight: Any) -> torch.device:
    """Where its ranks talk to each other, though the weight may be offloaded to the host."""
    device: Any = weight.device_mesh.device_type if is_sharded(weight) else weight.device
    return torch.empty(0, device=device).device


def _in_processes(group: Any) -> bool:
    """Whether there are others to ask; ArgumentError for what is no group."""
    if group is False or not dist.is_available():
        return False
    outside = dist.GroupMember.NON_GROUP_MEMBER  # what new_group gives to those it leaves out
    if not (group is None or isinstance(group, dist.ProcessGroup) or group is outside):
        raise ArgumentError(
            f"group must be a process group, None for the default one or False for none, got {group!r}"
        )
    return dist.is_initialized() and group is not outside
