"""The loss, where it can be seen: the tensor of one number whose backward pass ran."""

import functools
import threading
import weakref
from collections import deque
from typing import Any

import torch

LONGEST = 1000
"""Backward passes without a step of which the losses are kept."""


class Losses(threading.local):
    """The losses since the last step of an optimizer: several count as their mean.

    Each thread has its own: what trains in one is no loss of what trains in another.

    Attributes:
        passes: backward passes so far.
    """

    def __init__(self) -> None:
        self.passes = 0
        self._new: deque[Any] = deque(maxlen=LONGEST)
        self._mean: Any = None
        self._heard: set[int] = set()  # ids of the optimizers that were told the mean
        self._scaled: list[tuple[weakref.ref[Any], Any]] = []
        self._scale: Any = None

    def listen(self) -> None:
        """Wrap what every backward pass goes through, and what multiplies a loss by a scale before it."""
        torch.autograd.backward = self._telling(torch.autograd.backward)
        scaler: Any = torch.amp.GradScaler
        scaler.scale = self._noting(scaler.scale)

    def of(self, optimizer: Any) -> Any:
        """The loss of the step of an optimizer that is about to be made, None where there was none.

        Optimizers that step one after the other on the gradients of one backward pass share its loss.
        """
        new, heard = self._new, self._heard
        if new:
            self._mean = new[0] if len(new) == 1 else _mean(list(new))
            new.clear()
            heard.clear()
        if self._mean is None or id(optimizer) in heard:
            return None
        heard.add(id(optimizer))
        return self._mean

    def _telling(self, backward: Any) -> Any:
        @functools.wraps(backward)
        def telling(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            self.passes += 1  # before it: its own hooks may clip
            loss = self._loss(tensors)
            result = backward(tensors, *args, **kwargs)
            if loss is not None:
                self._new.append(loss)
            return result

        return telling

    def _loss(self, tensors: Any) -> Any:
        """The loss in what is given to a backward pass, as a value of its own; None where there is none."""
        try:
            if torch._C._current_graph_task_id() != -1:  # a part of another pass, as in checkpointing
                return None
            if not isinstance(tensors, torch.Tensor):
                if len(tensors) != 1:
                    return None
                tensors = tensors[0]
            if tensors.numel() != 1 or tensors.is_complex():
                return None
            for scaled, loss in self._scaled:
                if scaled() is tensors:
                    self._scaled.clear()
                    self._scale = None
                    return loss
            scale, self._scale = self._scale, None
            if self._scaled:
                self._scaled.clear()
            if scale is None and tensors.device.type == "cpu":
                return tensors.item()
            with torch.no_grad():
                loss = tensors.detach().reshape(())
                # Scaled, and then divided by the number of micro-batches, say.
                return _value(loss if scale is None else loss.double() / scale.to(loss.device).double())
        except Exception:  # a tensor of a kind of its own: no loss is seen, and the pass is as ever
            return None

    def _noting(self, scale: Any) -> Any:
        @functools.wraps(scale)
        def noting(scaler: Any, outputs: Any) -> Any:
            result = scale(scaler, outputs)
            if isinstance(result, torch.Tensor) and result is not outputs and result.numel() == 1:
                with torch.no_grad():
                    self._scaled.append((weakref.ref(result), _value(outputs.detach().reshape(()))))
                del self._scaled[:-8]
                self._scale = getattr(scaler, "_scale", None)
            return result

        return noting


def _value(loss: Any) -> Any:
    """A number that stays what it is, whatever is done to the tensor; on a device nothing waits."""
    return float(loss) if loss.device.type == "cpu" else loss.clone()


def _mean(losses: list[Any]) -> Any:
    tensors = [loss for loss in losses if isinstance(loss, torch.Tensor)]
    if not tensors:
        return sum(losses) / len(losses)
    device = tensors[0].device
    with torch.no_grad():
        return torch.stack([torch.as_tensor(x, device=device, dtype=torch.float32) for x in losses]).mean()
