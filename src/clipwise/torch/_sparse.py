"""What a clip does not take: sparse gradients of some kinds, complex ones between two bounds."""

from collections.abc import Mapping

import torch
from torch import Tensor

from clipwise.errors import ParameterError, ThresholdError
from clipwise.functional.plan import Plan
from clipwise.functional.slots import Slot
from clipwise.functional.stage import Stage


def refuse_complex_ranges(plan: Plan, dtypes: Mapping[str, torch.dtype]) -> None:
    """ThresholdError for a range for complex parameters, whose entries have no order."""
    for stage in plan.stages():
        if isinstance(stage.clip.threshold, tuple):
            low, high = stage.clip.threshold
            if any(dtypes[slot.name].is_complex for slot in stage.slots):
                raise ThresholdError(
                    f"complex gradients have no order for the range ({low:g}, {high:g}); give one threshold,"
                    " which bounds their modulus"
                )


def refuse_sparse(plan: Plan, gradient: Tensor, name: str) -> None:
    """Ask the clips whether they take this sparse gradient, before any of them acts.

    Raises:
        ParameterError: its units lie where a sparse gradient has none.
        ThresholdError: a range leaves out 0.
    """
    for stage in plan.stages():
        slot = next((slot for slot in stage.slots if slot.name == name), None)
        if slot is not None and isinstance(stage.clip.threshold, tuple):
            _refuse_range(stage)
        if slot is not None and stage.clip.per == "unit":
            _refuse_units(slot, gradient)


def _refuse_range(stage: Stage) -> None:
    low, high = stage.clip.threshold  # type: ignore[misc]
    if not low <= 0 <= high:
        raise ThresholdError(
            f"the range ({low:g}, {high:g}) leaves out 0, which a sparse gradient consists of"
        )


def _refuse_units(slot: Slot, gradient: Tensor) -> None:
    if slot.has_rows:
        if gradient.ndim > 1 and gradient.sparse_dim() != 1:
            raise ParameterError(
                "per='unit' takes gradients sparse along axis 0 only, got"
                f" {gradient.sparse_dim()} sparse axes"
            )
    elif slot.axes:
        raise ParameterError(
            f"unit_axes: a sparse gradient has its units along axis 0, or is one unit (None), got"
            f" {slot.axes} for one of shape {tuple(gradient.shape)}"
        )
