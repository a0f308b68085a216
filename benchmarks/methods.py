"""The ways of clipping that are compared: for each, the peer's call and ours on the same gradients.

Whether a row clips is settled by its threshold, a share of the gradients' true norms, and checked:
`Contender.check` compares what a first call did with float64 numpy.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import clipwise
from benchmarks import oracle, peers
from benchmarks.cases import Problem
from clipwise import torch as ours

__all__ = ["METHODS", "Contender", "Contest", "Row", "total_norm"]

CLIP, LEAVE = 0.4, 2.0  # thresholds, as shares of the norm
VALUE_CLIP, VALUE_LEAVE = 2.0**-10, 2.0**-6  # 1 and 16 standard deviations; every dtype holds them exactly
PRIMED = 700  # norms in AutoClip's history before the first that counts
PERCENTILE = 10.0

Coefficients = list[np.ndarray]


@dataclass(frozen=True)
class Contender:
    """One call, and the check of what it did to fresh gradients, given what it returned."""

    call: Callable[[], Any]
    check: Callable[[Any], None]


@dataclass(frozen=True)
class Row:
    """Which contender is the peer of this row; ours is the last. ``label`` is for the table."""

    method: str
    label: str
    peer: int = 0
    overhead: bool = False


@dataclass(frozen=True)
class Contest:
    """What takes turns on one set of gradients.

    Args:
        contenders: peers first, ours last.
        rows: one or more lines of the table.
        clipped: whether the gradients are above the threshold; then they are restored before each call.
        reads, updates: bytes that must be read, and bytes that must be read and written back.
        most: rounds at most.
        close: to be called in the end.
    """

    contenders: Sequence[Contender]
    rows: Sequence[Row]
    clipped: bool
    reads: int
    updates: int
    most: int = 200
    close: Callable[[], None] | None = None


def total_norm(returned: Any) -> float | None:
    """The norm of all gradients that a call tells; None if it tells none."""
    if isinstance(returned, clipwise.ClipReport):
        return float(returned.norm)
    return float(returned) if isinstance(returned, Tensor) else None


# How far entries may be off. Ours: the rounding of a coefficient and of a product. torch's own float32 norm
# of 10**8 entries is off by 1e-3, and in bf16 it rounds norm and coefficient.
_OURS = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7}
_PEER = {torch.float32: 3e-3, torch.bfloat16: 6e-2}
_NORM = 1e-6


def _contest(
    problem: Problem,
    row: Row,
    clipped: bool,
    peer: Callable[[], Any],
    mine: Callable[[], Any],
    expected: Coefficients,
    *,
    reads: int = 1,
    most: int = 200,
) -> Contest:
    """A contest of clips that scale; ``expected`` are the true coefficients of each tensor or its units."""
    if any(bool((own < 1).all()) is not clipped or bool((own == 1).all()) is clipped for own in expected):
        raise oracle.CheckError(f"{row.method}: the threshold does not separate clipped from not clipped")

    def check(who: str, tolerance: float, exact: bool) -> Callable[[Any], None]:
        what = f"{who}, {row.method}, {problem.case.name}"

        def checked(returned: Any) -> None:
            if clipped:
                after = problem.gradients
                oracle.assert_scaled(what, problem.pristine, after, expected, tolerance)
            else:
                oracle.assert_same(what, problem.pristine, problem.gradients)
            if exact:
                _check_report(what, problem, returned, clipped)

        return checked

    nbytes = problem.nbytes
    return Contest(
        contenders=[
            Contender(peer, check("the peer", _PEER[problem.dtype], False)),
            Contender(mine, check("clipwise", _OURS[problem.dtype], True)),
        ],
        rows=[row],
        clipped=clipped,
        reads=reads * nbytes,
        updates=nbytes if clipped else 0,
        most=most,
    )


def _check_report(what: str, problem: Problem, returned: Any, clipped: bool) -> None:
    """The norm that is told is the true one, and a report says whether it clipped."""
    norm = total_norm(returned)
    if norm is not None:
        oracle.assert_close(f"{what}: the norm", np.array([norm]), np.array([problem.norm]), _NORM)
    if isinstance(returned, clipwise.ClipReport) and bool(returned.clipped) is not clipped:
        raise oracle.CheckError(f"{what}: the report says clipped={bool(returned.clipped)}")


def _limit(norm: float, clipped: bool) -> float:
    return norm * (CLIP if clipped else LEAVE)


def _capped(shares: np.ndarray | float, count: int) -> Coefficients:
    """The coefficients of so many tensors from threshold / norm."""
    return [np.atleast_1d(np.minimum(1.0, share)) for share in np.broadcast_to(shares, (count,))]


def _value(problem: Problem, clipped: bool) -> Contest:
    """Drop-in against torch's `clip_grad_value_`. The floor of a clipped one is one read and write."""
    parameters, limit = problem.parameters, VALUE_CLIP if clipped else VALUE_LEAVE

    def check(who: str) -> Callable[[Any], None]:
        def checked(_: Any) -> None:
            beyond = 0
            for index, (old, new) in enumerate(zip(problem.pristine, problem.gradients, strict=True)):
                before = oracle.sample(old)
                beyond += int((np.abs(before) > limit).sum())
                what = f"{who}, value: tensor {index}"
                oracle.assert_close(what, oracle.sample(new), np.clip(before, -limit, limit), 0.0)
            if (beyond > 0) is not clipped:
                raise oracle.CheckError(f"value: {beyond} of the sampled entries are beyond {limit:g}")
            if not clipped:
                oracle.assert_same(f"{who}, value", problem.pristine, problem.gradients)

        return checked

    return Contest(
        contenders=[
            Contender(lambda: nn.utils.clip_grad_value_(parameters, limit), check("torch")),
            Contender(lambda: ours.clip_grad_value_(parameters, limit), check("clipwise")),
        ],
        rows=[Row("value", "value")],
        clipped=clipped,
        reads=0 if clipped else problem.nbytes,
        updates=problem.nbytes if clipped else 0,
    )


