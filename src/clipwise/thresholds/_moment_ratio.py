"""StableAdamW's threshold: updates are shortened where Adam's second moment lags behind the gradient."""

from dataclasses import dataclass
from typing import Any, ClassVar

from clipwise.checks import SMALLEST, check_number
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Observation, Stateless


@dataclass(frozen=True)
class moment_ratio:
    """StableAdamW: shorten an update of Adam where the second moment is too small for this step's gradient.

    With ``rho_t = sqrt(mean(g_t^2 / max(v_t, eps^2)))`` of each tensor, the update ``u_t`` is divided by
    ``max(1, rho_t / limit)``: the threshold is ``T_t = limit * ||u_t|| / rho_t`` if ``rho_t > limit``, and
    inf otherwise. ``v_t`` is the bias-corrected second moment that includes ``g_t``. Only for ``updates=`` of
    `clipwise.torch.attach`, with ``per="tensor"``.

    Args:
        limit: the largest ratio at which an update is not shortened, above 0.

    Source: Wortsman et al. 2023, "Stable and low-precision training for large-scale vision-language models",
    arXiv:2304.13013, algorithm 2; see `clipwise.stable_adamw`.

    >>> import numpy as np
    >>> seen = Observation(norm=np.asarray(6.0), moment_ratio=np.asarray(3.0))
    >>> float(moment_ratio().update(np, moment_ratio().init(np, ()), seen)[0])
    2.0
    """

    limit: float = 1.0

    needs: ClassVar[frozenset[str]] = frozenset({"moment_ratio"})
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = False
    watches_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", check_number("limit", self.limit, low=SMALLEST))

    def init(self, xp: Any, shape: tuple[int, ...]) -> Stateless:
        return Stateless()

    def update(self, xp: Any, state: Stateless, seen: Observation) -> tuple[Array, Stateless]:
        ratio = xp.asarray(seen.moment_ratio)
        above = ratio > self.limit
        share = self.limit / xp.where(above, ratio, 1.0)
        return xp.where(above, xp.asarray(seen.norm) * share, xp.inf), state
