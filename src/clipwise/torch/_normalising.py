"""Finds parameters whose optimizer normalises the gradient itself, so that clipping has no effect.

The length of such a step does not depend on the size of the gradient: Muon orthogonalises the gradient or its
momentum; Rprop and signSGD without momentum use signs only. Adam, SOAP and similar optimizers divide by an
average of earlier gradients, and Lion uses the sign of one: there a gradient far larger than earlier ones has
an effect, so their gradients are clipped.
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
