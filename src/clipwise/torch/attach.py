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
    """Clip the gradients of an optimizer's parameters before each of its steps, from now on.

    The loop stays as it is::

        clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1.0), model=model)
        for batch in data:
            optimizer.zero_grad()
            loss = model(batch)
            loss.backward()
            optimizer.step()          # clipped; clipper.report says what was done

    Parameters may be spread over ranks (DTensors of ``fully_shard``, of tensor parallel modules): every rank
    attaches, and the norm is that of the whole model. What no mesh says, ``process_groups`` does::

        attach(optimizer, clip, model=stage, process_groups={"*": pipeline_group})

    It clips what the step is about to use: the sum over micro-batches under accumulation, gradients without
    their scale under `torch.amp.GradScaler` (with fused optimizers too, which step on scaled gradients), and
    after each evaluation of a closure, whose loss it observes by itself. A step that the scaler skips is
    neither clipped nor counted as clipped, and losses observed for it count in the mean of the next.
    Parameters may come to the optimizer and leave it.

    Several optimizers that are attached together have one joint norm: it is measured when the first of them
    steps, over the gradients of all, which must be complete then; each further one that steps on gradients
    which did not change since belongs to the same step.

    A copy of the optimizer (`copy.copy`, `copy.deepcopy`, pickle) has no clip attached, as it has none of its
    hooks: attach again. A copy of the clipper is a record that acts on nothing.
    ``optimizer.load_state_dict`` leaves the clip attached.

    Args:
        optimizer: any `torch.optim.Optimizer`, wrappers that carry one, or several. Of one around another
            it is the outer (Lookahead), or the inner where that makes the step (Fabric, Accelerate, SAM).
        clip: what to do; a string or a mapping is read by `clipwise.config.parse`. None with ``weights`` or
            ``updates``: the gradients are only measured. A step that ``action="skip"`` leaves out does not
            happen either.
        model: gives parameters their names, for reports and `by_name`, and tells which are embeddings
            and which transposed convolutions.
        nonfinite: as for `Clipper`. With ``"skip"`` a step whose gradients hold NaN or Inf does not run:
            parameters and optimizer state stay as they were, and ``clipper.skipped_steps`` counts it. If
            an evaluation of `torch.optim.LBFGS` after the first one of a step is bad, the optimizer
            continues with the evaluations before it. Fused optimizers skip the step on the device, under
            a gradient scaler too, without a host-device sync; other optimizers need one sync a step.
        weights: what is done after every step, unless it is skipped, to the weights of the optimizer that
            made it, such as ``clip_by_value(0.01)`` for WGAN; ``clipper.weights.report`` says what.
        updates: what is done to the update of every step, when the optimizer has made it of the gradient:
            ``clip_by_block_rms(1.0)`` (Adafactor), ``stable_adamw()``, or any other clip that does not follow
            the loss. See `UpdateClipper` for the formula and the memory that it costs;
            ``clipper.updates.report`` says what was done.
        direction, unit_axes: as for `Clipper`; ``unit_axes`` is for ``weights`` and ``updates`` too.
        process_groups: as for `Clipper`: which parameters are others on each rank of which group.
        include_normalised: measure and clip parameters, too, whose optimizer normalises the gradient itself,
            so that it has no size to clip: those of Muon (`torch.optim.Muon`, other classes of that name,
            groups with ``use_muon=True``), `torch.optim.Rprop`, signSGD without momentum. By default they are
            left out of every norm and are not clipped; NaN and Inf are looked for in them all the same, and
            ``clipper.report.normalised`` says how many there were.

    Returns:
        An `AttachedClipper`; also a context manager that detaches at its end.

    Raises:
        ArgumentError: this is no optimizer, an engine's inner one (DeepSpeed, Megatron, ZeRO) that holds a
            part of the gradients only, one that takes no steps itself (Lomo, layer-wise GaLore), or a clip is
            attached to it already; the bound of the weights or the clip of updates follows the loss;
            ``updates`` with an optimizer whose steps cannot be changed after it (LBFGS, schedule-free,
            Lookahead, master weights) or whose learning rate is not known; or, from the first step, it is
            stepped inside ``backward`` with a clip that needs all gradients.
        ParameterError: a pattern of `by_name`, ``unit_axes`` or ``process_groups`` matches no parameter, or
            the model is another one.

    Warns:
        UserWarning: if all gradients are normalised by their optimizer; once, if the loop clips too; at the
            end (detached, or nobody holds it), if it saw no gradient and yet the weights moved; at the first
            step, if a wrapper's own part of a step cannot be skipped.
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
