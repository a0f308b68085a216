"""The command worth trying after what was seen."""

import math
import shlex
from collections.abc import Sequence

from clipwise.lab.compare.groups import Group, best_of
from clipwise.lab.compare.wording import number

__all__ = ["next_command"]


def next_command(groups: Sequence[Group], config_path: str, options: Sequence[str] = ()) -> str:
    """The command worth trying next.

    A threshold near the 95th percentile of the norms where the configured one never fired, a smaller one
    where every run diverged, several seeds where there was one, and otherwise a training with the best clip.

    Args:
        groups: what was measured.
        config_path: the configuration, as it was given.
        options: the other options of the command that was run, kept.
    """
    best = best_of(groups)
    tail = [*options]
    clips = [w for g in groups if g.role == "given" and g.first.clip for w in ("--clip", g.first.clip)]
    if best is None:
        norms = [run.norm_median for each in groups for run in each.runs if math.isfinite(run.norm_median)]
        threshold = number(0.1 * min(norms), 2) if norms else "0.1"
        return _command("compare", config_path, "--clip", f"clip_by_global_norm({threshold})", *tail)
    idle = next((each for each in groups if each.never_fired and each.role in ("configured", "given")), None)
    if idle is not None and not idle.diverged and idle.first.norm_p95 > 0:
        threshold = number(idle.spread("norm_p95").median, 2)
        return _command("compare", config_path, "--clip", f"clip_by_global_norm({threshold})", *tail)
    if len(groups) > 1 and all(len(each.runs) == 1 for each in groups):
        return _command("compare", config_path, *clips, "--seeds", "3", *tail)
    clip = "none" if best.first.clip is None else best.first.clip.removesuffix("()")
    if len(groups) > 1:
        return _command("train", config_path, "--clip", clip, *tail)
    return _command("compare", config_path, *([] if best.role == "configured" else ["--clip", clip]), *tail)


def _command(*words: str) -> str:
    return shlex.join(["clipwise", *words])
