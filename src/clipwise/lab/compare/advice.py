"""Suggests a command to try next."""

import math
import shlex
from collections.abc import Sequence

from clipwise import config
from clipwise.errors import ClipwiseError
from clipwise.lab.compare.groups import Group, baseline_of, best_of
from clipwise.wording import number

__all__ = ["next_command"]


def next_command(groups: Sequence[Group], config_path: str, options: Sequence[str] = ()) -> str:
    """The command to try next.

    A smaller threshold if every run diverged; one near the 95th percentile of the norms if no given clip ever
    clipped; several seeds if there was one; otherwise a training with the best clip. A comparison keeps the
    given clips and seeds, and adds no clip that was already among them.

    Args:
        groups: the results.
        config_path: the configuration, as it was given.
        options: the other options of the command, which are kept.
    """
    best = best_of(groups)
    count = max((len(each.runs) for each in groups), default=1)
    seeds = ["--seeds", str(count)] if count > 1 else []
    clips = [word for each in groups if each.role == "given" for word in _clip(each)]
    compare = ["compare", config_path, *clips]
    if best is None:
        return _command(*compare, "--clip", _smaller(groups), *seeds, *options)
    firing = _firing(groups)
    if firing is not None:
        return _command(*compare, "--clip", firing, *seeds, *options)
    if len(groups) == 1:
        return _command(*compare, *seeds, *options)
    if count == 1:
        return _command(*compare, "--seeds", "3", *options)
    return _command("train", config_path, *_trained(best, groups), *options)


def _trained(best: Group, groups: Sequence[Group]) -> list[str]:
    """The option that makes a training use this clip; none where the configuration already says so."""
    configured = any(each.role == "configured" for each in groups)
    if best.role == "configured" or (best is baseline_of(groups) and not configured):
        return []
    return _clip(best) or ["--clip", "none"]


def _clip(group: Group) -> list[str]:
    return [] if group.first.clip is None else ["--clip", group.first.clip.removesuffix("()")]


def _smaller(groups: Sequence[Group]) -> str:
    """A clip at a tenth of the smallest median norm, or at a tenth of that, until it is a new one."""
    norms = [run.norm_median for each in groups for run in each.runs if 0 < run.norm_median < math.inf]
    threshold = 0.1 * min(norms) if norms else 0.1
    while _has(groups, text := _global(threshold)):
        threshold /= 10
    return text


def _firing(groups: Sequence[Group]) -> str | None:
    """A clip that one step in twenty exceeds, if none of the given clips ever clipped and it is new."""
    asked = [each for each in groups if each.role in ("configured", "given")]
    idle = next((each for each in asked if not each.diverged), None)
    if idle is None or not all(each.never_fired for each in asked):
        return None
    norm = idle.spread("norm_p95").median
    if not 0 < norm < math.inf or _has(groups, text := _global(norm)):
        return None
    return text


def _global(threshold: float) -> str:
    return f"clip_by_global_norm({number(threshold, 2)})"


def _has(groups: Sequence[Group], text: str) -> bool:
    """Whether one of the runs had this clip, however its number was written."""
    wanted = config.parse(text)
    return any(_parsed(each.first.clip) == wanted for each in groups)


def _parsed(text: str | None) -> object:
    try:
        return config.parse(text)
    except ClipwiseError:
        return None  # a clip with a Python function in it has no string form, and is not one of these


def _command(*words: str) -> str:
    return shlex.join(["clipwise", *words])
