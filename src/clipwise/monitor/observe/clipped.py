"""A clip attached from outside; an error of it ends the clipping, not the training."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from clipwise.clip import AnyClip
from clipwise.config.spelling import spelled
from clipwise.errors import TrainingStopped
from clipwise.torch.attach import AttachedClipper, attach


class GuardedClipper(AttachedClipper):
    """A clipper of `clipwise.torch.attach` whose errors are reported and end the clipping only.

    Args:
        optimizer: the optimizer to clip.
        clip: the clip.
        model: the module that owns the parameters, None if there is none.
        losses: returns the loss of an optimizer's step, or None.
        say: called with a sentence if something goes wrong.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clip: AnyClip,
        *,
        model: nn.Module | None,
        losses: Callable[[Optimizer], Any],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(optimizer, clip, model=model, **_DEFAULTS)
        self._losses_of, self._say = losses, say
        self.loss: Any = None

    def _begin(self, optimizer: Optimizer) -> None:
        try:
            super()._begin(optimizer)
        except Exception as error:
            self._end_here(error)

    def _ready(self, optimizer: Optimizer, loss: Any) -> bool:
        if not self._handles:  # it has ended
            return False
        try:
            seen = self._losses_of(optimizer)
            self.loss = loss if seen is None else seen
            if self.loss is not None and (not isinstance(self.loss, Tensor) or self.loss.numel() == 1):
                self.observe(self.loss)
            return super()._ready(optimizer, None)
        except TrainingStopped:  # a rule of the user's
            raise
        except Exception as error:
            self._end_here(error)
            return False

    def hear(self, function: str, threshold: float) -> None:
        self._say(
            f"the script clips too: {function} to {threshold:g}, and --clip {spelled(self.clip)} after it;"
            " the norms are those after the script's"
        )

    def _end_here(self, error: Exception) -> None:
        self.detach()
        self._say(f"nothing is clipped any more: {type(error).__name__}: {error}")


_DEFAULTS: dict[str, Any] = {
    name: one.default
    for name, one in inspect.signature(attach).parameters.items()
    if one.kind is one.KEYWORD_ONLY and name != "model"
}
"""What `attach` takes besides, as where it is not given."""
