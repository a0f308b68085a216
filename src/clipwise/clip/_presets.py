"""The presets: thin constructors of clips, under the names that the field has for them."""

import math

from clipwise import thresholds
from clipwise.clip._clip import Clip, Norm, On
from clipwise.errors import ThresholdError
from clipwise.thresholds import Threshold


def clip_by_value(
    threshold: float | Threshold | None = None, *, low: float | None = None, high: float | None = None
) -> Clip:
    """Bound every entry: ``g_i <- max(low, min(high, g_i))``; with one threshold t, to [-t, t].

    Simple, and it changes the direction of the gradient. A complex entry is bounded by its modulus. The range
    is one for all tensors; `clipwise.thresholds.relative` gives every entry a bound by its weight, and
    `clipwise.functional.activations.hard_tanh` bounds an array by arrays.

    Args:
        threshold: the largest magnitude an entry may keep, at least 0, or a schedule of it.
        low, high: the range instead; a side that is left out is not bounded.

    Raises:
        ThresholdError: nothing was given, both forms were, a value is no number, or the range is crossed.

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
    """Each tensor by its own norm: ``g <- g * min(1, threshold / ||g||)``. Keeps each tensor's direction.

    Keras' ``clipnorm`` and ``tf.clip_by_norm``.

    >>> clip_by_norm(1.0)
    Clip(threshold=1.0, per='tensor', norm=2.0)
    """
    return Clip(threshold, per="tensor", norm=norm)


def clip_by_global_norm(threshold: float | Threshold, norm: Norm = 2.0) -> Clip:
    """All tensors by their joint norm: ``g_k <- g_k * min(1, threshold / sqrt(sum_k ||g_k||^2))``.

    Keeps the direction of the whole gradient and the relative scale between layers. The
    ``clip_grad_norm_`` of PyTorch, ``clip_by_global_norm`` of optax and TensorFlow, ``max_grad_norm`` of
    the trainers. Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063.

    >>> clip_by_global_norm(1.0)
    Clip(threshold=1.0, per='global', norm=2.0)
    """
    return Clip(threshold, per="global", norm=norm)


def clip_by_block_rms(threshold: float | Threshold) -> Clip:
    """Each tensor by the root of its mean square: ``g <- g * min(1, threshold / sqrt(mean(g^2)))``.

    optax' ``clip_by_block_rms``. Of updates it is the update clipping of Adafactor, with d the threshold:
    ``clipwise.torch.attach(optimizer, updates=clip_by_block_rms(1.0))``. Source: Shazeer and Stern 2018,
    arXiv:1804.04235.

    >>> clip_by_block_rms(1.0)
    Clip(threshold=1.0, per='tensor', norm='rms')
    """
    return Clip(threshold, per="tensor", norm="rms")


def adaptive_grad_clip(ratio: float = 0.01, eps: float = 1e-3, norm: Norm = 2.0) -> Clip:
    """AGC: each output unit relative to its weights, ``g <- g * min(1, ratio * max(||w||, eps) / ||g||)``.

    Source: Brock et al. 2021, arXiv:2102.06171, which leaves out the last linear layer: see `by_name`.

    >>> adaptive_grad_clip(0.01).per
    'unit'
    """
    return Clip(thresholds.relative(ratio, eps), per="unit", norm=norm)


def autoclip(q: float = 10.0, norm: Norm = 2.0, *, window: int | None = None) -> Clip:
    """AutoClip: the global norm, at the q-th percentile of all norms so far (or of the last ``window``).

    With q = 10 about nine steps of ten are clipped: the gradient is nearly normalised. Source: Seetharaman
    et al. 2020, arXiv:2007.14469.

    >>> autoclip(10).threshold
    percentile(q=10.0, window=None)
    """
    return Clip(thresholds.percentile(q, window), per="global", norm=norm)


def zclip(z: float = 2.5, norm: Norm = 2.0, *, decay: float = 0.97, warmup: int = 25) -> Clip:
    """ZClip: the global norm, only where it lies more than z standard deviations above its running mean.

    Source: Kumar et al. 2025, arXiv:2504.02507.

    >>> zclip().threshold
    zscore(z=2.5, decay=0.97, warmup=25)
    """
    return Clip(thresholds.zscore(z, decay, warmup), per="global", norm=norm)


def adagc(factor: float = 1.05, norm: Norm = 2.0, *, decay: float = 0.98, warmup: int = 100) -> Clip:
    """AdaGC: each tensor relative to a moving average of its own clipped norm.

    The first ``warmup`` steps are clipped by the global norm to 1; see `thresholds.tensor_average`, also for
    whose count of steps this is.

    Source: Wang et al. 2025, arXiv:2502.11034.

    >>> adagc().per
    'tensor'
    """
    return Clip(thresholds.tensor_average(factor, decay, warmup), per="tensor", norm=norm)


def norm_growth_limit(factor: float = 1.01, norm: Norm = 2.0) -> Clip:
    """Limit how fast norms grow, by tensor: ``g_t <- g_t * min(1, factor * ||g_{t-1}|| / ||g_t||)``.

    ``g_{t-1}`` is the gradient that was left of the step before. The first step is not clipped, and a norm of
    0, NaN or Inf is no step to grow from. Fira and APOLLO bound their scaled updates by this rule.

    Source: Chen et al. 2024, "Fira", arXiv:2410.01623 (the norm-growth limiter, 1.01); APOLLO,
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
    """Leave out a step whose norm lies more than z standard deviations above the mean of the last ``window``.

    It begins with half a window of norms. Norms of steps that are left out do not count, and after
    ``patience`` of them in a row it clips to the threshold instead: see `Clip` and
    `thresholds.rolling_zscore`. In a chain it is first: ``chain(skip_spikes(), clip_by_global_norm(1.0))``.

    With ``on="loss"`` the loss of the step takes the place of the norm, by the same rule, whatever its sign;
    after ``patience`` steps in a row they happen. By either of both:
    ``chain(skip_spikes(on="loss"), skip_spikes())``.

    Source: OLMo-core's ``SkipStepOptimizer`` (6 standard deviations of the last 128, from half of them on),
    by loss or norm, which counts every value; MaxText's ``skip_step_on_spikes`` has the same form.

    >>> skip_spikes()
    Clip(threshold=rolling_zscore(z=6.0, window=128), per='global', norm=2.0, action='skip', patience=10)
    >>> skip_spikes(on="loss").on
    'loss'
    """
    return Clip(thresholds.rolling_zscore(z, window), norm=norm, action="skip", patience=patience, on=on)


def stable_adamw(limit: float = 1.0) -> Clip:
    """StableAdamW: divide the learning rate of each tensor by ``max(1, sqrt(mean(g^2 / max(v, eps^2))))``.

    It clips updates, not gradients: ``clipwise.torch.attach(optimizer, updates=stable_adamw())`` of Adam or
    AdamW, whose second moment ``v`` it reads. The whole step of the tensor is divided, decoupled weight decay
    included, as in the paper. Other frameworks have `clip_by_block_rms` after the optimizer.

    Source: Wortsman et al. 2023, arXiv:2304.13013, algorithm 2.

    >>> stable_adamw()
    Clip(threshold=moment_ratio(limit=1.0), per='tensor', norm='rms')
    """
    return Clip(thresholds.moment_ratio(limit), per="tensor", norm="rms")


def auto() -> Clip:
    """No threshold to guess: the global norm, with a threshold learned from the run (`thresholds.auto`).

    >>> auto().per
    'global'
    """
    return Clip(thresholds.auto(), per="global", norm=2.0)
