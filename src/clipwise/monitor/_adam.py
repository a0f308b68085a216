"""What is recorded once of optimizers that divide by the root of a second moment: their eps."""

from collections.abc import Iterable, Mapping
from typing import Any


def eps_of(groups: Iterable[Mapping[str, Any]]) -> float | None:
    """The largest eps of groups of torch's, all of Adam, RMSprop or alike; None where one is not, or unknown.

    These have an eps, and ``betas`` or ``alpha``.
    """
    found = []
    for group in groups:
        eps = group.get("eps")
        if not isinstance(eps, float) or not eps > 0 or not ("betas" in group or "alpha" in group):
            return None
        found.append(eps)
    return max(found, default=None)


def of_clipper(clipper: Any) -> tuple[float, float] | None:
    """Eps, and of how many entries the clipper's norm is the root of a sum of squares; None: not known."""
    optimizers = getattr(clipper, "optimizers", ())
    if clipper.order not in (2.0, "rms"):
        return None
    own = {id(p) for p in clipper.clipped.values()}
    groups = [
        group
        for one in optimizers
        for group in one.param_groups
        if any(id(p) in own for p in group["params"])
    ]
    eps = eps_of(groups)
    entries = 1 if clipper.order == "rms" else sum(p.numel() for p in clipper.clipped.values())
    return None if eps is None or not entries else (eps, float(entries))
