"""Clipping of weights for optax: WGAN's weight clipping, the max-norm constraint."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_weight_clip
from clipwise.errors import ParameterError, StateError
from clipwise.functional.arithmetic.jax import JaxArithmetic
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.bounds import of_measure
from clipwise.functional.clipping import ClipState
from clipwise.functional.context import StepContext
from clipwise.functional.slots import Slot, UnitAxes
from clipwise.jax import _trees, reports
from clipwise.jax._packed import OfWeights, blank, form_of, known_to_flax, pack, unpack
from clipwise.jax._step import first_state, step
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["WeightsState", "clip_weights"]


class WeightsState(NamedTuple):
    """The state of `clip_weights`. Its structure never changes, so a step is compiled once.

    Attributes:
        clip: state of the thresholds.
        weights: the last report, as one array.
    """

    clip: ClipState
    weights: OfWeights

    @property
    def report(self) -> ClipReport:
        """The report of the last step, with ``at_bound``; with norm 0 before the first."""
        return unpack(self.weights.packed)


def clip_weights(
    clip: AnyClip | str | Mapping[str, Any], *, unit_axes: UnitAxes | None = None
) -> optax.GradientTransformationExtraArgs:
    """Clip the weights after every step: the last member of an `optax.chain`, after the optimizer.

    The update u of a weight w becomes ``clip(w + u) - w``, so that `optax.apply_updates` gives the clipped
    weight, up to one rounding of the larger of the old and the new weight. Where the clip changes nothing, u
    is kept bit for bit. ``clip_by_value(0.01)`` is WGAN's weight clipping (Arjovsky et al. 2017,
    arXiv:1701.07875), ``Clip(3.0, per="unit")`` the max-norm constraint.

    Args:
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`.
        unit_axes: as for `clipwise.jax.clip`.

    Raises:
        ArgumentError: the argument is not a clip, or its threshold follows the loss.
        ParameterError: during a step: ``update`` was called without ``params``, or a pattern matches nothing.

    >>> import jax.numpy as jnp, optax, clipwise, clipwise.jax
    >>> params = {"w": jnp.array([0.005, 0.005])}
    >>> optimizer = optax.chain(optax.sgd(1.0), clipwise.jax.clip_weights(clipwise.clip_by_value(0.01)))
    >>> updates, state = optimizer.update({"w": jnp.array([-1.0, 0.001])}, optimizer.init(params), params)
    >>> print(optax.apply_updates(params, updates)["w"])
    [0.01  0.004]
    >>> float(clipwise.jax.weights_report(state).at_bound)
    0.5
    """
    made = _Bounded(as_weight_clip(clip), unit_axes)
    return optax.GradientTransformationExtraArgs(made.init, made.update)


class _Bounded:
    """The two functions of a transformation: methods, which can be pickled, and not closures."""

    def __init__(self, clip: AnyClip, unit_axes: UnitAxes | None) -> None:
        self.clip = clip
        self.unit_axes = unit_axes
        known_to_flax()

    def init(self, params: Any) -> WeightsState:
        known_to_flax()  # which may be loaded by now, as where this was unpickled
        if type(params).__name__ == "_ParamsPlaceholder":
            # Of optax.tree_map_params: nothing here is like the parameters.
            return WeightsState(0, 0)  # type: ignore[arg-type]
        laid = _trees.lay_out(params, None, self.unit_axes, "parameter")
        state = first_state(self.clip, laid.slots)
        _, _, report = jax.eval_shape(lambda own: self._clipped(laid.slots, own, own, state), laid.gradients)
        return WeightsState(state, OfWeights(blank(form_of(report))))

    def update(
        self, updates: Any, state: WeightsState, params: Any = None, **extra: Any
    ) -> tuple[Any, WeightsState]:
        if not isinstance(state, WeightsState):
            raise StateError(f"expected the state of clipwise.jax.clip_weights, got {type(state).__name__}")
        if params is None:
            raise ParameterError("clipping weights needs the weights: call update(updates, state, params)")
        laid = _trees.lay_out(updates, params, self.unit_axes, "update of")
        assert laid.weights is not None
        pairs = list(zip(laid.weights, laid.gradients, strict=True))
        targets = [None if u is None else jnp.asarray(w + u, jnp.asarray(w).dtype) for w, u in pairs]
        every = [w if t is None else t for (w, _), t in zip(pairs, targets, strict=True)]
        form = state.weights.packed.form
        out, after, report = self._clipped(laid.slots, targets, every, state.clip)
        # Without any weight there is nothing at the bound, and no report of the usual form.
        packed = pack(report, form) if any(one is not None for one in targets) else blank(form)
        found = [
            None if u is None or t is None or o is None else _update(jnp.asarray(w), u, t, o)
            for (w, u), t, o in zip(pairs, targets, out, strict=True)
        ]
        return laid.rebuilt(found), WeightsState(after, OfWeights(packed))

    def _clipped(
        self, slots: tuple[Slot, ...], targets: list[Array | None], weights: list[Array], state: ClipState
    ) -> tuple[list[Array | None], ClipState, ClipReport]:
        out, after, report = step(self.clip, slots, targets, weights, state, StepContext(), "propagate")
        at_bound = of_measure(MeasuredArrays(JaxArithmetic(), slots, out), self.clip, report)
        return out, after, dataclasses.replace(reports.spread(report, slots), at_bound=at_bound)


def _update(weight: Array, update: Array, target: Array, clipped: Array) -> Array:
    """What leads from a weight to the clipped one; as it was where nothing was clipped."""
    # The update may be wider than the weight, as optax' of halves are: its digits are kept.
    dtype = jnp.result_type(update, clipped)
    first = clipped.astype(dtype) - weight.astype(dtype)
    # One correction by what the rounding of w + u leaves: then it is exact wherever it can be.
    reached = (weight + first).astype(weight.dtype)
    exact = first + (clipped - reached).astype(dtype)
    return jnp.where(clipped == target, update.astype(dtype), exact)
