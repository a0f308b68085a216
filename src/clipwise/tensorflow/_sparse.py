"""Gradients of embeddings, which are the rows that were looked up: `tf.IndexedSlices`."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from clipwise.functional.plan import Plan
from clipwise.functional.slots import Slot
from clipwise.functional.stage import Stage
from clipwise.namespace import Array


def coalesced(gradients: Sequence[Any], plan: Plan, slots: Sequence[Slot]) -> list[Any]:
    """The gradients with one slice per row, or dense if the plan needs rows that are not stored."""
    dense = {slot.name for stage in plan.stages() if _sees_missing_rows(stage) for slot in stage.slots}
    return [
        gradient
        if not isinstance(gradient, tf.IndexedSlices)
        else _as_dense(gradient, slot)
        if slot.name in dense
        else _summed_by_row(gradient)
        for gradient, slot in zip(gradients, slots, strict=True)
    ]


def entries(gradient: Any) -> Array | None:
    """The stored entries."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def with_entries(gradient: Any, array: Array | None) -> Any:
    """A gradient of the same kind with other entries."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(array, gradient.indices, gradient.dense_shape)
    return array


def _sees_missing_rows(stage: Stage) -> bool:
    """Whether rows of zeros have a bound of their own, or would become something else than zeros."""
    clip = stage.clip
    if clip.per != "element":
        return clip.per == "unit"
    if isinstance(clip.threshold, tuple):
        low, high = (0.0 if tf.is_tensor(bound) else bound for bound in clip.threshold)
        traced = any(tf.is_tensor(bound) for bound in clip.threshold)
        return traced or not low <= 0.0 <= high
    return stage.thresholds.by_entry


def _summed_by_row(slices: Any) -> Any:
    rows, place = tf.unique(slices.indices)
    return tf.IndexedSlices(_sums(slices, place, tf.size(rows)), rows, slices.dense_shape)


def _as_dense(slices: Any, slot: Slot) -> Array:
    return tf.ensure_shape(_sums(slices, slices.indices, slot.shape[0]), slot.shape)


def _sums(slices: Any, place: Array, count: Any) -> Array:
    """The slices added up by place; halves in float32, where a word that is common adds up to its count."""
    dtype = slices.values.dtype
    wide = tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype
    return tf.cast(tf.math.unsorted_segment_sum(tf.cast(slices.values, wide), place, count), dtype)
