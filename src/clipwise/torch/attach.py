"""Clip before every step of an optimizer, from one line, through its own hooks."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from clipwise.clip import AnyClip
from clipwise.functional.arguments import NonFinite
from clipwise.functional.slots import UnitAxes
from clipwise.torch._attached import AttachedClipper, clipper_of
from clipwise.torch._process_groups import ProcessGroups

__all__ = ["AttachedClipper", "attach", "clipper_of"]

AttachedClipper.__module__ = __name__  # where it is public: what is pickled says so


def attach(
    optimizer: Optimizer | Sequence[Optimizer],
    clip: AnyClip | str | Mapping[str, Any] | None = None,
    *,
    model: nn.Module | None = None,
    nonfinite: NonFinite = "skip",
    weights: AnyClip | str | Mapping[str, Any] | None = None,
    updates: AnyClip | str | Mapping[str, Any] | None = None,
    direction: bool = False,
    unit_axes: UnitAxes | None = None,
    process_groups: ProcessGroups | None = None,
    include_normalised: bool = False,
) -> "AttachedClipper":
    """Clip the gradients of an optimizer's parameters before each of its steps.

    The training loop stays unchanged::

        clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1.0), model=model)
        for batch in data:
            optimizer.zero_grad()
            loss = model(batch)
            loss.backward()
            optimizer.step()          # clipped; clipper.report says what was done

    Parameters may be sharded (DTensors of ``fully_shard`` and of tensor parallelism): every rank attaches,
    and the norm is that of the whole model. Sharding without a mesh is declared by ``process_groups``::

        attach(optimizer, clip, model=stage, process_groups={"*": pipeline_group})

    The clipped gradients are those that the step uses: the sum over micro-batches under gradient
    accumulation, and unscaled gradients under `torch.amp.GradScaler` (also for fused optimizers, which step
    on scaled gradients). With a closure they are clipped after each evaluation, whose loss is observed
    automatically. A step that the scaler skips is neither clipped nor counted, and losses observed for it
    count towards the mean of the next step. Parameters may be added to the optimizer and removed from it.

    Several optimizers that are attached together have one joint norm. It is measured when the first of them
    steps, over the gradients of all, which must be complete by then. The other optimizers use the same
    coefficients as long as their gradients have not changed since.

    A copy of the optimizer (`copy.copy`, `copy.deepcopy`, pickle) has no clip attached, because hooks are not
    copied: attach again. A copy of the clipper is a record without effect. ``optimizer.load_state_dict``
    keeps the clip attached.

    Args:
        optimizer: any `torch.optim.Optimizer`, a wrapper around one, or several. For a wrapper, the clip is
            attached to the outer optimizer (Lookahead), or to the inner one if that makes the step (Fabric,
            Accelerate, SAM).
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`. None together with
            ``weights`` or ``updates``: the gradients are only measured. A step that ``action="skip"`` skips
            is not taken.
        model: gives the parameters their names, for reports and `by_name`, and tells which weights are
            embeddings and which belong to transposed convolutions.
        nonfinite: as for `Clipper`. With ``"skip"``, a step whose gradients hold NaN or Inf is not taken:
            parameters and optimizer state stay unchanged, and ``clipper.skipped_steps`` counts it. If a later
            evaluation in a step of `torch.optim.LBFGS` is not finite, the optimizer continues with the
            evaluations before it. Fused optimizers skip the step on the device, also under a gradient scaler,
            without a host-device sync; other optimizers need one sync per step.
        weights: a clip for the weights of an optimizer after each of its steps, unless the step is skipped,
            such as ``clip_by_value(0.01)`` for WGAN. Its report is ``clipper.weights.report``.
        updates: a clip for the update of every step, after the optimizer has computed it from the gradient:
            ``clip_by_block_rms(1.0)`` (Adafactor), ``stable_adamw()``, or any other clip that does not follow
            the loss. See `UpdateClipper` for the formula and the memory it takes. Its report is
            ``clipper.updates.report``.
        direction, unit_axes: as for `Clipper`; ``unit_axes`` also applies to ``weights`` and ``updates``.
        process_groups: as for `Clipper`: which parameters differ between the ranks of which group.
        include_normalised: measure and clip also parameters whose optimizer normalises the gradient itself,
            so that the size of the gradient has no effect: Muon (`torch.optim.Muon`, other classes of that
            name, groups with ``use_muon=True``), `torch.optim.Rprop`, signSGD without momentum. By default
            they are left out of every norm and not clipped, but still checked for NaN and Inf;
            ``clipper.report.normalised`` is their number.

    Returns:
        An `AttachedClipper`; also a context manager that detaches at its end.

    Raises:
        ArgumentError: the argument is not an optimizer; it is the inner optimizer of an engine (DeepSpeed,
            Megatron, ZeRO) that holds only a part of the gradients; it takes no steps itself (Lomo,
            layer-wise GaLore); a clip is already attached; the clip of weights or updates follows the loss;
            ``updates`` is given for an optimizer whose step must not be changed afterwards (LBFGS,
            schedule-free, Lookahead, master weights) or whose learning rate is unknown; or, during the first
            step, the optimizer steps inside ``backward`` with a clip that needs all gradients.
        ParameterError: a pattern of `by_name`, ``unit_axes`` or ``process_groups`` matches no parameter, or
            ``model`` does not hold the optimizer's parameters.

    Warns:
        UserWarning: if the optimizer normalises all gradients itself; once, if the loop clips too; at the end
            (detached or garbage collected), if no gradient was seen although the weights changed; at the
            first step, if a wrapper's own part of a step cannot be skipped.
    """
    return AttachedClipper(
        optimizer,
        clip,
        model=model,
        nonfinite=nonfinite,
        weights=weights,
        updates=updates,
        direction=direction,
        unit_axes=unit_axes,
        process_groups=process_groups,
        include_normalised=include_normalised,
    )
