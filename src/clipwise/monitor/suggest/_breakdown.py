"""Where a run broke down: from there on its norms say nothing of what a threshold should be."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipwise.monitor.robust import SIGMA_PER_MAD
from clipwise.monitor.store import Floats
from clipwise.monitor.suggest._given import Given
from clipwise.monitor.suggest._typical import LOSS_IS_NO_LEVEL
from clipwise.monitor.suggest.divergence import diverged

FOLD = 10.0
"""Norms beyond so many medians have exploded."""

MOST = 2048  # medians of so many pieces stand for a longer run
LASTING = 5  # norms that make an end and no spike; where the last are NaN or Inf, fewer do
ENDING = 3  # norms that are NaN or Inf and make an end, where no loss says so: a step may be left out
BEFORE = 3  # norms that say what was usual before
PIECES = 16
FEWEST = 8  # losses that show a level
WORSE = 0.2  # by which share a loss above the first one is worse
NOISE = 3.5  # deviations that chance does not bring about
LOWEST = 1.2816  # deviations between the median and the lowest tenth of normal values


@dataclass(frozen=True)
class Breakdown:
    """Where, and by what it shows.

    Attributes:
        at: place of the first norm that does not count.
        sign: ``"nonfinite"``, NaN or Inf to the end; ``"loss"``, which got worse for good; or ``"norm"``, ten
            times what was usual, for good.
    """

    at: int
    sign: Literal["nonfinite", "loss", "norm"]


def breakdown(given: Given) -> Breakdown | None:
    """The first place from which the run did not recover; None if there is none.

    Norms that rise and stay high are an explosion where the loss says so too, or nothing is known of it:
    while it falls, they are a training that gets under way.
    """
    levelled = given.kind not in LOSS_IS_NO_LEVEL
    told = levelled and len(given.losses) >= 2 * PIECES
    norm = _of_norms(given.norms)
    loss = _of_losses(given.losses, levelled)
    ends = norm is not None and _mostly(~np.isfinite(given.norms[norm:]))
    places = []
    if loss is not None:
        places.append(int(given.loss_at[loss]))
    if norm is not None and (ends or loss is not None or not told):
        places.append(norm)
    if not places:
        return None
    sign: Literal["nonfinite", "loss", "norm"] = "norm"
    if ends or (loss is not None and _mostly(~np.isfinite(given.losses[loss:]))):
        sign = "nonfinite"
    elif loss is not None:
        sign = "loss"
    return Breakdown(min(places), sign)


def _mostly(which: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> bool:
    return bool(np.mean(which) > 0.5)


def _of_norms(norms: Floats) -> int | None:
    """The first place from which three quarters of the norms lie ten times above the median before it."""
    wide = np.where(np.isfinite(norms), norms, np.inf)
    places = np.flatnonzero(wide > 0)
    values = wide[places]
    size = -(-len(values) // MOST) if len(values) else 1
    pieces = np.asarray([np.median(values[i : i + size]) for i in range(0, len(values), size)])
    for piece in range(1, len(pieces)):
        usual = np.median(pieces[:piece])
        first = piece * size
        if np.isfinite(usual):
            if first < BEFORE or not pieces[piece] > FOLD * usual:
                continue
            if not np.quantile(pieces[piece:], 0.25, method="lower") > FOLD * usual:
                continue
            if len(values) - first < LASTING and not np.isinf(values[-ENDING:]).all():
                continue
        elif np.isfinite(np.quantile(pieces[piece:], 0.25, method="lower")):
            continue
        # It may have begun within the piece before.
        limit = FOLD * usual if np.isfinite(usual) else 0.0
        for place in range(first - size + 1, first + size):
            if values[place] > limit and np.median(values[place : place + size]) > limit:
                return int(places[place])
        return int(places[first])
    return None


def _of_losses(losses: Floats, levelled: bool) -> int | None:
    """The first loss from which it is not finite, above the beginning, half unlearnt, or has diverged."""
    if not len(losses):
        return None
    wide = np.where(np.isfinite(losses), losses, np.inf)
    bad = np.isinf(wide)
    for_good = bad & (np.cumsum(bad[::-1])[::-1] > 0.5 * np.arange(len(bad), 0, -1))
    if for_good.any():
        return int(np.argmax(for_good))
    if not levelled or np.isinf(wide[0]):
        return None
    return _above_the_beginning(wide) or _unlearnt(wide) or _blown_up(wide)


def _above_the_beginning(losses: Floats) -> int | None:
    """From the first loss on that is above the first of all by a fifth, if nine tenths of the later half are.

    A noisy loss may begin low by chance: the level of what came before must lie below what the noise of the
    later half, as far as it goes down, explains.
    """
    if len(losses) < FEWEST:
        return None
    first, later = losses[0], losses[len(losses) // 2 :]
    level, low = np.median(later), np.quantile(later, 0.1, method="lower")
    limit = first + WORSE * abs(first)
    if level <= limit or low <= first:
        return None
    at = 1 + int(np.argmax(losses[1:] > limit))
    error = (level - low) / LOWEST / np.sqrt(at)
    return at if level - np.mean(losses[:at]) > NOISE * error else None


def _unlearnt(losses: Floats) -> int | None:
    """From the piece on from which all medians are above the middle between the first loss and the best."""
    if len(losses) < 2 * PIECES:
        return None
    pieces = np.array_split(losses, PIECES)
    levels = np.asarray([np.median(piece) for piece in pieces])
    best = int(np.argmin(levels[:-1]))
    learnt = losses[0] - levels[best]
    # That between neighbours too: noise may last for several losses, and a short piece hides its own.
    error = max(_error(pieces[best]), _error(pieces[-1]), _deviation(np.diff(levels), 0.0) / np.sqrt(2.0))
    limit = levels[best] + 0.5 * learnt
    if learnt <= 4 * error or levels[-1] - levels[best] <= 4 * error or levels[-1] <= limit:
        return None
    piece = int(np.flatnonzero(levels <= limit)[-1])  # it may begin within the last one that was good
    begin, size = sum(len(each) for each in pieces[:piece]), len(pieces[piece])
    above = losses[begin : begin + size] > limit
    share = np.cumsum(above[::-1])[::-1] / np.arange(size, 0, -1)
    late = np.flatnonzero(above & (share > 0.9))
    return begin + (int(late[0]) if len(late) else size)


def _blown_up(losses: Floats) -> int | None:
    """From where on it has diverged, if that lasts, and is far above what came before too."""
    at = diverged(losses)
    if at is None or len(losses) - at < LASTING:
        return None
    usual = abs(float(np.median(losses[:at])))
    return at if np.quantile(losses[at:], 0.25, method="lower") > FOLD * usual else None


def _error(values: Floats) -> float:
    """Of a median: 1.25 standard deviations over the root of n."""
    return 1.25 * _deviation(values, np.median(values)) / float(np.sqrt(len(values)))


def _deviation(values: Floats, middle: float) -> float:
    """The standard deviation around a middle, from the median of the deviations."""
    with np.errstate(invalid="ignore"):
        spread = float(np.median(np.abs(values - middle)))
    return SIGMA_PER_MAD * spread if np.isfinite(spread) else 0.0
