"""Checks of states, and conversion of reports to tensors."""

import dataclasses
from typing import Any

import array_api_compat
import numpy as np
import tensorflow as tf

from clipwise.errors import StateError
from clipwise.functional.clipping import ClipState, init_state
from clipwise.functional.plan import Plan
from clipwise.namespace import Namespace
from clipwise.report import ClipReport


def checked(state: Any, plan: Plan) -> ClipState:
    """The state as tensors, if it belongs to this plan; variables and arrays are read.

    Raises:
        StateError: it does not.
    """
    if not isinstance(state, ClipState):
        raise StateError(f"expected the ClipState returned by init or by the previous step, got {state!r}")
    # Made with numpy, which costs nothing beside what TensorFlow would.
    numpy = array_api_compat.array_namespace(np.empty(0))
    wanted = init_state(plan, Namespace(numpy, np.float64, None))
    try:
        tf.nest.assert_same_structure(wanted, state)
        pairs = zip(tf.nest.flatten(wanted), tf.nest.flatten(state), strict=True)
        same = all(tuple(found.shape) == like.shape for like, found in pairs)
    except (TypeError, ValueError, AttributeError):
        same = False
    if not same:
        raise StateError(
            "the state is of another clip or of other variables: it must come from init with the same clip"
            " and variables, or from the step before; without variables, every gradient must be there"
        )
    found: ClipState = tf.nest.map_structure(
        lambda like, value: tf.cast(tf.convert_to_tensor(value), like.dtype), wanted, state
    )
    return found


def like(state: ClipState, before: ClipState) -> ClipState:
    """The state in the dtypes and shapes of the one before: others would be traced anew at every step."""
    found: ClipState = tf.nest.map_structure(
        lambda new, old: tf.ensure_shape(tf.cast(new, old.dtype), old.shape), state, before
    )
    return found


def of_tensors(report: ClipReport) -> ClipReport:
    """The report with tensors where its parts say numbers."""
    return dataclasses.replace(
        report,
        nonfinite=tf.cast(report.nonfinite, tf.int32),
        skipped=tf.convert_to_tensor(report.skipped),
        parts={key: of_tensors(part) for key, part in report.parts.items()},
    )
