"""Replaces torch's clipping functions by clipwise's, for programs that cannot be changed."""

from types import TracebackType
from typing import Any

import torch.nn.utils
from torch.nn.utils import clip_grad

from clipwise.torch import _foreign_clipping, dropins

__all__ = ["Patch", "patch"]


def patch() -> "Patch":
    """Replace torch's four clipping functions by those of clipwise, from now on.

    Code that calls ``torch.nn.utils.clip_grad_norm_``, trainers included, then runs clipwise's. So does code
    that imported `clip_grad_norm_` by name before, since torch's function looks up its parts when called
    (torch 2.6 or newer). Code that imported `clip_grad_value_` by name before keeps torch's function.

    Returns:
        A `Patch`. Its ``undo()``, or the end of its ``with`` block, restores torch's functions.

    >>> import torch, clipwise
    >>> with clipwise.torch.patch():
    ...     torch.nn.utils.clip_grad_norm_ is clipwise.torch.clip_grad_norm_
    True
    >>> torch.nn.utils.clip_grad_norm_ is clipwise.torch.clip_grad_norm_
    False
    """
    return Patch()


class Patch:
    """Functions that have been replaced, until `undo`. Created by `patch`."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any, Any]] = []
        ours = {name: getattr(dropins, name) for name in dropins.__all__}
        parts = {f"_{name}": function for name, function in ours.items()}
        for module in (torch.nn.utils, clip_grad):
            for name, function in (ours | parts).items():
                if (
                    hasattr(module, name)
                    and (before := _foreign_clipping.behind(module, name)) is not function
                ):
                    self._before.append((module, name, before, function))
                    _foreign_clipping.put(module, name, function)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Patch belongs to one process and cannot be copied or pickled:"
            " call clipwise.torch.patch() where it is needed"
        )

    def undo(self) -> None:
        """Restore the original functions, except where other code has replaced ours since."""
        for module, name, before, ours in self._before:
            if _foreign_clipping.behind(module, name) is ours:
                _foreign_clipping.put(module, name, before)
        self._before = []

    def __enter__(self) -> "Patch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()
