"""How far the weights have come, beside the steps that they took: may steps be longer, or too long already?

The distance is read off the weights' norm. In many dimensions a way from random weights is nearly at a right
angle to them, so ``||w_t||^2 - ||w_0||^2`` is about its squared length; ``||w_t|| - ||w_0||`` is never more
than its length. Steps of random directions cover, squared, the sum of their squares; steps that agree cover
more, steps to and fro less. That a step should be about the distance over the root of the number of steps is
the rule of DoG: Ivgi, Hinder and Carmon 2023, arXiv:2302.12022.
"""

from typing import Any, NamedTuple

from clipwise.namespace import Array

_SMALLEST_WEIGHT = 0.03  # root mean square that weights are taken to have at least


class Travel(NamedTuple):
    """All of the groups' shape.

    Attributes:
        origin: the norm of the weights that the distance is measured from.
        size: the number of weights; of others, a new way begins.
        squared: the square of the largest distance so far.
        path: the sum of the squared steps.
        longest: the longest step, 0 before the first.
    """

    origin: Array
    size: Array
    squared: Array
    path: Array
    longest: Array


def start(xp: Any, shape: tuple[int, ...]) -> Travel:
    """Before the first step."""
    return Travel(*(xp.zeros(shape) for _ in Travel._fields))


def look(
    xp: Any, travel: Travel, weights: Array, size: Array, first: float, stretch: float
) -> tuple[Array, Travel]:
    """How well steps agree: by what the next may be longer than the longest before; and the travel so far.

    Args:
        travel: as it was.
        weights: the norm of the weights.
        size: their number.
        first: the longest first step, relative to the weights.
        stretch: the largest ratio of a step to the longest before, and of that to a step.
    """
    nought = xp.zeros_like(travel.origin)
    weights = nought + weights
    size = nought + size
    fresh = (travel.longest == 0) | (travel.size != size)
    least = first * xp.maximum(weights, _SMALLEST_WEIGHT * xp.sqrt(size))

    origin = xp.where(fresh, weights, travel.origin)
    gain = weights - origin
    squared = xp.maximum(gain * gain, gain * (weights + origin))
    squared = xp.maximum(xp.where(fresh, nought, travel.squared), squared)
    path = xp.where(fresh, nought, travel.path)
    longest = xp.where(fresh, least, travel.longest)

    some = path > 0
    agreement = xp.sqrt(squared / (path + longest * longest))
    agreement = xp.where(some, xp.clip(agreement, 1.0 / stretch, stretch), 1.0)
    return agreement, Travel(origin, size, squared, path, longest)


def gone(xp: Any, travel: Travel, step: Array) -> Travel:
    """After a step of this length."""
    return travel._replace(path=travel.path + step * step, longest=xp.maximum(travel.longest, step))
