"""One contest: check what each call does, weigh it, time it."""

from dataclasses import dataclass

import numpy as np

from benchmarks.cases import Problem
from benchmarks.floors import Bandwidth, Yardstick, cache_bytes
from benchmarks.goals import Goal, goal_of
from benchmarks.memory import extra_peak
from benchmarks.methods import METHODS, Contest, total_norm
from benchmarks.timing import Paired, Turn, clock_for, interleaved, paired

__all__ = ["DTYPES", "Effort", "Line", "measure"]

DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Effort:
    """How long a contest is timed: seconds, rounds at least, rounds before; and repeats for the memory."""

    seconds: float
    least: int
    warm: int
    repeats: int


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        times: peer and ours, compared pair by pair.
        floor: seconds, from the bytes that must move and the bandwidth in the same rounds.
        over_floor: ours / floor; None where the gradients fit in a cache, and memory's floor does not hold.
        bandwidth: bytes a second that ours moved, counting those that must be moved.
        peer_memory, memory: extra bytes at the peak, of the peer and ours; None where it cannot be told.
        peer_error, error: relative error of the total norm, where one is told.
        overhead: the peer is the step without clipping.
    """

    case: str
    title: str
    dtype: str
    method: str
    label: str
    clipped: bool
    times: Paired
    floor: float
    over_floor: float | None
    bandwidth: float
    peer_memory: int | None
    memory: int | None
    peer_error: float | None
    error: float | None
    goal: Goal
    overhead: bool

    @property
    def missed(self) -> list[str]:
        return self.goal.missed(self.times.ratio, self.over_floor, self.memory, self.error)


def measure(
    problem: Problem,
    method: str,
    clipped: bool,
    effort: Effort,
    yardstick: Yardstick,
    cached: Bandwidth,
    busy: bool = False,
) -> list[Line]:
    """The lines of one method on one set of gradients, which are left as they were.

    Args:
        yardstick: takes its turns in the same rounds where the gradients are larger than the caches.
        cached: the bandwidth of memory, for gradients that are not.
        busy: other processes keep the cores busy, which has goals of its own.

    Raises:
        CheckError: a call did something else than its row says.
    """
    contest = METHODS[method](problem, clipped)
    before = problem.restore if clipped else None
    errors = _check(problem, contest)
    memory = [
        extra_peak(each.call, problem.device, before=before, repeats=effort.repeats)
        for each in contest.contenders
    ]
    turns = [Turn(each.call, before) for each in contest.contenders]
    fits = problem.nbytes <= cache_bytes(problem.device)
    seconds = interleaved(
        turns if fits else turns + yardstick.turns(),
        clock_for(problem.device),
        seconds=effort.seconds,
        least=effort.least,
        most=contest.most,
        warm=effort.warm,
    )
    problem.restore()
    if contest.close is not None:
        contest.close()

    count = len(turns)
    ours = seconds[:, count - 1]
    if fits:
        floors = np.full(len(ours), cached.seconds(contest.reads, contest.updates))
    else:
        rates = yardstick.rates(seconds[:, count:])
        floors = np.array([Bandwidth(*rate).seconds(contest.reads, contest.updates) for rate in rates])
    moved = contest.reads + 2 * contest.updates
    dtype = "bf16" if problem.dtype.itemsize == 2 else "fp32"
    gpu = problem.device.type == "cuda"
    lines = []
    for row in contest.rows:
        # Clipping inside a step: what the step takes longer is what is compared with the floor.
        own = ours - seconds[:, 0] if method == "attach" else ours
        lines.append(
            Line(
                case=problem.case.name,
                title=problem.case.title,
                dtype=dtype,
                method=method,
                label=row.label,
                clipped=clipped,
                times=paired(seconds[:, row.peer], ours),
                floor=float(np.median(floors)),
                over_floor=None if fits else float(np.median(own / floors)),
                bandwidth=moved / max(float(np.median(own)), 1e-9),
                peer_memory=memory[row.peer],
                memory=memory[-1],
                peer_error=errors[row.peer],
                error=errors[-1],
                goal=goal_of(problem.case.name, method, dtype, clipped, gpu=gpu, busy=busy),
                overhead=row.overhead,
            )
        )
    return lines


def _check(problem: Problem, contest: Contest) -> list[float | None]:
    """Each call once on fresh gradients, ours first; returns the relative errors of their total norms."""
    errors: list[float | None] = []
    for each in reversed(contest.contenders):
        problem.restore()
        returned = each.call()
        each.check(returned)
        norm = total_norm(returned)
        errors.insert(0, None if norm is None else abs(norm / problem.norm - 1.0))
    problem.restore()
    return errors