def _norm(problem: Problem, clipped: bool) -> Contest:
    """Each tensor by its own norm."""
    limit = _limit(float(problem.norms.min() if clipped else problem.norms.max()), clipped)
    clipper = ours.Clipper(problem.parameters, clipwise.clip_by_norm(limit))
    return _contest(
        problem,
        Row("norm", "norm"),
        clipped,
        lambda: peers.clip_by_norm_(problem.parameters, limit),
        clipper.clip_,
        _capped(limit / problem.norms, len(problem.norms)),
    )


def _global(problem: Problem, clipped: bool) -> Contest:
    """All tensors by their joint norm, drop-in against torch's function."""
    parameters, limit = problem.parameters, _limit(problem.norm, clipped)
    return _contest(
        problem,
        Row("global", "global norm"),
        clipped,
        lambda: nn.utils.clip_grad_norm_(parameters, limit),
        lambda: ours.clip_grad_norm_(parameters, limit),
        _capped(limit / (problem.norm + 1e-6), len(parameters)),
    )


def _clipper(problem: Problem, clipped: bool) -> Contest:
    """The same through `Clipper`, which reports as well."""
    parameters, limit = problem.parameters, _limit(problem.norm, clipped)
    clipper = ours.Clipper(parameters, clipwise.clip_by_global_norm(limit))
    return _contest(
        problem,
        Row("clipper", "global, Clipper"),
        clipped,
        lambda: nn.utils.clip_grad_norm_(parameters, limit),
        clipper.clip_,
        _capped(limit / problem.norm, len(parameters)),
    )


def _agc(problem: Problem, clipped: bool) -> Contest:
    """AGC; the weights are read as well. A ratio of 1 clips nothing here, the paper's 0.01 everything."""
    parameters, ratio = problem.parameters, 0.01 if clipped else 1.0
    clipper = ours.Clipper(parameters, clipwise.adaptive_grad_clip(ratio))
    expected = []
    for parameter, gradient in zip(parameters, problem.pristine, strict=True):
        limits = ratio * np.maximum(oracle.unit_norms(parameter), 1e-3)
        expected.append(np.minimum(1.0, limits / oracle.unit_norms(gradient)))
    return _contest(
        problem,
        Row("agc", "AGC"),
        clipped,
        lambda: peers.adaptive_clip_(parameters, ratio),
        clipper.clip_,
        expected,
        reads=2,
    )


