"""Keras on TensorFlow: graphs, sparse gradients, and several replicas."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import tensorflow as tf


def like() -> Any:
    """An array of this back end."""
    return tf.zeros(())


def read(variable: Any) -> Any:
    """The value of a variable."""
    return tf.convert_to_tensor(variable.value if isinstance(variable, keras.Variable) else variable)


snapshot = read


def prepare(
    optimizer: Any, gradients: Sequence[Any], whole: bool
) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """Sums over the replicas, which Keras would compute after clipping, and over slices of the same row."""
    gradients = [g if isinstance(g, tf.IndexedSlices) else tf.convert_to_tensor(g) for g in gradients]
    replica = tf.distribute.get_replica_context()
    if replica is not None and replica.num_replicas_in_sync > 1:
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    if whole:
        gradients = [tf.convert_to_tensor(g) for g in gradients]
    gradients = [_summed_by_row(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]

    def back(arrays: Sequence[Any]) -> list[Any]:
        return [
            tf.IndexedSlices(a, g.indices, g.dense_shape) if isinstance(g, tf.IndexedSlices) else a
            for a, g in zip(arrays, gradients, strict=True)
        ]

    return [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients], back


def _summed_by_row(slices: Any) -> Any:
    """The same gradient with every row once, and rows of zeros for as many as that saves.

    All shapes are known before the values are, as XLA needs it.
    """
    order = tf.argsort(slices.indices, stable=True)
    indices = tf.gather(slices.indices, order)
    first = tf.concat(
        [tf.zeros_like(indices[:1], tf.int32), tf.cast(indices[1:] != indices[:-1], tf.int32)], 0
    )
    row = tf.cumsum(first)
    count = tf.shape(indices)[0]
    # Halves in float32: of a word that is common, as many slices are added up as it was looked up.
    dtype = slices.values.dtype
    wide = tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype
    values = tf.gather(tf.cast(slices.values, wide), order)
    values = tf.cast(tf.math.unsorted_segment_sum(values, row, count), dtype)
    # Places that are not taken hold the smallest number: a row that is there, to which zeros are added.
    indices = tf.maximum(tf.math.unsorted_segment_max(indices, row, count), 0)
    return tf.IndexedSlices(values, indices, slices.dense_shape)


def is_traced(arrays: Sequence[Any]) -> bool:
    return not tf.executing_eagerly()


def unless(optimizer: Any, skip: Any, act: Callable[..., Any], *arguments: Any) -> None:
    """If replicas synchronise inside of ``act``, the decision must be made outside of them."""
    if not _replicas_meet():
        tf.cond(skip.value > 0, _nothing, lambda: _then_nothing(act, *arguments))
        return

    def above(strategy: Any, skip: Any, arguments: Any) -> None:
        def each() -> None:
            strategy.extended.call_for_each_replica(act, args=arguments)

        flag = strategy.experimental_local_results(skip)[0]  # the same in all
        tf.cond(flag > 0, _nothing, lambda: _then_nothing(each))

    value = tf.convert_to_tensor(skip.value)
    tf.distribute.get_replica_context().merge_call(above, args=(value, arguments))


def _replicas_meet() -> bool:
    """Whether replicas wait for one another here; under a ``tf.cond`` they cannot, and Keras fails before."""
    return not (
        tf.distribute.in_cross_replica_context()
        or tf.__internal__.distribute.strategy_supports_no_merge_call()
    )


def _nothing() -> None:
    return None


def _then_nothing(act: Callable[..., Any], *arguments: Any) -> None:
    act(*arguments)


def undone(skip: Any, variables: Sequence[Any]) -> AbstractContextManager[None]:
    return nullcontext()


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    found: Callable[..., Any] = tf.autograph.experimental.do_not_convert(function)
    return found


def write(optimizer: Any, variables: Sequence[Any], arrays: Sequence[Any]) -> None:
    """Assign in the way in which Keras itself updates variables that several replicas may hold."""

    def everywhere(strategy: Any, arrays: Sequence[Any]) -> None:
        for variable, array in zip(variables, arrays, strict=True):
            own = variable.value if isinstance(variable, keras.Variable) else variable
            strategy.extended.update(own, _assign, args=(array,), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(
        everywhere, optimizer._distribution_strategy, list(arrays)
    )


def _assign(variable: Any, array: Any) -> None:
    variable.assign(array)
