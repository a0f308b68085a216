"""Make a Keras optimizer clip, from one line."""

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
    """Clip the gradients of a Keras optimizer in each of its steps, from now on, on any of Keras' back ends.

    ::

        optimizer = clipwise.keras.attach(keras.optimizers.Adam(1e-3), clipwise.autoclip(10))
        model.compile(optimizer, loss="mse")
        model.fit(x, y, callbacks=[clipwise.keras.ClipMonitor()])

    It clips what the step is about to use: gradients without the scale of the loss, the mean over
    micro-batches with ``gradient_accumulation_steps``, the sum over replicas. State and report are variables
    of the optimizer, so they are part of the compiled step, of ``model.save`` and of checkpoints.

    Args:
        optimizer: any ``keras.optimizers.Optimizer``, a ``LossScaleOptimizer`` (then the one inside it), or a
            ``MultiOptimizer`` (one joint clip for all).
        clip: what to do; a string or a mapping is read by `clipwise.config.parse`. None with ``weights`` or
            ``updates``: the gradients are only measured.
        weights: what is done to the weights after every step, such as ``clip_by_value(0.01)`` for WGAN: to
            those that had a gradient in it, as Keras' own constraints; `weights_report` says what.
        updates: what is done to the update of every step, such as ``clip_by_block_rms(1.0)``, the update
            clipping of Adafactor, for any optimizer: ``u = (after - before) / learning_rate`` is measured and
            clipped, and the variables become ``before + learning_rate * clipped(u)``. Decoupled weight decay
            is not a part of it: Keras applies it before. It takes two copies of the variables in the step.
            `updates_report` says what was done. Not for a ``MultiOptimizer``.
        model: its layers say where the units of their kernels lie (transposed and depthwise convolutions,
            attention, ``EinsumDense``) for clips by unit. Not needed for names or weights.
        nonfinite: what happens to a step whose gradients hold NaN or Inf. ``"skip"``: it is as if it had
            never been, for weights, the optimizer's state, weight decay, averages and iterations. ``"zero"``
            puts 0 in place of such entries, ``"propagate"`` lets them through, ``"error"`` raises (only
            where the step is not compiled).
        unit_axes: shell patterns of names to the axes that tell units apart, the first match wins; for
            ``weights`` and ``updates`` too.
        direction: measure the cosine between the gradients before and after where it is not free.

    Returns:
        The same optimizer. `report` says what its last step did.

    Raises:
        ArgumentError: this is no Keras optimizer, it clips already (``clipnorm``, ``global_clipnorm``,
            ``clipvalue``, or a clip attached before), the bound of the weights or the clip of updates
            follows the loss, ``updates`` is given for a ``MultiOptimizer``, or
            TensorFlow may have compiled its steps.
        ParameterError: when it is built: a pattern matches no variable, or the model is another one.

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
    """Stop clipping; the optimizer is as it was before `attach`, and its variables of clipping are gone.

    Args:
        optimizer: that a clip is attached to.
        model: needed on TensorFlow once the optimizer has made steps, since the model may have compiled them.

    Raises:
        ArgumentError: no clip is attached, or TensorFlow may have compiled its steps.

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
    """What the last step of an optimizer with a clip did; norm 0 before the first.

    Its norms by tensor are read from the device at once, the rest when it is looked at; later steps do not
    change it. In a callback of ``fit`` on JAX go through the model, ``report(self.model.optimizer)``, which
    gives the optimizer's variables their values.

    Raises:
        ArgumentError: no clip is attached.
        StateError: on JAX, during ``fit``: the variables have no values.
    """
    return clipping_of(optimizer).report()


def weights_report(optimizer: Any) -> ClipReport:
    """What the last step of an optimizer with ``attach(..., weights=)`` did to the weights.

    Its ``at_bound`` is the share of the weights at the bound, counted from the weights as they are now.

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
    """What the last step of an optimizer with ``attach(..., updates=)`` did to its update: norms of u.

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
    """Tell the loss to thresholds that look at it (`auto`, `reduce_on_instability`), before ``apply``.

    Of several before one step, as with micro-batches, the mean counts. ``fit`` does not call it: do so in a
    ``train_step`` or a loop of your own. Tell it the loss without a scale. A step for which none was given is
    taken to have that of the step before.

    Raises:
        ArgumentError: no clip is attached.
    """
    clipping = clipping_of(optimizer)
    if clipping.memory is None:  # it is read when the optimizer is built
        loss = keras.ops.copy(keras.ops.stop_gradient(keras.ops.convert_to_tensor(loss)))
    clipping.hear(loss)


def clipping_of(optimizer: Any) -> Clipping:
    """The clip of an optimizer; ArgumentError where there is none."""
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
        ArgumentError: this is no Keras optimizer.
    """
    return hasattr(unscaled(optimizer), CLIPPED)


def counts(optimizer: Any) -> tuple[float, ...]:
    """Numbers that change with every clipped step, one that is left out included, and with no micro-batch.

    Raises:
        ArgumentError: no clip is attached.
    """
    memory = clipping_of(optimizer).memory
    return (0.0,) * len(TOTALS) if memory is None else tuple(memory.totals()[1])


@contextmanager
def unclipped(optimizer: Any) -> Iterator[None]:
    """Meanwhile the optimizer is as it was before `attach`: what is saved then loads without clipwise.

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
    """The optimizer that sees gradients without a scale; ArgumentError where this is no optimizer."""
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
