"""The examples of one call: inputs and targets, sliced along axis 0."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from clipwise.errors import ArgumentError

__all__ = ["Batch", "LossFunction", "check_losses"]

LossFunction = Callable[..., Tensor]


class Batch:
    """Inputs of a model and targets of a loss, every tensor with the examples along axis 0.

    Args:
        inputs: a tensor, a tuple of positional arguments of the model, or a mapping of keyword arguments.
            Tensors without an axis, and values that are not tensors, are shared by all examples.
        targets: second argument of the loss; None if it takes only the outputs.

    Attributes:
        size: number of examples.
        tensors: the tensors with examples.

    Raises:
        ArgumentError: no tensor has examples, or two differ in the number of examples.
    """

    def __init__(self, inputs: Any, targets: Any) -> None:
        if isinstance(inputs, Mapping):
            inputs = dict(inputs)  # also of a mapping that is not known as a tree
        leaves, self._tree = pytree.tree_flatten((inputs, targets))
        # No gradient flows into them, whether they ask for one or not.
        leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._leaves: list[Any] = leaves
        self._places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim]
        self.tensors: list[Tensor] = [leaves[i] for i in self._places]
        if not self.tensors:
            raise ArgumentError(
                f"inputs must hold a tensor with the examples along axis 0, got {type(inputs).__name__}"
            )
        self.size = len(self.tensors[0])
        other = next((t for t in self.tensors if len(t) != self.size), None)
        if other is not None:
            raise ArgumentError(
                "inputs and targets must have the same number of examples along axis 0: one tensor has"
                f" the shape {tuple(self.tensors[0].shape)}, another {tuple(other.shape)}"
            )

    def examples(self, places: Tensor | slice) -> "Batch":
        """Some of the examples."""
        return self.of([tensor[places] for tensor in self.tensors])

    def of(self, tensors: list[Tensor]) -> "Batch":
        """The same with other tensors in the place of those with examples."""
        batch = Batch.__new__(Batch)
        batch._leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            batch._leaves[place] = tensor
        batch._tree, batch._places = self._tree, self._places
        batch.tensors, batch.size = list(tensors), len(tensors[0])
        return batch

    def losses(self, model: Callable[..., Any], loss_fn: LossFunction) -> Tensor:
        """What the loss gives for these examples, not checked."""
        inputs, targets = pytree.tree_unflatten(self._leaves, self._tree)
        outputs = called(model, inputs)
        found: Tensor = loss_fn(outputs) if targets is None else loss_fn(outputs, targets)
        return found


def called(model: Callable[..., Any], inputs: Any) -> Any:
    """The outputs of a model."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def check_losses(losses: Any, size: int) -> None:
    """Raise ArgumentError unless there is one loss for each example."""
    if not isinstance(losses, Tensor):
        raise ArgumentError(f"loss_fn must return a tensor of losses, got {type(losses).__name__}")
    if not losses.is_floating_point():
        raise ArgumentError(f"loss_fn must return floating-point losses, got {losses.dtype}")
    if losses.shape == (size,):
        return
    wanted = f"one loss per example, of shape ({size},)"
    if losses.ndim == 0 or losses.shape == (1,):
        raise ArgumentError(
            f"loss_fn must return {wanted}, got one for all, of shape {tuple(losses.shape)}: use"
            ' reduction="none", as in torch.nn.CrossEntropyLoss(reduction="none"), and no mean over the batch'
        )
    if losses.shape[0] == size:
        raise ArgumentError(
            f"loss_fn must return {wanted}, got the shape {tuple(losses.shape)}: reduce the other axes, as in"
            " losses.flatten(1).mean(1)"
        )
    raise ArgumentError(
        f"loss_fn must return {wanted}, got the shape {tuple(losses.shape)}: the model's output, or the loss,"
        " does not have the examples of the inputs along axis 0"
    )
