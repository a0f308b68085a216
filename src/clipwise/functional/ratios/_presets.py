"""Settings of `ppo_clip` under the names of the field. They accept all its other arguments."""

from typing import TypedDict, Unpack

from clipwise.checks import check_number
from clipwise.errors import ThresholdError
from clipwise.functional.ratios._epsilon import Epsilon, epsilon_here
from clipwise.functional.ratios._figures import RatioLoss
from clipwise.functional.ratios._inputs import wide
from clipwise.functional.ratios._ppo import ppo_clip
from clipwise.namespace import Array


class Others(TypedDict, total=False):
    """Arguments that every preset passes on to `ppo_clip`, where they are described.

    Attributes:
        mask: which entries count; all by default.
        weights: weights of the terms, such as those of `rollout_weights`.
        step: step number, for bounds that depend on it.
        bound: bound of the log-ratio, 20 by default.
    """

    mask: Array | None
    weights: Array | None
    step: Array | None
    bound: float


def dual_clip(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    dual: float = 3.0,
    low: Epsilon = 0.2,
    high: Epsilon | None = None,
    **others: Unpack[Others],
) -> RatioLoss:
    """Dual-clip PPO: `ppo_clip` with the term ``max(min(r A, clip(r) A), dual A)`` where A < 0.

    Args:
        logp, old_logp, advantages, dual, low, high, others: as for `ppo_clip`.

    Source: Ye et al. 2020, arXiv:1912.09729, equation 5, with c = 3.

    >>> import numpy as np
    >>> float(dual_clip(np.log([0.8]), np.log([0.1]), np.asarray([-1.0])).loss)
    3.0
    """
    return ppo_clip(logp, old_logp, advantages, dual=dual, low=low, high=high, **others)


def two_sided(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    delta: float,
    low: Epsilon = 0.2,
    high: Epsilon | None = None,
    **others: Unpack[Others],
) -> RatioLoss:
    """Two-sided clip: ``-mean(min(min(r, delta) A, clip(r, 1 - low, 1 + high) A))``, delta above 1 + high.

    With such a delta the inner minimum matters only where A < 0 and r > delta. So this is `dual_clip` with
    ``dual=delta``, and is computed that way. If ``high`` is on a device, delta is raised to 1 + high if it is
    below.

    Args:
        delta: upper bound of the ratio where A < 0, above 1 + high.
        logp, old_logp, advantages, low, high, others: as for `ppo_clip`.

    Source: INTELLECT-2, arXiv:2505.07291; TRL's ``GRPOConfig(delta=...)``, which has no default either.

    >>> import numpy as np
    >>> float(two_sided(np.log([0.8]), np.log([0.1]), np.asarray([-1.0]), delta=4.0).loss)
    4.0
    """
    worst: float | Array = check_number("delta", delta)
    xp, logp = wide("logp", logp)
    if high is None:
        top = low = epsilon_here(xp, "low", low, others.get("step"), high=1.0)
    else:
        top = epsilon_here(xp, "high", high, others.get("step"))
    if not isinstance(top, float):
        worst = xp.where(top + 1.0 > worst, top + 1.0, xp.asarray(worst))
    elif not worst > 1.0 + top:
        raise ThresholdError(f"delta must be above 1 + high, {1.0 + top:g}, got {delta!r}")
    return ppo_clip(logp, old_logp, advantages, dual=worst, low=low, high=top, **others)


def grpo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    low: Epsilon = 0.2,
    high: Epsilon | None = None,
    **others: Unpack[Others],
) -> RatioLoss:
    """GRPO's policy term: `ppo_clip` averaged over the tokens of each sequence, then over sequences.

    The advantages are rewards standardised within a group. A KL penalty to a reference policy is a separate
    term that you add.

    Args:
        logp, old_logp, advantages, low, high, others: as for `ppo_clip`.

    Source: Shao et al. 2024, arXiv:2402.03300, equation 3.

    >>> import numpy as np
    >>> logp, mask = np.log([[0.5, 0.5], [0.5, 0.5]]), np.asarray([[1, 1], [1, 0]])
    >>> float(grpo(logp, logp, np.asarray([1.0, -3.0]), mask=mask).loss)
    1.0
    """
    return ppo_clip(logp, old_logp, advantages, low=low, high=high, aggregate="sequence_mean", **others)


