"""The eps of optimizers that divide by the root of a second moment, which is recorded once."""

from collections.abc import Iterable, Mapping
from typing import Any


def eps_of(groups: Iterable[Mapping[str, Any]]) -> float | None:
    """The largest eps of torch's parameter groups if all are of Adam, RMSprop or similar; otherwise None.

    Such groups have an eps, and ``betas`` or ``alpha``.
    """
    found = []
    for group in groups:
        eps = group.get("eps")
        if not isinstance(eps, float) or not eps > 0 or not ("betas" in group or "alpha" in group):
            return None
        found.append(eps)
    return max(found, default=None)


def of_clipper(clipper: Any) -> tuple[float, float] | None:
    """Eps, and the number of entries behind the clipper's 2-norm; None if they are unknown."""
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


def of_keras(optimizer: Any) -> tuple[float, float] | None:
    """The same for a Keras optimizer with a clip attached that has made a step."""
    from clipwise.keras.attach import clipping_of, unscaled

    clipping = clipping_of(optimizer)
    kinds = [kind.__name__.lower() for kind in type(unscaled(optimizer)).__mro__]
    eps = getattr(unscaled(optimizer), "epsilon", None)
    alike = any(word in kind for kind in kinds for word in ("adam", "rmsprop"))
    order = None if clipping.plan is None else clipping.plan.norm
    if not alike or not isinstance(eps, float) or order not in (2.0, "rms"):
        return None
    return eps, float(1 if order == "rms" else sum(slot.size for slot in clipping.slots))
