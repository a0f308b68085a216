"""One clipping step, compiled: an eager call is one program; in a compiled function it is a part of it."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipwise.clip import AnyClip, ByName, Chain, Clip, singles
from clipwise.errors import StateError
from clipwise.functional.arguments import NonFinite
from clipwise.functional.arithmetic.jax import JaxArithmetic
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.clipping import ClipState, clip_arrays, init_state
from clipwise.functional.context import StepContext
from clipwise.functional.plan import Plan, make_plan
from clipwise.functional.slots import Slot
from clipwise.namespace import Array
from clipwise.report import ClipReport
from clipwise.thresholds import Threshold

Numbers = list[Array]
Outcome = tuple[list[Array | None], ClipState, ClipReport]


def step(
    clip: AnyClip,
    slots: tuple[Slot, ...],
    gradients: Sequence[Array | None],
    weights: Sequence[Array] | None,
    state: Any,
    context: StepContext,
    nonfinite: NonFinite,
    *,
    direction: bool = False,
) -> Outcome:
    """Clip gradients by slot; a state of None is that before the first step.

    Raises:
        StateError: the state does not belong to this clip and these parameters.
    """
    refuse_no_state(state)
    numbers, skeleton = _split(clip)
    arguments = (
        list(gradients),
        weights if "weight_norm" in sees(clip) else None,
        state,
        numbers,
        context.learning_rate,
        context.momentum,
        context.loss,
    )
    options = (skeleton, slots, nonfinite, context.scale_free, direction)
    try:
        hash(options)
    except TypeError:  # a policy that holds a traced number: a trace is going on anyway
        return _step(options, *arguments)
    outcome: Outcome = _compiled(options, *arguments)
    return outcome


def _step(
    options: tuple[AnyClip, tuple[Slot, ...], NonFinite, bool, bool],
    gradients: list[Array | None],
    weights: Sequence[Array] | None,
    state: ClipState | None,
    numbers: Numbers,
    learning_rate: Array | None,
    momentum: Array | None,
    loss: Array | None,
) -> Outcome:
    skeleton, slots, nonfinite, scale_free, direction = options
    arithmetic = JaxArithmetic()
    plan = make_plan(_joined(skeleton, iter(numbers)), slots)
    full = full_state(plan, arithmetic.xp, state)
    out, after, report = clip_arrays(
        plan,
        MeasuredArrays(arithmetic, slots, gradients),
        None if weights is None else MeasuredArrays(arithmetic, slots, weights),
        full,
        StepContext(learning_rate=learning_rate, momentum=momentum, scale_free=scale_free, loss=loss),
        nonfinite,
        direction=direction,
    )
    # A dtype that changed would be compiled anew at every step.
    after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, full)
    return out, emptied(after), report


_compiled = partial(jax.jit, static_argnums=0, inline=True)(_step)


def first_state(clip: AnyClip, slots: tuple[Slot, ...]) -> ClipState:
    """The state before the first step."""
    return emptied(init_state(make_plan(clip, slots), JaxArithmetic().xp))


def full_state(plan: Plan, xp: Any, state: ClipState | None) -> ClipState:
    """The state with its empty arrays restored; for None the state before the first step.

    Raises:
        StateError: it does not belong to this plan.
    """
    if state is None:
        return init_state(plan, xp)
    form: Any = jax.eval_shape(lambda: init_state(plan, xp))
    _refuse_other(state, form)
    return _filled(state, form)


def emptied(state: ClipState) -> ClipState:
    """The state with None in place of empty arrays, which orbax would not save."""
    emptied: ClipState = jax.tree.map(lambda array: array if array.size else None, state)
    return emptied


def _filled(state: ClipState, form: Any) -> ClipState:
    """The opposite."""
    filled: ClipState = jax.tree.map(
        lambda like, array: array if like.size else jnp.zeros(like.shape, like.dtype), form, state
    )
    return filled


def refuse_no_state(state: Any) -> None:
    """StateError for anything that is neither None nor a state."""
    if state is not None and not isinstance(state, ClipState):
        raise StateError(f"expected the ClipState returned by init or by the previous step, got {state!r}")


def _refuse_other(state: ClipState, form: Any) -> None:
    structure: Any
    wanted, structure = jax.tree.flatten(emptied(form))
    found, own = jax.tree.flatten(state)
    same = structure == own and all(
        np.shape(array) == like.shape for array, like in zip(found, wanted, strict=True)
    )
    if not same:
        raise StateError(
            "the state is of another clip or of other parameters: it must come from init with the same clip"
            " and params, or from the step before; without params, every parameter must have a gradient"
        )


def sees(clip: AnyClip | None) -> frozenset[str]:
    """What the thresholds use besides norms."""
    policies = [single.threshold for single in singles(clip) if isinstance(single.threshold, Threshold)]
    return frozenset().union(*(policy.needs | policy.wants for policy in policies))


def _split(clip: Any) -> tuple[Numbers, Any]:
    """The numbers in a description, and the description without: other numbers compile nothing anew."""
    match clip:
        case Clip(threshold=Threshold() | tuple()) | None:
            return [], clip
        case Clip():
            return [clip.threshold], dataclasses.replace(clip, threshold=0.0)
        case Chain(clips=clips):
            split = [_split(part) for part in clips]
            return [n for numbers, _ in split for n in numbers], Chain(tuple(part for _, part in split))
        case _:
            split = [_split(part) for _, part in clip.parts]
            parts = tuple((pattern, part) for (pattern, _), (_, part) in zip(clip.parts, split, strict=True))
            return [n for numbers, _ in split for n in numbers], ByName(parts)


def _joined(clip: Any, numbers: Iterator[Array]) -> Any:
    """The description with its numbers again, in the order of `_split`."""
    match clip:
        case Clip(threshold=Threshold() | tuple()) | None:
            return clip
        case Clip():
            return dataclasses.replace(clip, threshold=next(numbers))
        case Chain(clips=clips):
            return Chain(tuple(_joined(part, numbers) for part in clips))
        case _:
            return ByName(tuple((pattern, _joined(part, numbers)) for pattern, part in clip.parts))
