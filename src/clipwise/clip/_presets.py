"""The presets: thin constructors of clips, under the names that the field has for them."""

import math

from clipwise import thresholds
from clipwise.clip._clip import Clip, Norm, On
from clipwise.errors import ThresholdError
from clipwise.thresholds import Threshold


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
    """Clip the global norm to a threshold that is learned from the run, so that none has to be chosen.

    Under SGD it bounds the length of a step and clips spikes; under Adam and similar optimizers it is half
    the usual norm. It uses the loss if `observe` passes it. The rule is in `thresholds.auto`.

    >>> auto().per
    'global'
    """
    return Clip(thresholds.auto(), per="global", norm=2.0)
