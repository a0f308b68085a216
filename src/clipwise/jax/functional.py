"""Clipping as a pure function of gradients, state and parameters."""

from collections.abc import Mapping
from typing import Any

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_clip
from clipwise.errors import ArgumentError, NonFiniteError
from clipwise.functional.arguments import NonFinite, as_nonfinite
from clipwise.functional.clipping import ClipState
from clipwise.functional.context import StepContext
from clipwise.functional.slots import UnitAxes
from clipwise.jax import _trees
from clipwise.jax._step import first_state, step
from clipwise.namespace import Array, is_traced
from clipwise.report import ClipReport

__all__ = ["clip", "init", "raise_nonfinite", "refuse_error_while_tracing"]


def init(
    clip: AnyClip | str | Mapping[str, Any], params: Any, *, unit_axes: UnitAxes | None = None
) -> ClipState:
    """What a clip remembers before the first step: a pytree of arrays.

    Args:
        clip: what to do; a string or a mapping is read by `clipwise.config.parse`.
        params: the parameters, any pytree.
        unit_axes: as for `clip`.

    Raises:
        ParameterError: a pattern of `by_name` or of ``unit_axes`` matches no parameter.

    >>> import jax.numpy as jnp, clipwise, clipwise.jax
    >>> int(clipwise.jax.init(clipwise.autoclip(10), {"w": jnp.zeros(2)}).step)
    0
    """
    return first_state(as_clip(clip), _trees.lay_out(params, None, unit_axes, "parameter").slots)


def clip(
    clip: AnyClip | str | Mapping[str, Any],
    grads: Any,
    state: ClipState | None = None,
    params: Any = None,
    *,
    loss: Array | None = None,
    learning_rate: Array | None = None,
    momentum: Array | None = None,
    scale_free: bool = False,
    nonfinite: NonFinite = "propagate",
    direction: bool = False,
    unit_axes: UnitAxes | None = None,
) -> tuple[Any, ClipState, ClipReport]:
    """Clip gradients: ``g <- g * min(1, threshold / norm(g))`` for each group of entries.

    See `clipwise.Clip` for the groups, norms and thresholds.
    Pure, so it can be jitted, vmapped and scanned. Called outside of a compiled function it compiles itself,
    once for each clip (another number as its threshold is the same clip) and each set of shapes.

    Args:
        clip: what to do; a string or a mapping is read by `clipwise.config.parse`.
        grads: any pytree of real or complex arrays; None is a gradient that is not there.
        state: of `init` or of the step before; None: this is the first step.
        params: the parameters, for thresholds that look at weights, and where a gradient is missing.
        loss: the training loss of this step, for thresholds that follow it.
        learning_rate, momentum, scale_free: of the optimizer, for `clipwise.auto`.
        nonfinite: what to do about NaN and Inf: ``"propagate"`` nothing, ``"zero"`` puts 0 in place of
            such entries, ``"skip"`` gives zeros for all gradients and reports ``skipped``, ``"error"``
            raises.
        direction: measure the cosine between the gradients before and after where it is not free.
        unit_axes: shell patterns of names to the axes along which output units lie, where they are not: the
            last axis of a kernel, the rows of an embedding, axis 0 of an equinox layer.

    Returns:
        The clipped gradients in the same tree and dtypes (zeros, where a clip with ``action="skip"`` leaves
        the step out), the next state, and the report.

    Raises:
        ParameterError: a pattern matches nothing; a threshold needs weights or a loss; a gradient fits none
            of the parameters.
        StateError: the state is of another clip or of other parameters.
        NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``.
        ArgumentError: ``nonfinite="error"`` inside a compiled function, which cannot raise.

    >>> import jax.numpy as jnp, clipwise, clipwise.jax
    >>> grads = {"w": jnp.array([3.0, 4.0]), "unused": None}
    >>> grads, state, report = clipwise.jax.clip(clipwise.clip_by_global_norm(1.0), grads)
    >>> print(grads["w"], grads["unused"], report)
    [0.6 0.8] None norm 5 -> 1 (threshold 1, 100% clipped)
    """
    described, nonfinite = as_clip(clip), as_nonfinite(nonfinite)
    laid = _trees.lay_out(grads, params, unit_axes)
    if nonfinite == "error":
        refuse_error_while_tracing(laid.gradients)
    context = StepContext(learning_rate=learning_rate, momentum=momentum, scale_free=scale_free, loss=loss)
    inside: NonFinite = "propagate" if nonfinite == "error" else nonfinite
    out, after, report = step(
        described, laid.slots, laid.gradients, laid.weights, state, context, inside, direction=direction
    )
    if nonfinite == "error":
        raise_nonfinite(report)
    return laid.rebuilt(out), after, report


def refuse_error_while_tracing(gradients: list[Array | None]) -> None:
    """ArgumentError where nothing can be raised by what a gradient holds."""
    if any(map(is_traced, gradients)):
        raise ArgumentError(
            'nonfinite="error" cannot raise from inside a compiled function; use "skip" or "zero", and look'
            " at report.nonfinite outside"
        )


def raise_nonfinite(report: ClipReport) -> None:
    """NonFiniteError if a gradient held NaN or Inf; waits for the device."""
    count = int(report.nonfinite)
    if count:
        raise NonFiniteError(f"the gradient of {report.worst!r} holds NaN or Inf ({count} tensors in all)")
