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
    """The state of a clip before the first step: a pytree of arrays.

    Args:
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`.
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

    See `clipwise.Clip` for groups, norms and thresholds. The function is pure and can be used under
    `jax.jit`, `jax.vmap` and `jax.lax.scan`. Outside of a compiled function it is compiled itself, once for
    each clip and set of shapes. Clips that differ only in a numeric threshold share one compilation.

    Args:
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`.
        grads: a pytree of real or complex arrays; None stands for a missing gradient.
        state: state returned by `init` or by the previous step; None in the first step.
        params: the parameters; needed by thresholds that depend on weights, and if a gradient is missing.
        loss: the training loss of this step; needed by thresholds that follow the loss.
        learning_rate, momentum, scale_free: those of the optimizer, for `clipwise.auto`.
        nonfinite: what to do about NaN and Inf. ``"propagate"``: nothing. ``"zero"``: replace such entries by
            0. ``"skip"``: return zeros for all gradients and report ``skipped``. ``"error"``: raise.
        direction: report the cosine between the gradients before and after clipping even if this costs extra
            computation.
        unit_axes: maps shell patterns of names to the axes along which output units lie, where the default is
            wrong. The default is the last axis of a kernel, the rows of an embedding, and axis 0 of an
            equinox layer.

    Returns:
        The clipped gradients with the same structure and dtypes (zeros if a clip with ``action="skip"`` skips
        the step), the next state, and the report.

    Raises:
        ParameterError: a pattern matches nothing; a threshold needs weights or a loss that was not given; a
            gradient does not fit the parameters.
        StateError: the state belongs to another clip or to other parameters.
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
    """ArgumentError while a function is traced, which cannot raise depending on the values of gradients."""
    if any(map(is_traced, gradients)):
        raise ArgumentError(
            'nonfinite="error" cannot raise from inside a compiled function; use "skip" or "zero", and look'
            " at report.nonfinite outside"
        )


def raise_nonfinite(report: ClipReport) -> None:
    """NonFiniteError if a gradient held NaN or Inf; needs a host-device sync."""
    count = int(report.nonfinite)
    if count:
        raise NonFiniteError(f"the gradient of {report.worst!r} holds NaN or Inf ({count} tensors in all)")
