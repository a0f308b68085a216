"""Published numbers beside ours, each with a sentence that follows from what came out here."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clipwise.lab.suite.standings import CLOSE, Board, Row
from clipwise.wording import join, number, percent

__all__ = ["Comparison", "comparisons"]

RETURN, RETURN_SPREAD = 492.4, 13.05
"""Of CleanRL's ``ppo.py`` on CartPole-v1."""


@dataclass(frozen=True)
class Comparison:
    """A published result beside the one measured here.

    Attributes:
        source: authors, year and where it was published.
        said: the published result.
        ours: the result here.
        sentence: the conclusion, or why the published number cannot be reached at this size.
    """

    source: str
    said: str
    ours: str
    sentence: str


def comparisons(boards: Sequence[Board]) -> list[Comparison]:
    """Those whose tasks are there, with the methods that they need."""
    known = {board.task.name: board for board in boards}
    return [found for ask in ASKED if (found := ask(known)) is not None]


def _rows(boards: Mapping[str, Board], task: str, *methods: str) -> list[Row] | None:
    """The rows of some methods; None unless all of them are there."""
    rows = {row.method.name: row for row in boards[task].rows} if task in boards else {}
    return [rows[name] for name in methods] if all(name in rows for name in methods) else None


def _temporal_order(boards: Mapping[str, Board]) -> Comparison | None:
    rows = _rows(boards, "temporal-order-50", "none", "norm-1")
    if rows is None:
        return None
    none, clipped = rows
    ours = f"none: {_solved(none)}; threshold 1: {_solved(clipped)}"
    for more in ("50-tanh", "50-sigmoid", "100", "150"):
        others = _rows(boards, f"temporal-order-{more}", "none", "norm-1")
        if others is not None:
            length, _, start = more.partition("-")
            named = f"{length} steps, {start} start" if start else f"{length} steps"
            ours += f". {named}: none {_of(others[0])}; threshold 1 {_of(others[1])}"
    if clipped.solved > none.solved:
        sentence = "As published: SGD with norm clipping solves more seeds than plain SGD."
    elif clipped.solved or none.solved:
        sentence = "Not as published: here plain SGD solves at least as many seeds."
    else:
        steps = number(max(run.steps for run in clipped.group.runs))
        closer = "closer with clipping" if clipped.error < none.error else "no closer with clipping"
        sentence = (
            f"{steps} updates are too few to solve it; the result is {closer}. The regularization of the"
            " paper, which extends it to 200 steps, is not part of this suite."
        )
    return Comparison(
        "Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063), temporal order over 50 steps",
        "SGD usually fails; clipped at a norm of 1 and regularized, it solves 50 to 200 steps",
        ours,
        sentence,
    )


def _of(row: Row) -> str:
    return f"{row.solved} of {len(row.results)} solved"


def _solved(row: Row) -> str:
    solved = _of(row)
    if row.solved and row.steps.median < float("inf"):
        return f"{solved}, at update {row.steps.median:.0f}"
    return f"{solved}, {percent(row.group.final.median)} errors"


def _autoclip(boards: Mapping[str, Board]) -> Comparison | None:
    names = ("p1", "p10", "p25", "p50", "p90")
    rows = _rows(boards, "autoclip-percentiles", "none", *names)
    if rows is None:
        return None
    board = boards["autoclip-percentiles"]
    best = min(rows, key=board.standing)
    ten = rows[2]
    behind = board.shortfall(ten, best)
    share = percent(ten.group.spread("clipped_steps").median)
    near = (
        f"within {percent(CLOSE)} of the best here"
        if behind <= CLOSE
        else f"{percent(behind, tenths=True)} behind the best here"
    )
    values = [f"{row.method.name} {number(row.group.final.median)}" for row in rows[1:]]
    return Comparison(
        "Seetharaman et al. 2020 (arXiv:2007.14469), table 1",
        "the 10th percentile is the best or nearly the best for 4 of 5 losses, and clips 90 % of the steps",
        f"bits by percentile: {', '.join(values)}; none {number(rows[0].group.final.median)}",
        f"The 10th percentile is {near} and clips {share} of the steps. The numbers themselves cannot be"
        " compared, because the data of the paper (voices) is not available as a package.",
    )


