"""What is known of the tensors of a forward pass: which are weights, which follow from the examples."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from clipwise.torch.per_example.uses import Weight
from clipwise.torch.per_example.verified import Verified

__all__ = ["Seen"]

_MARK = "_clipwise_recording"
"""An attribute of each tensor that follows from the examples: the number of the recording, negative where it
also follows from a use that the backward pass comes to."""

_recordings = 0


class Seen:
    """The tensors of one forward pass.

    Args:
        weights: that are tracked.
        tensors: the examples.
        size: how many.
        verified: what two examples showed.

    Attributes:
        by_id: the weights, and what was made of them alone, by the id of their tensor.
        time_first: whether examples lie along axis 1 at this moment, as in torch's own attention.
    """

    def __init__(
        self, weights: Sequence[Weight], tensors: Sequence[Tensor], size: int, verified: Verified
    ) -> None:
        global _recordings
        _recordings += 1
        self._number = _recordings
        self.size, self.verified = size, verified
        self.by_id = {id(weight.tensor): weight for weight in weights}
        self.time_first = False
        self._inputs = {id(tensor) for tensor in tensors}

    def look(self, values: Sequence[Any]) -> tuple[bool, bool, bool]:
        """Whether there is a weight among them, what follows from the examples, what from a use."""
        weighed = follows = below = False
        for one in values:
            if isinstance(one, Tensor):
                if id(one) in self.by_id:
                    weighed = True
                elif self.follows(one):
                    follows = True
                    below = below or (one.requires_grad and getattr(one, _MARK, 0) == -self._number)
            elif isinstance(one, list | tuple) and one and not isinstance(one[0], int):
                inner = self.look(one)
                weighed, follows, below = weighed or inner[0], follows or inner[1], below or inner[2]
        return weighed, follows, below

    def follows(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the examples, perhaps through a function that no mode sees."""
        if abs(getattr(tensor, _MARK, 0)) == self._number or id(tensor) in self._inputs:
            return True
        return tensor.requires_grad and not tensor.is_leaf and id(tensor) not in self.by_id

    def mark(self, found: Any, below: bool) -> None:
        if isinstance(found, Tensor):
            if id(found) not in self.by_id:
                setattr(found, _MARK, -self._number if below else self._number)
        elif isinstance(found, list | tuple):
            for one in found:
                self.mark(one, below)

    def roles(self, weight: Tensor | None, bias: Tensor | None) -> tuple[list[Weight], list[str]]:
        pairs = [(weight, "weight"), (bias, "bias")]
        there = [(self.by_id[id(one)], role) for one, role in pairs if id(one) in self.by_id]
        return [weight for weight, _ in there], [role for _, role in there]

    def name_of(self, *tensors: Tensor | None) -> str:
        return next(self.by_id[id(one)].name for one in tensors if id(one) in self.by_id)