def dr_grpo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    length: float,
    low: Epsilon = 0.2,
    high: Epsilon | None = None,
    **others: Unpack[Others],
) -> RatioLoss:
    """Dr. GRPO: `ppo_clip` with every sequence divided by the same ``length``: length is not rewarded.

    Args:
        logp, old_logp, advantages, length, low, high, others: as for `ppo_clip`.

    Source: Liu et al. 2025, arXiv:2503.20783.

    >>> import numpy as np
    >>> logp, mask = np.log([[0.5, 0.5], [0.5, 0.5]]), np.asarray([[1, 1], [1, 0]])
    >>> float(dr_grpo(logp, logp, np.asarray([1.0, -3.0]), mask=mask, length=2).loss)
    0.25
    """
    return ppo_clip(
        logp, old_logp, advantages, low=low, high=high, aggregate="constant", length=length, **others
    )


def dapo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    low: Epsilon = 0.2,
    high: Epsilon = 0.28,
    **others: Unpack[Others],
) -> RatioLoss:
    """DAPO's clip-higher: `ppo_clip` with a wider range above 1 than below, averaged over all tokens.

    Args:
        logp, old_logp, advantages, low, high, others: as for `ppo_clip`.

    Source: Yu et al. 2025, arXiv:2503.14476, with 0.2 and 0.28.

    >>> import numpy as np
    >>> round(float(dapo(np.log([[0.6]]), np.log([[0.4]]), np.asarray([1.0])).loss), 12)
    -1.28
    """
    return ppo_clip(logp, old_logp, advantages, low=low, high=high, **others)


def gspo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    low: Epsilon = 3e-4,
    high: Epsilon = 4e-4,
    **others: Unpack[Others],
) -> RatioLoss:
    """GSPO: one ratio per sequence, ``s = exp(mean(logp - old_logp))``, clipped as in PPO; mean over them.

    There is one advantage per sequence. Ratios per sequence are close to 1, hence the small defaults.

    Args:
        logp, old_logp, advantages, low, high, others: as for `ppo_clip`.

    Source: Zheng et al. 2025, arXiv:2507.18071, equations 5 to 7, and section 5.1 for 3e-4 and 4e-4.

    >>> import numpy as np
    >>> loss, figures = gspo(np.log([[0.6, 0.4]]), np.log([[0.4, 0.6]]), np.asarray([2.0]))
    >>> float(loss), float(figures.outside)
    (-2.0, 0.0)
    """
    return ppo_clip(
        logp, old_logp, advantages, low=low, high=high, per="sequence", aggregate="sequence_mean", **others
    )


def gspo_token(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    low: Epsilon = 3e-4,
    high: Epsilon = 4e-4,
    **others: Unpack[Others],
) -> RatioLoss:
    """GSPO-token: the value of GSPO's ratio for every token, with the gradient of the token's own ``logp``.

    With one advantage per sequence, value and gradient are those of `gspo`. Tokens may also have advantages
    of their own.

    Args:
        logp, old_logp, advantages, low, high, others: as for `ppo_clip`.

    Source: Zheng et al. 2025, arXiv:2507.18071, equations 13 to 15.

    >>> import numpy as np
    >>> logp, old, worth = np.log([[0.6, 0.4]]), np.log([[0.4, 0.6]]), np.asarray([[2.0, 1.0]])
    >>> float(gspo_token(logp, old, worth).loss)
    -1.5
    """
    return ppo_clip(
        logp,
        old_logp,
        advantages,
        low=low,
        high=high,
        per="sequence_token",
        aggregate="sequence_mean",
        **others,
    )


def luspo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    low: Epsilon = 3e-4,
    high: Epsilon = 4e-4,
    **others: Unpack[Others],
) -> RatioLoss:
    """LUSPO: GSPO's term of each sequence times the sequence's length, averaged over sequences.

    So a token in a long sequence has the same weight as one in a short sequence. The defaults are GSPO's.

    Args:
        logp, old_logp, advantages, low, high, others: as for `ppo_clip`.

    Source: "Length-Unbiased Sequence Policy Optimization", github.com/murphy4122/LUSPO; TRL's
    ``GRPOConfig(loss_type="luspo", importance_sampling_level="sequence")``.

    >>> import numpy as np
    >>> logp, mask = np.log([[0.5, 0.5], [0.5, 0.5]]), np.asarray([[1, 1], [1, 0]])
    >>> float(luspo(logp, logp, np.asarray([1.0, -3.0]), mask=mask).loss)
    0.5
    """
    return ppo_clip(
        logp,
        old_logp,
        advantages,
        low=low,
        high=high,
        per="sequence",
        aggregate="constant",
        length=1,
        **others,
    )
