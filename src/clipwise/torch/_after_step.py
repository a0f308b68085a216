"""A clipper that acts after the steps of an optimizer, or of several in turn."""

from collections.abc import Container
from typing import Any

from torch import Tensor

from clipwise.torch._one_step import Outcome
from clipwise.torch.clipper import Clipper

__all__ = ["AfterStep"]


class AfterStep(Clipper):
    """A `Clipper` of what a step leaves behind: the weights, or the difference that it made to them."""

    def _look_at_first_calls(self) -> None:
        """It acts after steps by design."""

    def after(
        self,
        ids: Container[int] | None = None,
        *,
        again: bool = False,
        leave: Tensor | None = None,
        defers: bool = False,
    ) -> Outcome:
        """`clip_` after the step of an optimizer.

        Args:
            ids: of the parameters that it moved; None: all.
            again: the step is the same as at the last call, of another optimizer; it counts once.
            defers: what is to be multiplied by one coefficient, or left out on a device, may be left to the
                caller; see `Outcome`.
            leave: above 0 if the step did not happen, where only the device knows (0-d).
        """
        if not again:
            self._before = self.steps, self._clipped_steps, self._skipped_steps
        clipped, skipped = self._clipped_steps, self._skipped_steps
        self.steps, self._clipped_steps, self._skipped_steps = self._before
        outcome = self._step(None, fused=defers, leave=leave, only=ids)
        if again:
            self._clipped_steps = _larger(clipped, self._clipped_steps)
            self._skipped_steps = _larger(skipped, self._skipped_steps)
        return outcome


def _larger(one: Any, other: Any) -> Any:
    """Of two counts, each a number or on a device."""
    return other + (one - other) * (one > other)
