"""What every trainer's callback shares: its arguments, checked at once, and questions to a clipper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

from torch import nn
from torch.optim import Optimizer

from clipwise import extras
from clipwise.clip import AnyClip, remembering
from clipwise.config.arguments import as_clip, as_update_clip, as_weight_clip
from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError
from clipwise.functional.arguments import NonFinite, as_nonfinite
from clipwise.torch.attach import AttachedClipper, attach
from clipwise.wording import join

ClipLike: TypeAlias = AnyClip | str | Mapping[str, Any]


@dataclass(frozen=True)
class Order:
    """What is to be done to one optimizer, understood before there is one.

    Attributes:
        clip: of the gradients, None to leave them alone.
        weights: clip of the weights after each step, None to leave them alone.
        updates: clip of what each step did, None to leave it as it is.
        nonfinite, direction: as for `clipwise.torch.attach`.
    """

    clip: AnyClip | None
    weights: AnyClip | None
    updates: AnyClip | None
    nonfinite: NonFinite
    direction: bool

    def attach(self, optimizer: Optimizer, model: nn.Module) -> AttachedClipper:
        """Begin with an optimizer whose parameters the model names."""
        return attach(
            optimizer,
            self.clip,
            model=model,
            nonfinite=self.nonfinite,
            weights=self.weights,
            updates=self.updates,
            direction=self.direction,
        )

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to be done."""
        return self.clip is None and self.weights is None and self.updates is None

    @property
    def remembers(self) -> bool:
        """Whether a threshold depends on the steps before, so that a resumed run needs its state."""
        return any(remembering(clip) is not None for clip in (self.clip, self.weights, self.updates))

    def __str__(self) -> str:
        return "no clip" if self.clip is None else spelled(self.clip)


def orders(
    clip: ClipLike | Sequence[ClipLike | None] | None,
    weights: ClipLike | Sequence[ClipLike | None] | None,
    updates: ClipLike | Sequence[ClipLike | None] | None,
    nonfinite: NonFinite,
    direction: bool,
) -> list[Order]:
    """One order for all optimizers, or one for each where any is a list.

    Raises:
        ArgumentError: nothing is to be done, lists differ in length, or a clip is none.
    """
    nonfinite = as_nonfinite(nonfinite)
    given: dict[str, Any] = {"clips": clip, "clips of weights": weights, "clips of updates": updates}
    lengths = {f"{len(each)} {name}": len(each) for name, each in given.items() if is_listed(each)}
    if len({*lengths.values()}) > 1:
        raise ArgumentError(f"{join(list(lengths))} are listed: list as many of each")
    count = next(iter(lengths.values()), 1)
    each_of = [list(each) if is_listed(each) else [each] * count for each in given.values()]
    made = [
        Order(
            None if c is None else as_clip(c),
            None if w is None else as_weight_clip(w),
            None if u is None else as_update_clip(u),
            nonfinite,
            direction,
        )
        for c, w, u in zip(*each_of, strict=True)
    ]
    if all(one.is_idle for one in made):
        raise ArgumentError(
            "expected a clip such as clipwise.clip_by_global_norm(1.0), or weights= or updates=, got None"
        )
    return made


def is_listed(clip: Any) -> bool:
    """Whether this is a list of clips, one for each optimizer."""
    return isinstance(clip, Sequence) and not isinstance(clip, str)


def follows_loss(clipper: AttachedClipper) -> bool:
    """Whether one of its thresholds uses the loss, which must then be observed."""
    return "loss" in clipper._sees


def say_if_unseen(clipper: AttachedClipper) -> None:
    """Warn, once, if the weights move and it sees no gradient."""
    clipper._unseen.say()


def load(name: str, extra: str) -> ModuleType:
    """A trainer's package; where it is not installed, the error says how to install it."""
    return extras.load(name, purpose=f"clipwise.integrations.{extra}", extra=extra)
