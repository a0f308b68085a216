"""The ways to the clipped sums of a batch, and which of them a model can take."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from clipwise.errors import ArgumentError, ClipwiseError
from clipwise.functional.examples.options import one_of
from clipwise.stack import warn
from clipwise.torch.per_example.batch import Batch, LossFunction
from clipwise.torch.per_example.check import Alone, alone, differs, evaluated
from clipwise.torch.per_example.explicit import (
    Coefficients,
    Examples,
    Sums,
    looped,
    norms_of,
    sums_of,
    vmapped,
)
from clipwise.torch.per_example.ghost import NotFollowed, ghost
from clipwise.torch.per_example.verified import NotSeen, Verified

__all__ = ["Route", "Routes"]

Route: TypeAlias = Literal["auto", "ghost", "explicit"]

_WANTED: dict[Route, tuple[str, ...]] = {
    "auto": ("ghost", "explicit", "loop"),
    "ghost": ("ghost",),
    "explicit": ("explicit", "loop"),
}
_WORDS = {"ghost": "the ghost route", "explicit": "torch.func", "loop": "a loop over single examples"}


class Routes:
    """Computes clipped sums of batches by the first route that agrees with the gradients of single examples.

    Args:
        model: the model.
        route: the requested route.
        micro_batch: number of examples at a time, for the explicit route.
        orders: orders of the requested norms.

    Attributes:
        taken: the route in use; None before the first batch.

    Raises:
        ArgumentError: the route is unknown, or it does not support these norms or micro-batches.
    """

    def __init__(
        self, model: nn.Module, route: Route, micro_batch: int | None, orders: Sequence[float]
    ) -> None:
        one_of("route", route, Route)
        if micro_batch is not None and route == "ghost":
            raise ArgumentError('micro_batch is for route="explicit"; the ghost route does not use it')
        self._wanted = _WANTED[route]
        if tuple(orders) != (2.0,):
            if route == "ghost":
                raise ArgumentError(
                    'the ghost route computes 2-norms and "rms" only, and this clip needs another norm: use'
                    ' route="explicit"'
                )
            self._wanted = _WANTED["explicit"]
        self.model, self.micro_batch, self.orders = model, micro_batch, tuple(orders)
        self.taken: str | None = None
        self._said: set[str] = set()
        self.forget()

    def forget(self) -> None:
        """Choose the route again, because the parameters have changed."""
        self._checked = False
        self._left = self._wanted
        self._verified = Verified()

    def sums(
        self,
        parameters: dict[str, Tensor],
        loss_fn: LossFunction,
        batch: Batch,
        coefficients: Coefficients | None,
        scale: Tensor | None,
        *,
        drops: bool,
    ) -> Sums:
        """The clipped sums of a batch; the arguments are those of `ghost`.

        Raises:
            ArgumentError: the losses are not one for each example alone, or no route is possible.
        """
        if not self._checked:
            self._choose(parameters, loss_fn, batch)
        given = (self.model, parameters, loss_fn)
        watched = partial(
            ghost, *given, batch, coefficients, scale, self._verified, drops=drops, tell=self._say
        )
        if self.taken == "ghost":
            try:
                try:
                    return watched()
                except NotSeen:  # by the two that were checked: two of this batch may show it
                    self._choose(parameters, loss_fn, batch)
                    if self.taken == "ghost":
                        return watched()
            except NotFollowed as error:  # what dropout does to a weight, say, is seen in training only
                if "explicit" not in self._left:
                    raise ArgumentError(str(error)) from error
                self._left = self._left[1:]
                self._choose(parameters, loss_fn, batch, str(error))

        def summed(each: Callable[..., Examples]) -> Sums:
            return sums_of(
                partial(each, *given, scale=scale),
                list(parameters.values()),
                batch,
                self.micro_batch,
                self.orders,
                coefficients,
                scale,
                drops=drops,
            )

        if self.taken == "explicit":
            try:
                return summed(vmapped)
            except (ClipwiseError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # statistics that a layer keeps in training, say
                found = summed(looped)
                self.taken, self._left = "loop", ("loop",)
                self._tell(_unsupported("explicit", error))
                return found
        return summed(looped)

    def _choose(
        self, parameters: dict[str, Tensor], loss_fn: LossFunction, batch: Batch, *reasons: str
    ) -> None:
        """Take the first route that finds the gradients of two examples as they are alone.

        Args:
            reasons: why routes before those that are left cannot be taken.
        """
        told = alone(self.model, parameters, loss_fn, batch)
        for route in self._left:
            reason = None if route == "loop" else self._fails(route, parameters, loss_fn, batch, told)
            if reason is None:
                self.taken = route
                break
            if self._wanted == ("ghost",):
                raise ArgumentError(f'route="ghost" is not possible: {reason}')
            reasons = (*reasons, reason)
        # One example cannot depend on others, and what is not finite is like nothing.
        self._checked = batch.size > 1 and (told is None or told.finite)
        self._tell(*reasons)

    def _fails(
        self,
        route: str,
        parameters: dict[str, Tensor],
        loss_fn: LossFunction,
        batch: Batch,
        told: Alone | None,
    ) -> str | None:
        """Why a route cannot be taken; None: it can."""
        some = batch.examples(slice(0, 2)) if told is None else told.batch
        names, device = list(parameters), next(iter(parameters.values())).device
        try:
            with evaluated(self.model, device):
                if route == "ghost":
                    self._verified.learning = True
                    found = ghost(self.model, parameters, loss_fn, some, None, None, self._verified)
                    norms = found.norms[2.0]
                else:
                    gradients, _ = vmapped(self.model, parameters, loss_fn, some, None)
                    norms = norms_of(gradients, some.size, 2.0, device)
        except NotFollowed as error:
            return str(error)
        except Exception as error:  # the loop computed them, so this is for want of the route
            return _unsupported(route, error)
        finally:
            self._verified.learning = False
        place = None if told is None else differs(norms, told)
        if place is None:
            return None
        return f"{_WORDS[route]} gives other gradients of {names[place]!r} than each example alone"

    def _tell(self, *reasons: str) -> None:
        """Say why the route in use is not the first."""
        for reason in reasons:
            self._say(f"{reason}; the gradients are computed by {_WORDS[str(self.taken)]} instead")

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warn(f"per_example: {what}")


def _unsupported(route: str, error: Exception) -> str:
    first = str(error).partition("\n")[0]
    return f"{_WORDS[route]} does not support this model ({type(error).__name__}: {first})"