def _percentile(problem: Problem, clipped: bool) -> Contest:
    """AutoClip's 10th percentile, with a history of norms that are all below the current one, or all above.

    The current norm enters the history at every call: after 70 of them it would be the percentile itself.
    """
    parameters, q = problem.parameters, PERCENTILE
    clipper = ours.Clipper(parameters, clipwise.autoclip(q))
    peer = peers.AutoClip(parameters, q)
    lowest, highest = (0.3, 0.6) if clipped else (2.0, 3.0)
    history = _prime(
        problem, np.linspace(lowest, highest, PRIMED) * problem.norm, [clipper.clip_, peer.clip_]
    )
    threshold = float(np.percentile([*history, problem.norm], q))
    return _contest(
        problem,
        Row("percentile", "percentile"),
        clipped,
        peer.clip_,
        clipper.clip_,
        _capped(threshold / problem.norm, len(parameters)),
        most=60,
    )


def _prime(problem: Problem, norms: np.ndarray, calls: Sequence[Callable[[], object]]) -> list[float]:
    """Let each call see gradients of these norms: all in the smallest tensor, the others have none."""
    smallest = min(problem.parameters, key=lambda p: p.numel())
    held = [p.grad for p in problem.parameters]
    seen = []
    for parameter in problem.parameters:
        parameter.grad = None
    for norm in norms:
        gradient = torch.full_like(smallest, float(norm) / smallest.numel() ** 0.5)
        seen.append(float(gradient.reshape(-1)[0]) * smallest.numel() ** 0.5)
        for call in calls:
            smallest.grad = gradient.clone()
            call()
    for parameter, own in zip(problem.parameters, held, strict=True):
        parameter.grad = own
    return seen


def _attach(problem: Problem, clipped: bool) -> Contest:
    """A step of fused AdamW: bare, after torch's clip, and with a clip attached.

    The three share one state, so that they run on the same memory. What arrived in the step is read off
    AdamW's first moment, which is a tenth of it after one step, wherever the coefficient was applied.
    """
    parameters, limit = problem.parameters, _limit(problem.norm, clipped)
    bare, attached = (torch.optim.AdamW(parameters, lr=1e-9, fused=True) for _ in range(2))
    bare.state = attached.state
    clipper = ours.attach(attached, clipwise.clip_by_global_norm(limit))

    # A clip that is attached says once that the loop clips too, and listens no more.
    warnings.filterwarnings("ignore", "the loop clips too")

    def clip_and_step() -> None:
        nn.utils.clip_grad_norm_(parameters, limit)
        bare.step()

    def check_first_step(_: Any) -> None:
        moments = [attached.state[p]["exp_avg"] for p in parameters]
        expected = [np.array([0.1 * min(1.0, limit / problem.norm)])] * len(parameters)
        tolerance = 2 * _OURS[problem.dtype]
        oracle.assert_scaled("attach: first moment", problem.pristine, moments, expected, tolerance)
        _check_report("attach", problem, clipper.report, clipped)

    return Contest(
        contenders=[
            Contender(bare.step, lambda _: None),
            Contender(clip_and_step, lambda _: None),
            Contender(attached.step, check_first_step),
        ],
        rows=[
            Row("attach", "attach, overhead", 0, overhead=True),
            Row("attach", "attach, clip + step", 1),
        ],
        clipped=clipped,
        reads=problem.nbytes,
        updates=0,
        close=clipper.detach,
    )


METHODS: dict[str, Callable[[Problem, bool], Contest]] = {
    "value": _value,
    "norm": _norm,
    "global": _global,
    "clipper": _clipper,
    "agc": _agc,
    "percentile": _percentile,
    "attach": _attach,
}
