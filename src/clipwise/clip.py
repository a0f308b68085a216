"""The description of a clip, its presets under the names of the field, and how clips are combined.

Every common way of gradient clipping is ``g <- g * min(1, threshold / norm(g))`` for each group g of entries.
A `Clip` says which entries form a group (``per``), how a group is measured (``norm``) and the largest norm
allowed (``threshold``). It holds no array and depends on no framework: the back ends apply it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias, get_args

from clipwise import thresholds
from clipwise.checks import check_number, number_where, whole
from clipwise.errors import ArgumentError, ThresholdError
from clipwise.namespace import is_traced
from clipwise.thresholds import Threshold

__all__ = [
    "Action",
    "AnyClip",
    "ByName",
    "Chain",
    "Clip",
    "Norm",
    "On",
    "Per",
    "adagc",
    "adaptive_grad_clip",
    "auto",
    "autoclip",
    "by_name",
    "chain",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "norm_growth_limit",
    "skip_spikes",
    "stable_adamw",
    "zclip",
]

Per: TypeAlias = Literal["element", "unit", "tensor", "global"]
Norm: TypeAlias = float | Literal["rms"]
Action: TypeAlias = Literal["clip", "skip"]
On: TypeAlias = Literal["norm", "loss"]


@dataclass(frozen=True)
class Clip:
    """One clip: ``g <- g * min(1, threshold / norm(g))`` for each group of entries.

    Args:
        threshold: the largest norm of a group: a number of at least 0 (inf never clips), a policy from
            `clipwise.thresholds`, or for ``per="element"`` also a range ``(low, high)``. A number that is
            traced by JAX or TensorFlow is not checked; a negative one counts as 0.
        per: which entries are measured together: each ``"element"`` alone, one ``"unit"`` (one output neuron
            or filter), one ``"tensor"``, or all tensors (``"global"``).
        norm: the norm of a group: 2.0, 1.0, ``math.inf``, any order above 0, or ``"rms"``, the root mean
            square. A single entry is measured by its modulus, whatever the order.
        action: what happens if the norm is above the threshold. ``"clip"``: the gradient is clipped.
            ``"skip"``: the step is skipped, as with NaN and ``nonfinite="skip"``, and its norm enters no
            history. ``"skip"`` takes ``per="global"``, alone or first in a `chain`.
        patience: the largest number of steps in a row that ``action="skip"`` skips, at least 1. After that it
            clips to the threshold, and norms enter the history again, until a norm is within the threshold.
        on: what ``action="skip"`` compares with the threshold: the ``"norm"``, or the ``"loss"`` of the step,
            which must be given by `observe`, or as optax' ``value``. With ``"loss"``, steps after
            ``patience`` are taken without clipping, and the threshold is a number, a schedule, or a
            `thresholds.rolling_zscore`.

    Raises:
        ThresholdError: a threshold is negative, NaN or not a number, or low is above high.
        ArgumentError: ``per``, ``norm`` or ``action`` is unknown, or does not fit the others.

    >>> Clip(1.0)
    Clip(threshold=1.0, per='global', norm=2.0)
    >>> Clip(-1)
    Traceback (most recent call last):
    clipwise.errors.ThresholdError: threshold must be at least 0, got -1
    """

    threshold: float | tuple[float, float] | Threshold
    per: Per = "global"
    norm: Norm = 2.0
    action: Action = "clip"
    patience: int = 10
    on: On = "norm"

    def __repr__(self) -> str:
        """As it is written, without an action that is the usual one."""
        usual = ("action", "patience", "on") if self.action == "clip" else ("on",) * (self.on == "norm")
        shown = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.name not in usual)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __post_init__(self) -> None:
        if self.per not in get_args(Per):
            raise ArgumentError(f"per must be one of {', '.join(get_args(Per))}, got {self.per!r}")
        self._check_action()
        object.__setattr__(self, "norm", _order(self.norm))
        if self.per == "element" and self.norm != 2.0:
            raise ArgumentError(
                f"a single entry is measured by its modulus; norm={self.norm!r} means nothing"
            )
        if isinstance(self.threshold, type):
            raise ThresholdError(
                f"threshold must be a number or a policy, got a class; write {self.threshold.__name__}(...)"
            )
        if isinstance(self.threshold, Threshold):
            self._check_policy(self.threshold)
            self._check_policy_of_losses(self.threshold)
        elif hasattr(self.threshold, "update") and not is_traced(self.threshold):
            parts = ("init", "update", "needs", "wants", "remembers", "watches_norm")
            missing = ", ".join(part for part in parts if not hasattr(self.threshold, part))
            raise ThresholdError(f"{self.threshold!r} is no threshold policy: it lacks {missing}")
        elif isinstance(self.threshold, tuple | list):
            object.__setattr__(self, "threshold", self._range(self.threshold))
        else:
            object.__setattr__(self, "threshold", check_number("threshold", self.threshold, traced=True))

    def _check_action(self) -> None:
        if self.action not in get_args(Action):
            raise ArgumentError(f"action must be one of {', '.join(get_args(Action))}, got {self.action!r}")
        object.__setattr__(self, "patience", whole("patience", self.patience))
        if self.action == "clip" and self.patience != Clip.patience:
            raise ArgumentError(f'patience is for action="skip", got patience={self.patience} without it')
        if self.action == "skip" and self.per != "global":
            raise ArgumentError(
                f'action="skip" leaves out a whole step, by one norm over everything: per must be "global",'
                f" got {self.per!r}"
            )

        if self.on not in get_args(On):
            raise ArgumentError(f"on must be one of {', '.join(get_args(On))}, got {self.on!r}")
        if self.action == "clip" and self.on != "norm":
            raise ArgumentError(f'on={self.on!r} is for action="skip": what is clipped is a norm')

    def _check_policy_of_losses(self, policy: Threshold) -> None:
        judges = policy.watches_norm and not getattr(policy, "takes_losses", False)
        if self.on == "loss" and (judges or policy.needs):
            raise ArgumentError(
                f'{policy!r} is of norms, which are above 0: on="loss" takes a number, a schedule, or'
                " rolling_zscore(...)"
            )

    def _range(self, pair: object) -> tuple[float, float]:
        if self.per != "element":
            raise ThresholdError(
                f'a range {pair!r} only bounds single entries (per="element"); a norm has one bound'
            )
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ThresholdError(f"a range is a pair (low, high), got {pair!r}")
        low = check_number("low", pair[0], low=-math.inf, traced=True)
        high = check_number("high", pair[1], low=-math.inf, traced=True)
        if not is_traced(low) and not is_traced(high) and low > high:
            raise ThresholdError(f"low must not exceed high, got low={low:g} and high={high:g}")
        if (not is_traced(low) and low == math.inf) or (not is_traced(high) and high == -math.inf):
            raise ThresholdError(f"no finite number lies in the range low={low}, high={high}")
        return low, high

    def _check_policy(self, policy: Threshold) -> None:
        if self.per == "element" and policy.watches_norm:
            raise ArgumentError(
                f"{policy!r} would keep a history for every single entry; value clipping takes a number,"
                ' a range, a schedule, or a policy of the loss or weights; use per="tensor" or "global"'
            )
        if "moment_ratio" in policy.needs and self.per != "tensor":
            raise ArgumentError(f'{policy!r} is of whole tensors: per must be "tensor", got {self.per!r}')
        endless = isinstance(policy, thresholds.percentile) and policy.window is None
        if self.per == "unit" and endless:
            raise ArgumentError(
                f'{policy!r} keeps a whole history, about 30 kB a group, which is too much for per="unit";'
                " give a percentile a window"
            )


@dataclass(frozen=True)
class Chain:
    """Clips applied one after the other, each to the result of the previous one. Created by `chain`."""

    clips: tuple["AnyClip", ...]

    def __post_init__(self) -> None:
        if not self.clips:
            raise ArgumentError("chain needs at least one clip")
        for clip in self.clips:
            _check_clip("chain", clip)
        every = list(singles(self))
        first = next((place for place, clip in enumerate(every) if clip.action == "clip"), len(every))
        if any(clip.action == "skip" for clip in every[first:]):
            raise ArgumentError(
                "a step is left out by the norm of its gradients as they come: in a chain skips are first, as"
                " in chain(skip_spikes(), clip_by_global_norm(1.0))"
            )

    def __iter__(self) -> Iterator["AnyClip"]:
        return iter(self.clips)


@dataclass(frozen=True)
class ByName:
    """A clip for each part of the model, by the names of its parameters. Created by `by_name`."""

    parts: tuple[tuple[str, "AnyClip | None"], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ArgumentError("by_name needs at least one pattern")
        for pattern, clip in self.parts:
            if not isinstance(pattern, str) or not pattern:
                raise ArgumentError(f"by_name: a pattern is a non-empty string, got {pattern!r}")
            if clip is not None:
                _check_clip(f"by_name: {pattern!r}", clip)
            if leaves_steps_out(clip):
                raise ArgumentError(
                    f"by_name: {pattern!r}: a step is left out for all parameters or for none: put the skip"
                    f" before, as in chain(skip_spikes(), by_name({{{pattern!r}: ...}}))"
                )


AnyClip: TypeAlias = Clip | Chain | ByName


def _check_clip(where: str, clip: object) -> None:
    if not isinstance(clip, Clip | Chain | ByName):
        raise ArgumentError(f"{where}: expected a clip such as clip_by_global_norm(1.0), got {clip!r}")


def _order(norm: object) -> Norm:
    if isinstance(norm, str) and norm in ("rms", "inf"):
        return "rms" if norm == "rms" else math.inf
    return number_where("norm", norm, lambda norm: norm > 0, 'a number above 0, inf, or "rms"')


def clip_by_value(
    threshold: float | Threshold | None = None, *, low: float | None = None, high: float | None = None
) -> Clip:
    """Clip every entry: ``g_i <- max(low, min(high, g_i))``; with one threshold t, to [-t, t].

    This changes the direction of the gradient. A complex entry is clipped by its modulus. The range is the
    same for all tensors. For a bound per entry that depends on its weight see `clipwise.thresholds.relative`;
    for bounds given as arrays see `clipwise.functional.activations.hard_tanh`.

    Args:
        threshold: the largest magnitude of an entry, at least 0, or a schedule of it.
        low, high: a range instead; a side that is not given is not bounded.

    Raises:
        ThresholdError: nothing or both forms were given, a value is not a number, or low is above high.

    >>> clip_by_value(0.5).threshold
    0.5
    >>> clip_by_value(low=-1.0, high=2.0).threshold
    (-1.0, 2.0)
    """
    if threshold is not None:
        if low is not None or high is not None:
            raise ThresholdError("give clip_by_value either a threshold or low and high, not both")
        if isinstance(threshold, tuple | list):
            raise ThresholdError(f"give a range as clip_by_value(low=..., high=...), got {threshold!r}")
        return Clip(threshold, per="element")
    if low is None and high is None:
        raise ThresholdError("clip_by_value needs a threshold, or low, high, or both")
    return Clip((-math.inf if low is None else low, math.inf if high is None else high), per="element")


def clip_by_norm(threshold: float | Threshold, norm: Norm = 2.0) -> Clip:
    """Clip each tensor by its own norm: ``g <- g * min(1, threshold / ||g||)``. Keeps its direction.

    The same as ``clipnorm`` of Keras and ``tf.clip_by_norm``.

    Args:
        threshold: the largest norm of a tensor: a number of at least 0, or a policy.
        norm: as for `Clip`.

    >>> clip_by_norm(1.0)
    Clip(threshold=1.0, per='tensor', norm=2.0)
    """
    return Clip(threshold, per="tensor", norm=norm)


def clip_by_global_norm(threshold: float | Threshold, norm: Norm = 2.0) -> Clip:
    """Clip all tensors by their joint norm: ``g_k <- g_k * min(1, threshold / sqrt(sum_k ||g_k||^2))``.

    Keeps the direction of the whole gradient. The same as ``clip_grad_norm_`` of PyTorch,
    ``clip_by_global_norm`` of optax and TensorFlow, and ``max_grad_norm`` of the trainers.

    Args:
        threshold: the largest norm of all tensors together: a number of at least 0, or a policy.
        norm: as for `Clip`.

    Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063.

    >>> clip_by_global_norm(1.0)
    Clip(threshold=1.0, per='global', norm=2.0)
    """
    return Clip(threshold, per="global", norm=norm)


def clip_by_block_rms(threshold: float | Threshold) -> Clip:
    """Clip each tensor by its root mean square: ``g <- g * min(1, threshold / sqrt(mean(g^2)))``.

    The same as ``clip_by_block_rms`` of optax. Applied to updates it is the update clipping of Adafactor,
    with d the threshold: ``clipwise.torch.attach(optimizer, updates=clip_by_block_rms(1.0))``.

    Args:
        threshold: the largest root mean square of a tensor: a number of at least 0, or a policy.

    Source: Shazeer and Stern 2018, arXiv:1804.04235.

    >>> clip_by_block_rms(1.0)
    Clip(threshold=1.0, per='tensor', norm='rms')
    """
    return Clip(threshold, per="tensor", norm="rms")


def adaptive_grad_clip(ratio: float = 0.01, eps: float = 1e-3, norm: Norm = 2.0) -> Clip:
    """AGC: clip each unit relative to its weights: ``g <- g * min(1, ratio * max(||w||, eps) / ||g||)``.

    Args:
        ratio: the largest ratio of the gradient's norm to the weights' norm, at least 0.
        eps: lower bound of the weights' norm, above 0, so that weights that start at 0 can move.
        norm: as for `Clip`.

    Source: Brock et al. 2021, arXiv:2102.06171, where the last linear layer is not clipped; for that see
    `by_name`.

    >>> adaptive_grad_clip(0.01).per
    'unit'
    """
    return Clip(thresholds.relative(ratio, eps), per="unit", norm=norm)


def autoclip(q: float = 10.0, norm: Norm = 2.0, *, window: int | None = None) -> Clip:
    """AutoClip: clip the global norm at the q-th percentile of all norms so far (or of the last ``window``).

    With q = 10 about nine steps of ten are clipped, so the gradient is nearly normalised.

    Args:
        q: the percentile, 0 to 100.
        norm: as for `Clip`.
        window: number of recent norms that count; None for all. See `thresholds.percentile`.

    Source: Seetharaman et al. 2020, arXiv:2007.14469.

    >>> autoclip(10).threshold
    percentile(q=10.0, window=None)
    """
    return Clip(thresholds.percentile(q, window), per="global", norm=norm)


def zclip(z: float = 2.5, norm: Norm = 2.0, *, decay: float = 0.97, warmup: int = 25) -> Clip:
    """ZClip: clip the global norm if it is more than z standard deviations above its moving average.

    Args:
        z: number of standard deviations above the mean, above 0.
        norm: as for `Clip`.
        decay, warmup: as for `thresholds.zscore`.

    Source: Kumar et al. 2025, arXiv:2504.02507.

    >>> zclip().threshold
    zscore(z=2.5, decay=0.97, warmup=25)
    """
    return Clip(thresholds.zscore(z, decay, warmup), per="global", norm=norm)


def adagc(factor: float = 1.05, norm: Norm = 2.0, *, decay: float = 0.98, warmup: int = 100) -> Clip:
    """AdaGC: clip each tensor relative to a moving average of its own clipped norms.

    In the first ``warmup`` steps the global norm is clipped to 1.

    Args:
        factor, decay, warmup: as for `thresholds.tensor_average`, which also says how warm-up steps are
            counted.
        norm: as for `Clip`.

    Source: Wang et al. 2025, arXiv:2502.11034.

    >>> adagc().per
    'tensor'
    """
    return Clip(thresholds.tensor_average(factor, decay, warmup), per="tensor", norm=norm)


def norm_growth_limit(factor: float = 1.01, norm: Norm = 2.0) -> Clip:
    """Limit the growth of each tensor's norm: ``g_t <- g_t * min(1, factor * ||g_{t-1}|| / ||g_t||)``.

    ``g_{t-1}`` is the clipped gradient of the previous step. The first step is not clipped, and a norm of 0,
    NaN or Inf does not count as a previous one. Fira and APOLLO bound their scaled updates in this way.

    Args:
        factor: the largest ratio of a norm to the previous one, at least 0.
        norm: as for `Clip`.

    Source: Chen et al. 2024, "Fira", arXiv:2410.01623 (norm-growth limiter, factor 1.01); APOLLO,
    arXiv:2412.05270.

    >>> norm_growth_limit().per
    'tensor'
    """
    return Clip(
        thresholds.tensor_average(factor, decay=0.0, warmup=1, start=math.inf), per="tensor", norm=norm
    )


def skip_spikes(
    z: float = 6.0, window: int = 128, norm: Norm = 2.0, *, patience: int = 10, on: On = "norm"
) -> Clip:
    """Skip a step whose norm is more than z standard deviations above the mean of the last ``window`` norms.

    It starts once there are half a window of norms. Norms of skipped steps do not count. After ``patience``
    skipped steps in a row it clips to the threshold instead: see `Clip` and `thresholds.rolling_zscore`. In a
    chain it comes first: ``chain(skip_spikes(), clip_by_global_norm(1.0))``.

    With ``on="loss"`` the same rule is applied to the loss, which may be negative; after ``patience`` skipped
    steps in a row, steps are taken unclipped. To use both: ``chain(skip_spikes(on="loss"), skip_spikes())``.

    Args:
        z, window: as for `thresholds.rolling_zscore`.
        norm, patience, on: as for `Clip`.

    Source: OLMo-core's ``SkipStepOptimizer`` (6 standard deviations, the last 128 values, from half of them
    on, by loss or norm), which counts every value; MaxText's ``skip_step_on_spikes`` has the same form.

    >>> skip_spikes()
    Clip(threshold=rolling_zscore(z=6.0, window=128), per='global', norm=2.0, action='skip', patience=10)
    >>> skip_spikes(on="loss").on
    'loss'
    """
    return Clip(thresholds.rolling_zscore(z, window), norm=norm, action="skip", patience=patience, on=on)


def stable_adamw(limit: float = 1.0) -> Clip:
    """StableAdamW: divide the learning rate of each tensor by ``max(1, sqrt(mean(g^2 / max(v, eps^2))))``.

    It clips updates, not gradients: ``clipwise.torch.attach(optimizer, updates=stable_adamw())`` for Adam or
    AdamW, whose second moment ``v`` is read. As in the paper, the whole step of the tensor is divided,
    including decoupled weight decay. In other frameworks use `clip_by_block_rms` after the optimizer.

    Args:
        limit: the largest ratio that does not shorten the step, above 0; 1 in the formula.

    Source: Wortsman et al. 2023, arXiv:2304.13013, algorithm 2.

    >>> stable_adamw()
    Clip(threshold=moment_ratio(limit=1.0), per='tensor', norm='rms')
    """
    return Clip(thresholds.moment_ratio(limit), per="tensor", norm="rms")


def auto() -> Clip:
    """Clip the global norm at a threshold that is learned from the run (`thresholds.auto`).

    >>> auto().per
    'global'
    """
    return Clip(thresholds.auto(), per="global", norm=2.0)


def chain(*clips: AnyClip) -> Chain:
    """Clips applied one after the other, each to the result of the previous one.

    Args:
        clips: at least one; a clip with ``action="skip"`` comes first.

    >>> len(chain(clip_by_value(5.0), clip_by_global_norm(1.0)).clips)
    2
    """
    return Chain(clips)


def by_name(parts: Mapping[str, AnyClip | None]) -> ByName:
    """A clip for each part of the model, selected by the names of its parameters.

    Each part is measured separately: two parts clipped by global norm have two norms.

    Args:
        parts: maps shell patterns (``*``, ``?``, ``[ab]``) of parameter names to clips; None does not clip
            the part. The first pattern that matches a name wins. Parameters that match no pattern are not
            clipped; end with ``"*"`` to include the rest.

    >>> by_name({"encoder.*": clip_by_global_norm(0.5), "*": clip_by_global_norm(1.0)}).parts[0][0]
    'encoder.*'
    """
    if not isinstance(parts, Mapping):
        raise ArgumentError(f"by_name takes a mapping of patterns to clips, got {parts!r}")
    return ByName(tuple(parts.items()))


def singles(clip: AnyClip | None) -> Iterator[Clip]:
    """All single clips in a description, in order."""
    match clip:
        case Clip():
            yield clip
        case Chain(clips=clips):
            for part in clips:
                yield from singles(part)
        case ByName(parts=parts):
            for _, own in parts:
                yield from singles(own)


def leaves_steps_out(clip: AnyClip | None) -> bool:
    """Whether a clip in a description may skip a step."""
    return any(single.action == "skip" for single in singles(clip))


def remembering(clip: AnyClip | None) -> Threshold | Clip | None:
    """The first part that depends on earlier steps: a threshold, or a clip that counts skipped steps."""
    for single in singles(clip):
        if isinstance(single.threshold, Threshold) and single.threshold.remembers:
            return single.threshold
        if single.action == "skip":
            return single
    return None
