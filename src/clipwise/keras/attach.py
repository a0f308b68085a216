"""Makes a Keras optimizer clip its gradients, in one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_clip, as_update_clip, as_weight_clip
from clipwise.errors import ArgumentError
from clipwise.functional.arguments import NonFinite, as_nonfinite
from clipwise.functional.slots import UnitAxes
from clipwise.keras._backends import backend
from clipwise.keras._clipped import CLIPPED, inner_class, with_clipping
from clipwise.keras._memory import TOTALS
from clipwise.keras._multi import is_multi, refuse_inner
from clipwise.keras._step import Clipping, refuse_own_clips
from clipwise.keras._updates import UpdateClipping
from clipwise.keras._weights import WeightClipping
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["attach", "clipping_of", "detach", "observe", "report", "updates_report", "weights_report"]


def attach(
    optimizer: Any,
    clip: AnyClip | str | Mapping[str, Any] | None = None,
    *,
    weights: AnyClip | str | Mapping[str, Any] | None = None,
    updates: AnyClip | str | Mapping[str, Any] | None = None,
    model: Any = None,
    nonfinite: NonFinite = "skip",
    unit_axes: UnitAxes | None = None,
    direction: bool = False,
) -> Any:
    """Clip the gradients of a Keras optimizer in each of its steps, on any of Keras' back ends.

    ::

        optimizer = clipwise.keras.attach(keras.optimizers.Adam(1e-3), clipwise.autoclip(10))
        model.compile(optimizer, loss="mse")
        model.fit(x, y, callbacks=[clipwise.keras.ClipMonitor()])

    The clipped gradients are those that the step uses: unscaled if there is a loss scale, averaged over
    micro-batches with ``gradient_accumulation_steps``, and summed over replicas. State and report are
    variables of the optimizer, so they are part of the compiled step, of ``model.save`` and of checkpoints.

    Args:
        optimizer: any ``keras.optimizers.Optimizer``. Of a ``LossScaleOptimizer`` the inner optimizer is
            clipped; a ``MultiOptimizer`` gets one joint clip for all.
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`. None together with
            ``weights`` or ``updates``: the gradients are only measured.
        weights: a clip for the weights after every step, such as ``clip_by_value(0.01)`` for WGAN. Like
            Keras' own constraints it applies to the weights that had a gradient in the step. See
            `weights_report`.
        updates: a clip for the update of every step, such as ``clip_by_block_rms(1.0)``, the update clipping
            of Adafactor, for any optimizer. ``u = (after - before) / learning_rate`` is measured and clipped,
            and the variables become ``before + learning_rate * clipped(u)``. Decoupled weight decay is not
            included, since Keras applies it before. Takes two copies of the variables during the step. See
            `updates_report`. Not for a ``MultiOptimizer``.
        model: the model whose layers tell along which axes the units of their kernels lie (transposed and
            depthwise convolutions, attention, ``EinsumDense``), for ``per="unit"``. Not needed for names or
            weights.
        nonfinite: what to do about gradients that hold NaN or Inf. ``"skip"``: skip the step; weights, the
            optimizer's state, weight decay, averages and the number of iterations stay unchanged. ``"zero"``:
            replace such entries by 0. ``"propagate"``: nothing. ``"error"``: raise (only if the step is not
            compiled).
        unit_axes: maps shell patterns of names to the axes along which units lie; the first match wins. Used
            for ``weights`` and ``updates`` too.
        direction: report the cosine between the gradients before and after clipping even if this costs extra
            computation.

    Returns:
        The same optimizer. `report` returns what its last step did.

    Raises:
        ArgumentError: the argument is not a Keras optimizer; it clips already (``clipnorm``,
            ``global_clipnorm``, ``clipvalue``, or an attached clip); the clip of weights or updates follows
            the loss; ``updates`` is given for a ``MultiOptimizer``; or TensorFlow may have compiled the
            optimizer's steps.
        ParameterError: when the optimizer is built: a pattern matches no variable, or the model does not hold
            the optimizer's variables.

    >>> import keras, clipwise.keras
    >>> optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), "clip_by_global_norm(1.0)")
    >>> weight = keras.Variable([0.0, 0.0], name="weight")
    >>> optimizer.apply([keras.ops.convert_to_tensor([3.0, 4.0])], [weight])
    >>> [round(float(w), 3) for w in weight.numpy()]
    [-0.6, -0.8]
    >>> print(clipwise.keras.report(optimizer))
    norm 5 -> 1 (threshold 1, 100% clipped)
    """
    inner = unscaled(optimizer)
    if clip is None and weights is None and updates is None:
        raise ArgumentError(
            "expected a clip such as clipwise.clip_by_global_norm(1.0), or weights= or updates=, got None"
        )
    described = None if clip is None else as_clip(clip)
    bound = None if weights is None else WeightClipping(as_weight_clip(weights))
    nonfinite = as_nonfinite(nonfinite)
    after = None if updates is None else UpdateClipping(_as_update_clip(inner, updates), nonfinite)
    if hasattr(inner, CLIPPED):
        raise ArgumentError(
            "a clip is attached to this optimizer already: detach it first, or use clipwise.chain"
        )
    if clip is not None:
        refuse_own_clips(inner)
    if is_multi(inner):
        for one in inner.optimizers:
            refuse_inner(one, own_clips=clip is None)
    if model is not None and not isinstance(model, keras.layers.Layer):
        raise ArgumentError(f"model must be a keras.Model or a layer, got {type(model).__name__}")
    _compile_anew(inner, model)
    with_clipping(
        inner,
        Clipping(
            described,
            weights=bound,
            updates=after,
            model=model,
            nonfinite=nonfinite,
            unit_axes=unit_axes,
            direction=direction,
        ),
    )
    return optimizer


def detach(optimizer: Any, *, model: Any = None) -> Any:
    """Stop clipping: the optimizer is what it was before `attach`, and the variables of the clip are removed.

    Args:
        optimizer: an optimizer with a clip attached.
        model: needed on TensorFlow once the optimizer has made steps, since the model may have compiled them.

    Returns:
        The same optimizer.

    Raises:
        ArgumentError: no clip is attached, or TensorFlow may have compiled the optimizer's steps.

    >>> import keras, clipwise.keras
    >>> optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), "clip_by_norm(1.0)")
    >>> type(clipwise.keras.detach(optimizer)).__name__
    'SGD'
    """
    inner = unscaled(optimizer)
    clipping = clipping_of(inner)
    _compile_anew(inner, model)
    for variable in clipping.variables:
        inner._untrack_variable(variable)
    object.__setattr__(inner, "__class__", inner_class(inner))
    object.__delattr__(inner, CLIPPED)
    return optimizer


def report(optimizer: Any) -> ClipReport:
    """The report of the last step of an optimizer with a clip; with norm 0 before the first.

    The norms of the tensors are read from the device at once, the other fields when they are used. Later
    steps do not change the report. In a callback of ``fit`` on JAX, use ``report(self.model.optimizer)``:
    accessing the optimizer through the model gives its variables their current values.

    Raises:
        ArgumentError: no clip is attached.
        StateError: on JAX, during ``fit``: the variables have no values.
    """
    return clipping_of(optimizer).report()


def weights_report(optimizer: Any) -> ClipReport:
    """The report of the last clipping of weights, of an optimizer with ``attach(..., weights=)``.

    Its ``at_bound`` is the share of the weights at the bound, computed from the current weights.

    Raises:
        ArgumentError: no clip of weights is attached.

    >>> import keras, clipwise.keras
    >>> optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), weights="clip_by_value(0.01)")
    >>> weight = keras.Variable([0.5, 0.0], name="weight")
    >>> optimizer.apply([keras.ops.zeros(2)], [weight])
    >>> float(clipwise.keras.weights_report(optimizer).at_bound)
    0.5
    """
    weights = clipping_of(optimizer).weights
    if weights is None:
        raise ArgumentError(
            f"no clip of weights is attached to this {type(optimizer).__name__}:"
            " use clipwise.keras.attach(optimizer, weights=clip)"
        )
    return weights.report(unscaled(optimizer))


def updates_report(optimizer: Any) -> ClipReport:
    """The report of the last clipping of updates, by ``attach(..., updates=)``: the norms of u.

    Raises:
        ArgumentError: no clip of updates is attached.

    >>> import keras, clipwise.keras
    >>> optimizer = clipwise.keras.attach(keras.optimizers.SGD(0.1), updates="clip_by_block_rms(1.0)")
    >>> weight = keras.Variable([0.0, 0.0], name="weight")
    >>> optimizer.apply([keras.ops.convert_to_tensor([3.0, 3.0])], [weight])
    >>> print(clipwise.keras.updates_report(optimizer))
    norm 3 -> 1 (threshold 1, 100% clipped)
    """
    updates = clipping_of(optimizer).updates
    if updates is None:
        raise ArgumentError(
            f"no clip of updates is attached to this {type(optimizer).__name__}:"
            " use clipwise.keras.attach(optimizer, updates=clip)"
        )
    return updates.report()


def observe(optimizer: Any, loss: Array) -> None:
    """Pass the loss to thresholds that follow it (`auto`, `reduce_on_instability`), before ``apply``.

    If it is called several times before a step, as with micro-batches, the mean counts. ``fit`` does not call
    it: do so in a ``train_step`` or loop of your own. Pass the loss without a loss scale. A step without an
    observed loss uses that of the previous step.

    Raises:
        ArgumentError: no clip is attached.
    """
    clipping = clipping_of(optimizer)
    if clipping.memory is None:  # it is read when the optimizer is built
        loss = keras.ops.copy(keras.ops.stop_gradient(keras.ops.convert_to_tensor(loss)))
    clipping.hear(loss)


def clipping_of(optimizer: Any) -> Clipping:
    """The clip of an optimizer; ArgumentError if there is none."""
    clipping: Clipping | None = getattr(unscaled(optimizer), CLIPPED, None)
    if clipping is None:
        raise ArgumentError(
            f"no clip is attached to this {type(optimizer).__name__}:"
            " use clipwise.keras.attach(optimizer, clip)"
        )
    return clipping


def is_clipped(optimizer: Any) -> bool:
    """Whether a clip is attached.

    Raises:
        ArgumentError: the argument is not a Keras optimizer.
    """
    return hasattr(unscaled(optimizer), CLIPPED)


def counts(optimizer: Any) -> tuple[float, ...]:
    """Numbers that change with every clipped step, skipped ones included, but not with a micro-batch.

    Raises:
        ArgumentError: no clip is attached.
    """
    memory = clipping_of(optimizer).memory
    return (0.0,) * len(TOTALS) if memory is None else tuple(memory.totals()[1])


@contextmanager
def unclipped(optimizer: Any) -> Iterator[None]:
    """A context in which the optimizer is as before `attach`: a file saved in it loads without clipwise.

    Raises:
        ArgumentError: no clip is attached.
    """
    inner = unscaled(optimizer)
    ours = set(map(id, clipping_of(inner).variables))
    kind, every = type(inner), list(inner._variables)

    def become(kind: type, variables: list[Any]) -> None:
        list.__setitem__(inner._variables, slice(None), variables)  # past what tracks the list
        object.__setattr__(inner, "__class__", kind)

    become(inner_class(inner), [variable for variable in every if id(variable) not in ours])
    try:
        yield
    finally:
        become(kind, every)


def unscaled(optimizer: Any) -> Any:
    """The optimizer that receives unscaled gradients; ArgumentError if this is not an optimizer."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ArgumentError(f"attach takes a keras.optimizers.Optimizer, got {type(optimizer).__name__}")
    return optimizer


def _as_update_clip(optimizer: Any, updates: AnyClip | str | Mapping[str, Any]) -> AnyClip:
    found = as_update_clip(updates, no_moments_in="Keras")
    if is_multi(optimizer):
        raise ArgumentError("updates= takes no MultiOptimizer: attach to each of the optimizers inside")
    return found


def _compile_anew(optimizer: Any, model: Any) -> None:
    """TensorFlow goes on with a step that it has compiled: have it compiled again, or refuse."""
    if keras.backend.backend() != "tensorflow" or not optimizer.built:
        return
    if model is not None and hasattr(model, "make_train_function"):
        model.train_function = None
    elif int(backend().read(optimizer._iterations)) > 0:
        raise ArgumentError(
            "this optimizer has made steps, which TensorFlow may have compiled without this change: give"
            " model=, or do it before the first step"
        )