def _zclip(boards: Mapping[str, Board]) -> Comparison | None:
    rows = _rows(boards, "characters-spikes", "none", "norm-1", "zclip")
    if rows is None:
        return None
    none, fixed, zclip = rows
    named = {"none": none, "threshold 1": fixed, "ZClip": zclip}
    ours = "; ".join(f"{label}: {number(row.group.final.median)} bits" for label, row in named.items())
    diverged = [label for label, row in named.items() if row.diverged]
    board = boards["characters-spikes"]
    said = [
        f"{_beside(board.shortfall(none, zclip))} none",
        f"{_beside(board.shortfall(fixed, zclip))} threshold 1",
    ]
    if diverged:
        sentence = f"Diverged here: {join(diverged)}."
    else:
        sentence = f"ZClip ends {join(said)}. At this size the spikes are artificial, and no run diverges."
    return Comparison(
        "Kumar et al. 2025 (arXiv:2504.02507), figure 1",
        "a model with a billion weights at a learning rate of 0.003 diverges without clipping and with"
        " threshold 1, but not with ZClip",
        ours,
        sentence,
    )


def _music(boards: Mapping[str, Board]) -> Comparison | None:
    rows = _rows(boards, "chorales", "none")
    best = boards["chorales"].best("fixed") if rows is not None else None
    if rows is None or best is None:
        return None
    none = rows[0]
    fall = boards["chorales"].shortfall(none, best)
    low = "diverged" if none.diverged else number(none.group.final.median)
    return Comparison(
        "Pascanu, Mikolov, Bengio 2013, table 1: negative log-likelihood of a step, test, SGD and clipped",
        "Piano-midi.de 7.56 and 7.53, Nottingham 3.80 and 3.48, MuseData 7.11 and 7.00",
        f"none: {low}; {best.method.label}: {number(best.group.final.median)}",
        ("As published, clipping is better" if fall > 0 else "Not as published: clipping is no better")
        + ". The music differs and the rate is too high for plain SGD, so the size of the difference cannot"
        " be compared.",
    )


def _beside(gain: float) -> str:
    if abs(gain) < 5e-4:
        return "as"
    return f"{percent(abs(gain), tenths=True)} {'better' if gain > 0 else 'worse'} than"


def _slopes(boards: Mapping[str, Board]) -> Comparison | None:
    names = ("bound-0.1", "bound-0.01", "bound-0.001", "penalty")
    rows = _rows(boards, "critic-slope", *names)
    if rows is None:
        return None
    slopes = [statistics.median(run.held_out["signed"] for run in row.group.runs) for row in rows]
    ours = ", ".join(
        f"{label}: {slope:+.2g}"
        for label, slope in zip(("c .1", "c .01", "c .001", "penalty"), slopes, strict=True)
    )
    kept = abs(slopes[3]) < min(abs(slope) for slope in slopes[:3])
    signs = slopes[0] > 0 > slopes[1] and slopes[2] < 0
    width = boards["critic-slope"].task.sizes[boards["critic-slope"].budget]["width"]
    if kept and signs:
        sentence = "As published."
    else:
        sentence = (
            f"{'As published for the penalty alone' if kept else 'Not as published'}: the turning point"
            f" depends on the width, {width} here and 512 in the paper."
        )
    return Comparison(
        "Gulrajani et al. 2017 (arXiv:1704.00028), figure 1b",
        "through twelve layers the gradient explodes with c = 0.1 and vanishes with 0.01 and 0.001; with"
        " the penalty it does neither (a figure without numbers)",
        f"decades per layer in the backward pass: {ours}",
        sentence,
    )


def _cartpole(boards: Mapping[str, Board]) -> Comparison | None:
    rows = _rows(boards, "cartpole-cleanrl", "norm-0.5")
    if rows is None:
        return None
    group = rows[0].group
    finals = [run.final for run in group.runs]
    mean = statistics.fmean(finals)
    spread = f" ± {statistics.stdev(finals):.1f}" if len(finals) > 1 else ""
    board = boards["cartpole-cleanrl"]
    taken = board.task.sizes[board.budget]["steps"]
    if taken < 500_000:
        sentence = "Too few steps to reach it; --budget full runs 500,000."
    elif abs(mean - RETURN) <= RETURN_SPREAD:
        sentence = "Within the published spread."
    else:
        sentence = "Outside the published spread."
    return Comparison(
        "CleanRL, ppo.py on CartPole-v1 (docs.cleanrl.dev/rl-algorithms/ppo)",
        f"a return of {RETURN:.2f} ± {RETURN_SPREAD:.2f} after 500,000 steps, three seeds",
        f"{mean:.1f}{spread} after {taken:,} steps",
        sentence,
    )


ASKED: tuple[Callable[[Mapping[str, Board]], Comparison | None], ...] = (
    _temporal_order,
    _music,
    _autoclip,
    _zclip,
    _slopes,
    _cartpole,
)
