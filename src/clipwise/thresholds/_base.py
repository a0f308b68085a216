"""What a policy is given in each step, and the interface that every policy implements."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

from clipwise.checks import SMALLEST
from clipwise.namespace import Array

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a policy is given in one step.

    Attributes:
        norm: norm of each group of gradient entries before clipping; any shape, ``()`` for a global norm.
        step: number of earlier steps, skipped ones included (0 in the first step). It is a float of the
            back end's widest precision, which ``0.5**seen.step`` then has, too.
        global_norm: the joint norm of all groups.
        weight_norm: norm of the weights of each group; same shape as ``norm``.
        weight_count: number of weights that ``weight_norm`` was computed from.
        learning_rate: the optimizer's learning rate; the largest one if its parameter groups differ.
        momentum: the optimizer's momentum, in [0, 1).
        scale_free: whether the optimizer divides the gradient by an estimate of its size (Adam, RMSprop). The
            learning rate times the gradient then says nothing about the length of the step.
        loss: the training loss of this step.
        moment_ratio: for an update of Adam, ``sqrt(mean(g^2 / max(v, eps^2)))`` of each tensor; same shape as
            ``norm``.
        of_losses: True if ``norm`` holds the loss of the step, which may be negative, and not a norm.

    A field that a back end does not know is None.
    """

    norm: Array
    step: Array = 0
    global_norm: Array | None = None
    weight_norm: Array | None = None
    weight_count: Array | None = None
    learning_rate: Array | None = None
    momentum: Array | None = None
    scale_free: bool = False
    loss: Array | None = None
    moment_ratio: Array | None = None
    of_losses: bool = False


@runtime_checkable
class Threshold(Protocol):
    """A rule that gives the threshold of each step: a frozen dataclass with two pure functions.

    The functions use operations of the array namespace only and never branch on the value of an array. So the
    same policy runs on plain floats, on a GPU without a host-device sync, and inside a compiled step. Every
    array of the state begins with the axes ``shape`` that were given to `init`, one entry per group.

    With ``per="element"``, a policy that needs the norm of the weights is called once per tensor, and each
    entry is a group. Any other policy is called once, with the norm of all entries, and gives one threshold
    for all of them.

    In per-example clipping, a policy that uses norms is called with the norms of the examples one after the
    other. If it also has ``update_many(xp, state, norms) -> state``, that is called once per step with the
    norms of all examples along axis 0.

    A policy whose threshold can have several reasons derives from `WithReasons`, so that the report can name
    the one that applied.

    Attributes:
        needs: fields of `Observation` that must be given.
        wants: fields of `Observation` that are used if they are given.
        remembers: whether the threshold depends on earlier steps or on the step number.
        watches_norm: whether the threshold depends on the norms of the gradient.
    """

    needs: ClassVar[frozenset[str]]
    wants: ClassVar[frozenset[str]]
    remembers: ClassVar[bool]
    watches_norm: ClassVar[bool]

    def init(self, xp: Any, shape: tuple[int, ...]) -> Any:
        """The state before the first step: a NamedTuple of arrays, which may be nested."""

    def update(self, xp: Any, state: Any, seen: Observation) -> tuple[Array, Any]:
        """The threshold of this step, of a shape that broadcasts to ``seen.norm``, and the next state."""


Conditions: TypeAlias = Callable[[], Sequence[Array]]
"""Returns one mask for each reason but the last: the groups to which it applies if no earlier one does."""


class WithReasons:
    """A policy that reports what determined the threshold: a floor, the warm-up, earlier norms or the loss.

    A subclass lists its reasons and implements `update_held` instead of ``update``. For each reason,
    `clipwise.ClipReport.held` is the share of the groups whose threshold it determined.

    Attributes:
        reasons: the names of the reasons, at least two.

    >>> import dataclasses, numpy as np
    >>> @dataclasses.dataclass(frozen=True)
    ... class half(WithReasons):
    ...     needs = wants = frozenset()
    ...     remembers, watches_norm = False, True
    ...     reasons = "floor", "norm"
    ...     def init(self, xp, shape):
    ...         return Stateless()
    ...     def update_held(self, xp, state, seen):
    ...         threshold = xp.clip(0.5 * xp.asarray(seen.norm), 1.0, None)
    ...         return threshold, state, lambda: (threshold <= 1.0,)
    >>> import clipwise.torch, torch
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> report = clipwise.torch.clip_([weight], clipwise.clip_by_global_norm(half()))
    >>> {reason: float(share) for reason, share in report.held.items()}
    {'floor': 0.0, 'norm': 1.0}
    """

    reasons: ClassVar[tuple[str, ...]]

    def update_held(self, xp: Any, state: Any, seen: Observation) -> tuple[Array, Any, Conditions]:
        """Like ``update``, with a function as third value that tells which reason applies to each group.

        The function returns one boolean array for each reason but the last. The first that is true counts; if
        none is, the last reason applies. It is called when the report is read, so it should keep a reference
        to no more of the state than it needs.
        """
        raise NotImplementedError

    def update(self, xp: Any, state: Any, seen: Observation) -> tuple[Array, Any]:
        """The threshold of this step, broadcastable to ``seen.norm``, and the next state."""
        threshold, state, _ = self.update_held(xp, state, seen)
        return threshold, state

    @staticmethod
    def of(policy: Any) -> tuple[str, ...]:
        """The reasons of a policy; none of one with an ``update`` of its own, which may have others."""
        known = isinstance(policy, WithReasons) and type(policy).update is WithReasons.update
        return policy.reasons if known else ()


class Stateless(NamedTuple):
    """The state of a policy that keeps none."""


def usable(xp: Any, norm: Array) -> Array:
    """Which norms may enter a history: those that are finite and not 0.

    A norm of 0 means that no gradient arrived (a frozen tensor, an expert that was not selected). If such
    zeros counted, a low percentile would become 0, and the tensor could never move again. A subnormal float32
    is 0 as well: to XLA it is one in a logarithm, though not always in a comparison.
    """
    return xp.isfinite(norm) & (norm >= SMALLEST)
