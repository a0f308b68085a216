"""Names of recorded values: ``clipwise/<field>`` for those of a clipper, all others as they were logged."""

from clipwise.report import METRICS

PREFIX = "clipwise/"
FIELDS = tuple(PREFIX + name for name in (*METRICS, "skipped", "at_bound"))
"""The values of a clipper."""

HELD = f"{PREFIX}held/"
"""Stands before each reason in the names of the shares that held the threshold; `FIELDS` are without them."""

LOSSES = ("loss", "train_loss", "train/loss", "training_loss", "training/loss")
"""Names under which trainers log the training loss; the first that comes is the loss."""

NORM, AT_BOUND = "clipwise/norm", "clipwise/at_bound"


UPDATE = ("update/norm", "update/norm_after", "update/threshold", "update/clip_fraction")
"""What is kept of a clip of updates, beside the values of its clipper."""

ADAM = ("adam/eps", "adam/entries")
"""Kept once where the optimizers are Adam or alike: eps, and the number of entries behind the norm."""

CLIP_CALLS = ("clip_calls", "clip_calls_acting")
"""Kept once of an observed script: its calls of torch's clip functions so far, 1 if any acted on a step."""

PART = "by_name/"
"""Stands before the pattern of a part in the source of what `clipwise.by_name` did to it."""


def part_of(source: str, pattern: str) -> str:
    """The source of one part of a clipper.

    >>> part_of("", "head.*"), part_of("critic", "head.*")
    ('by_name/head.*', 'critic/by_name/head.*')
    """
    return joined(source, f"{PART}{pattern}")


def is_part(source: str) -> bool:
    """Whether a source is a part of another, whose values include it."""
    return source.startswith(PART) or f"/{PART}" in source


def is_figure(name: str) -> bool:
    """Whether a value is one of a clipper, and none that was logged.

    >>> is_figure("clipwise/norm"), is_figure("clipwise/held/loss"), is_figure("loss")
    (True, True, False)
    """
    return name in FIELDS or name.startswith(HELD)


def joined(source: str, name: str) -> str:
    """The name of a value with its source as a prefix, for tools without sources.

    >>> joined("critic", "clipwise/norm"), joined("", "loss")
    ('critic/clipwise/norm', 'loss')
    """
    return f"{source}/{name}" if source else name
