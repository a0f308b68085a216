"""What values are called: those of a clipper ``clipwise/<field>``, all others as they were logged."""

from clipwise.report import METRICS

PREFIX = "clipwise/"
FIELDS = tuple(PREFIX + name for name in (*METRICS, "skipped", "at_bound"))
"""The values of a clipper."""

LOSSES = ("loss", "train_loss", "train/loss", "training_loss", "training/loss")
"""Names under which trainers log the training loss; the first that comes is the loss."""

NORM, AT_BOUND = "clipwise/norm", "clipwise/at_bound"


def joined(source: str, name: str) -> str:
    """A value's name with its source before it, for tools that have names only.

    >>> joined("critic", "clipwise/norm"), joined("", "loss")
    ('critic/clipwise/norm', 'loss')
    """
    return f"{source}/{name}" if source else name
