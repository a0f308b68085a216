"""Figures of policy ratios that are usually logged."""

from typing import NamedTuple

from clipwise.functional.ratios._aggregate import masked_mean
from clipwise.functional.ratios._inputs import Policies, clamp
from clipwise.namespace import Array, stop_gradient


class RatioFigures(NamedTuple):
    """Clip fractions and the change of the policy: 0-d arrays without gradients.

    Two meanings of "clipped" are in use. A ratio is *outside* if it has left the range, whatever its
    advantage (``clip_fraction`` of CleanRL and Stable-Baselines3). A clip is *binding* if it changes the
    term, which in PPO also depends on the sign of the advantage (``clip_ratio/region_mean`` of TRL). Shares
    and ratios are over tokens, or over sequences for a ratio per sequence. The KL is always over tokens.

    Attributes:
        outside: share of the ratios outside of ``[1 - low, 1 + high]``.
        outside_low: share below ``1 - low``.
        outside_high: share above ``1 + high``.
        binding: share of the terms that the clip changed.
        binding_low: share clipped from below, with a negative advantage (in CISPO any advantage but 0).
        binding_high: share clipped from above, with a positive advantage (in CISPO any advantage but 0).
        dual: share of the terms that the dual clip changed.
        kl_k1: KL estimate ``mean(-log r)``: unbiased, may be negative.
        kl_k3: KL estimate ``mean((r - 1) - log r)``: unbiased, never negative, with less variance; r is
            clamped as in the loss.
        ratio_min: the smallest ratio. This and the next two are 1 if every token is masked.
        ratio_max: the largest ratio.
        ratio_mean: the mean ratio; far from 1, the two policies have little in common.

    Source: k1 and k3: Schulman 2020, joschu.net/blog/kl-approx.html.
    """

    outside: Array
    outside_low: Array
    outside_high: Array
    binding: Array
    binding_low: Array
    binding_high: Array
    dual: Array
    kl_k1: Array
    kl_k3: Array
    ratio_min: Array
    ratio_max: Array
    ratio_mean: Array

    def metrics(self, prefix: str = "ratio/") -> dict[str, float]:
        """The figures as plain numbers by name, for any logger; needs a host-device sync.

        >>> import numpy as np
        >>> from clipwise.functional.ratios import ppo_clip
        >>> logp = np.log([0.5, 0.1])
        >>> figures = ppo_clip(logp, np.log([0.25, 0.1]), np.asarray([1.0, 1.0])).figures
        >>> figures.metrics()["ratio/outside"]
        0.5
        """
        return {prefix + name: float(value) for name, value in zip(self._fields, self, strict=True)}


class RatioLoss(NamedTuple):
    """A loss to minimise, 0-d, and its figures; unpacks as ``loss, figures``."""

    loss: Array
    figures: RatioFigures


def figures_of(
    given: Policies,
    ratio: Array,
    kept: Array,
    region: tuple[Array, Array],
    binding: tuple[Array, Array],
    dual: Array | None,
    bound: float,
) -> RatioFigures:
    """The figures of some ratios.

    Args:
        given: of all tokens, for the KL.
        ratio: what is clipped, of tokens or sequences.
        kept: which of them count.
        region: the ends of where a ratio is left alone.
        binding: where the clip changed the term, below and above.
        dual: where the bound for negative advantages did; None for no such bound.
        bound: of the log-ratio, where it is exponentiated.
    """
    xp = given.xp
    ratio, log_ratio = stop_gradient(ratio), stop_gradient(given.log_ratio)
    bounded = clamp(xp, log_ratio, xp.asarray(-bound), xp.asarray(bound))

    def share(flags: Array) -> Array:
        return masked_mean(xp, xp.astype(flags, xp.float_dtype), kept)

    below, above = share(ratio < region[0]), share(ratio > region[1])
    low, high = share(binding[0]), share(binding[1])
    one, some = xp.full((), 1.0), xp.any(kept)
    return RatioFigures(
        outside=below + above,
        outside_low=below,
        outside_high=above,
        binding=low + high,
        binding_low=low,
        binding_high=high,
        dual=xp.zeros(()) if dual is None else share(dual),
        kl_k1=masked_mean(xp, -log_ratio, given.counted),
        # expm1: where r is near 1, r - 1 would be mostly rounding.
        kl_k3=masked_mean(xp, xp.expm1(bounded) - bounded, given.counted),
        ratio_min=xp.where(some, xp.min(xp.where(kept, ratio, xp.full((), xp.inf))), one),
        ratio_max=xp.where(some, xp.max(xp.where(kept, ratio, xp.zeros(()))), one),
        ratio_mean=xp.where(some, masked_mean(xp, ratio, kept), one),
    )
