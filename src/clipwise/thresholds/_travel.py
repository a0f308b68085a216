"""How far the weights have come, beside the steps that they took: may steps be longer, or too long already?

The distance is read off the weights' norm. In many dimensions a way from random weights is nearly at a right
angle to them, so ``||w_t||^2 - ||w_0||^2`` is about its squared length; ``||w_t|| - ||w_0||`` is never more
than its length. Steps of random directions cover, squared, the sum of their squares; steps that agree cover
more, steps to and fro less. That a step should be about the distance over the root of the number of steps is
the rule of DoG: Ivgi, Hinder and Carmon 2023, arXiv:2302.12022.

The angle between a way in random direction and N weights has a cosine of about ``1 / sqrt(N)``: a way that
is short beside ``||w_0|| / sqrt(N)`` cannot be told from its component along them.
"""

from typing import Any, NamedTuple

from clipwise.namespace import Array

_SMALLEST_WEIGHT = 0.03  # root mean square that weights are taken to have at least
_MOST_AT_ONCE = 3.0  # times what may be added in every step under momentum
_VISIBLE = 4.0  # ||w_0|| / sqrt(N): from here on the square of a way exceeds twice the deviation of its error


class Travel(NamedTuple):
    """All of the groups' shape.

    Attributes:
        origin: the norm of the weights that the distance is measured from.
        size: the number of weights; of others, a new way begins. 0 where their norm was not finite.
        squared: the square of the largest distance so far.
        path: the sum of the squared steps.
        longest: the longest step, 0 before the first.
        speed: how long the last step was at most, with what momentum carried on.
        length: the sum of the steps; the distance is not larger.
    """

    origin: Array
    size: Array
    squared: Array
    path: Array
    longest: Array
    speed: Array
    length: Array


def start(xp: Any, shape: tuple[int, ...]) -> Travel:
    """Before the first step."""
    return Travel(*(xp.zeros(shape) for _ in Travel._fields))


def look(
    xp: Any, travel: Travel, weights: Array, size: Array, first: float, stretch: float
) -> tuple[Array, Array, Travel]:
    """How well steps agree: by what the next may be longer than the longest before; whether that is hidden.

    It is hidden while the way is too short to be measured, and where weights are smaller than at the start:
    then nothing says that steps are too long. Third is the travel so far.

    Args:
        travel: as it was.
        weights: the norm of the weights.
        size: their number.
        first: the longest first step, relative to the weights.
        stretch: the largest ratio of a step to the longest before, and of that to a step.
    """
    nought = xp.zeros_like(travel.origin)
    weights = nought + weights
    known = xp.isfinite(weights * weights)  # of others nothing is kept: the next weights begin a new way
    weights = xp.where(known, weights, travel.origin)
    size = nought + size
    fresh = (travel.longest == 0) | (travel.size != size)
    least = first * xp.maximum(weights, _SMALLEST_WEIGHT * xp.sqrt(size))

    travel = Travel(*(xp.where(fresh, nought, value) for value in travel))
    origin = xp.where(fresh, weights, travel.origin)
    longest = xp.where(fresh, least, travel.longest)
    gain = weights - origin
    squared = xp.maximum(travel.squared, xp.maximum(gain * gain, gain * (weights + origin)))

    way = xp.minimum(squared, travel.length * travel.length)
    agreement = xp.sqrt(way / (travel.path + longest * longest))
    hidden = (travel.length < _VISIBLE * origin / xp.sqrt(size)) | (gain < 0)
    least = xp.where(hidden, nought + 1.0, 1.0 / stretch)
    agreement = xp.where(travel.path > 0, xp.clip(xp.maximum(agreement, least), None, stretch), 1.0)
    size = xp.where(known, size, nought)
    return agreement, hidden, travel._replace(origin=origin, size=size, squared=squared, longest=longest)


def room(xp: Any, travel: Travel, length: Array, momentum: Array | float) -> Array:
    """What rate times norm may be for the next step to be no longer than this, within the limits of momentum.

    ``1 - momentum`` of the length may be added in every step; three times as much at most, since momentum
    carries on what is added.
    """
    always = (1.0 - momentum) * length
    return xp.minimum(xp.maximum(always, length - momentum * travel.speed), _MOST_AT_ONCE * always)


def gone(xp: Any, travel: Travel, push: Array, momentum: Array | float) -> Travel:
    """After a step to which the gradient added this length, and momentum its share of the step before."""
    step = momentum * travel.speed + push
    return travel._replace(
        path=travel.path + step * step,
        longest=xp.maximum(travel.longest, step),
        speed=step,
        length=travel.length + step,
    )
