"""Which parameters have an optimizer that normalises the gradient itself, so that it has no size to clip.

The length of their step does not depend on that of the gradient: Muon makes the gradient, or its momentum,
orthogonal, and Rprop and signSGD without momentum look at signs alone. Adam, SOAP and the like divide by an
average of earlier gradients, and Lion takes the sign of one, entry by entry: there a gradient that is far
larger than those before is felt, so these are clipped as any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer, Rprop

from clipwise.torch._wrappers import chain

__all__ = ["normalised_by"]


def normalised_by(optimizers: Sequence[Optimizer]) -> dict[int, str]:
    """Ids of the parameters whose gradients their optimizer normalises, and the name of its class."""
    return {id(p): name for one in optimizers for name, group in _groups(one) for p in group["params"]}


def _groups(optimizer: Optimizer) -> Iterator[tuple[str, Mapping[str, Any]]]:
    *_, innermost = chain(optimizer)
    kinds = [kind.__name__ for kind in type(innermost).__mro__]
    is_muon = any("muon" in name.lower() for name in kinds)
    for group in innermost.param_groups:
        # Optimizers that are Muon and AdamW in one say so by group.
        muon = group.get("use_muon", is_muon)
        sign = isinstance(innermost, Rprop) or ("SignSGD" in kinds and not group.get("momentum"))
        if muon or sign:
            yield kinds[0], group
