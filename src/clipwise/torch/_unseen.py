"""A warning where a clip saw no gradient though the weights moved, past its optimizer."""

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor

from clipwise.stack import warn

_WATCHED = 4


class Unseen:
    """Remembers a few small weights, to tell later whether they moved.

    Args:
        parameters: of the optimizers.
        what: the clip and the optimizers, in words.
    """

    def __init__(self, parameters: Iterable[Tensor], what: str) -> None:
        some = [p for p in parameters if p.requires_grad and p.numel() and not p.is_meta]
        some = sorted(some, key=Tensor.numel)[:_WATCHED]
        self._before = [(weakref.ref(p), p.detach().clone()) for p in some]
        self._what = what

    def end(self) -> None:
        """It saw one."""
        self._before = []

    def say(self) -> None:
        """Warn, once, if the weights moved."""
        there = [(p, old) for reference, old in self._before if (p := reference()) is not None]
        if any(p.device == old.device and not torch.equal(p.detach(), old) for p, old in there):
            self.end()
            warn(
                f"{self._what} saw no gradient, and yet the weights moved: nothing is clipped. They are"
                " updated without a step of this optimizer, or their gradients are removed before it",
                past=("torch",),
            )
