"""QK-Clip: scale the query and key projections of each head so that no attention logit exceeds tau."""

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
    """QK-Clip on the projections of one attention module, applied after each optimizer step.

    For each head ``gamma = min(1, tau / largest logit)``. The rows of the query projection (weight and bias)
    are multiplied by ``gamma**alpha``, those of the key projection by ``gamma**(1 - alpha)``. On the observed
    inputs the largest logit is then tau, up to rounding. Heads at or below tau are left bit-identical. This
    holds if everything between the projections and the logits is linear, such as rotary embeddings. If q or k
    is normalised in between, QK-Clip has no effect and is not needed.

    ::

        qk = [QKClip(block.q_proj, block.k_proj, heads=32, kv_heads=8) for block in blocks]
        ... in the forward pass: qk[i].observe(q, k, causal=True)
        optimizer.step()
        QKClip.step_together_(qk)

    Weights may be sharded (DTensors of ``fully_shard`` and tensor parallelism). Heads are then those of the
    whole projection, and each rank scales the rows that it holds. A rank that sees only some of the heads
    passes -inf for the others to `observe_logits`.

    Args:
        q_proj, k_proj: linear modules with weights of shape ``(heads * d, inputs)``; or one
            `torch.nn.MultiheadAttention` as ``q_proj`` alone, which knows its number of heads.
        heads: number of query heads.
        kv_heads: number of key heads, by default as many as query heads. With fewer, neighbouring query heads
            share one key head (grouped-query attention).
        tau: upper bound of the logits, above 0.
        alpha: exponent of gamma for the queries, from 0 to 1; the keys get ``1 - alpha``.
        shared: what is scaled when query heads share a key head: ``"query"`` (only q, so that each head ends
            at tau) or ``"min"`` (k is scaled by the smallest gamma of its heads). See `qk_clip_factors` in
            `clipwise.functional.attention`.

    Attributes:
        largest: the largest logit of each head since the last step, ``(heads,)``, on the device, in float32
            or wider; None if nothing was observed.

    Raises:
        ArgumentError: a projection is not a linear module, or its rows do not divide into the heads; an
            argument is not allowed; a weight is parametrized, as by ``weight_norm``.

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
        """Record the largest logits of one forward pass. Several passes before a step count as one batch.

        Args:
            q, k, scale, mask, causal: as for `clipwise.functional.attention.max_logits`. q has the shape
                ``(..., heads, queries, d)``, after rotary embeddings if there are any.

        Raises:
            ArgumentError: the shapes do not fit, or ``q`` has another number of heads.
        """
        with torch.no_grad():
            self.observe_logits(max_logits(q, k, scale=scale, mask=mask, causal=causal))

    def observe_logits(self, largest: Tensor) -> None:
        """Record the largest logits of one forward pass, for attention kernels that return them.

        Args:
            largest: largest logits after scaling and before the softmax, of shape ``(heads,)``.

        Raises:
            ArgumentError: the shape does not fit.
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
        """Record the largest logits, computed from the inputs of the projections.

        For attention that does nothing between the projections and the logits. The projections are computed a
        second time, since a MultiheadAttention does not expose its q and k.

        Args:
            query: ``(batch, queries, inputs)``, or as the MultiheadAttention takes it.
            key: input of the key projection; ``query`` by default.
            mask: True where a query attends to a key. (In a MultiheadAttention's own ``attn_mask`` True means
                the opposite.)
            causal: each query attends to the keys up to its own position only.

        Raises:
            ArgumentError: the weights are sharded, as those of ``fully_shard`` are outside of the forward
                pass.
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
        """Scale the projections by the logits observed since the last step, and reset the observation.

        In a process group the largest logit over all processes counts, so that the weights stay equal. A
        process that observed nothing takes part too. No host-device sync is needed. For several modules use
        `step_together_`.

        Args:
            group: the processes that hold the same heads, such as those of data parallelism: a process group
                of `torch.distributed`. None is the default group if there is one. False is this process
                alone, for tensor parallelism in which each process has its own heads.

        Returns:
            gamma of each head, ``(heads,)``: 1 for a head that was not scaled, also if its logit is NaN or
            Inf.

        Raises:
            StateError: no process observed anything since the last step.
            ArgumentError: the weights are parametrized, or are still gathered because a forward pass of
                ``fully_shard`` was not followed by a backward pass; or ``group`` is not a process group.
        """
        return self.step_together_([self], group=group)[0]

    @staticmethod
    def step_together_(clips: Sequence["QKClip"], *, group: Any = None) -> list[Tensor]:
        """`step_` for several modules, with one collective for all of them.

        Args:
            clips: the same modules in the same order on every process of the group.
            group: as for `step_`.

        Returns:
            gamma of each module, as `step_` returns it.

        Raises:
            StateError, ArgumentError: as for `step_`, before any module is scaled; or a module is given
                twice.
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
