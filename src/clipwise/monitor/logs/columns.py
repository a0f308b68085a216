"""Finds the columns of a log that hold the gradient norm, the loss and the step."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from clipwise.errors import StoreError, did_you_mean
from clipwise.monitor.store import LOSSES, NORM

NORMS = (
    NORM,
    "grad_norm",
    "gradient_norm",
    "total_grad_norm",
    "global_grad_norm",
    "grad_norm_total",
    "total_norm",
    "global_norm",
    "gnorm",
    "grad_2_0_norm_total",
)
"""Names of the norm of all gradients: of the Hugging Face Trainer, TRL, verl, torchtitan; OLMo-core; fairseq;
Lightning's ``grad_norm``. Case and the signs between words make no difference ("Grad-Norm")."""

OTHER_LOSSES = ("loss_step", "train_loss_step", "lm_loss", "total_loss", "nll_loss")
"""Names of the training loss beside `LOSSES`: Lightning, Megatron, fairseq."""

STEPS = ("step", "global_step", "_step", "trainer_global_step", "iteration", "iter", "num_updates", "update")
TIMES = ("time", "_timestamp", "timestamp", "wall_time")

OF_TRAINING = ("train", "training", "optim", "clipwise")
"""Words before a "/" that name no part of the model."""


@dataclass(frozen=True)
class Columns:
    """Names of columns.

    Attributes:
        norms: columns of gradient norms by source. The source is the prefix before the last "/", such as
            ``"critic"``; "" if the prefix has no meaning.
        losses: the same for losses; a source without a loss is missing.
        step, time: None if there is none.
    """

    norms: Mapping[str, str]
    losses: Mapping[str, str]
    step: str | None = None
    time: str | None = None


def columns_of(names: Sequence[str], norm: str | None = None, loss: str | None = None) -> Columns:
    """Find the columns by their usual names.

    Args:
        names: names of the numeric columns.
        norm, loss: names of the columns, if they are not the usual ones.

    Raises:
        StoreError: there is no such column, none has a usual name, or several are possible.

    >>> columns_of(["step", "train/loss", "eval/loss", "train/grad_norm"]).norms
    {'': 'train/grad_norm'}
    >>> columns_of(["_step", "actor/grad_norm", "critic/grad_norm", "critic/loss"]).losses
    {'critic': 'critic/loss'}
    """
    norms = {"": _asked(norm, names, "norm")} if norm is not None else _by_source(names, NORMS, "norm")
    if not norms:
        raise StoreError(
            f"no column has one of the usual names of a gradient norm ({', '.join(NORMS[1:5])}, ...): name it"
            f" with --norm; there {'are' if len(names) > 1 else 'is'} {_listed(names)}"
        )
    if loss is not None:
        losses = {"": _asked(loss, names, "loss")}
    else:
        losses = _by_source([n for n in names if n not in norms.values()], (*LOSSES, *OTHER_LOSSES), "loss")
    return Columns(norms, losses, _first(names, STEPS), _first(names, TIMES))


def _asked(name: str, names: Sequence[str], what: str) -> str:
    if name in names:
        return name
    raise StoreError(f"no numeric column is called {name!r} (--{what}). {did_you_mean(name, names)}")


def _by_source(names: Sequence[str], known: Sequence[str], what: str) -> dict[str, str]:
    """For each source the column whose name comes first among the known ones."""
    ranks = {_plain(one): rank for rank, one in reversed([*enumerate(known)])}
    found: dict[str, tuple[int, str]] = {}
    for name in names:
        before, _, last = name.rpartition("/")
        rank = ranks.get(_plain(name), ranks.get(_plain(last)))
        if rank is None or _is_held_out(before):
            continue
        source = "" if _plain(before) in OF_TRAINING else before
        other = found.get(source)
        if other is not None and other[0] == rank and what == "norm":
            raise StoreError(
                f"both {other[1]!r} and {name!r} could be the gradient norm: name one with --norm"
            )
        if other is None or rank < other[0]:
            found[source] = rank, name
    return {source: name for source, (_, name) in found.items()}


def _is_held_out(before: str) -> bool:
    return bool(
        {"eval", "val", "valid", "validation", "test", "dev"} & set(re.split(r"[/_.]", before.lower()))
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _first(names: Collection[str], known: Sequence[str]) -> str | None:
    by_name = {_plain(name): name for name in reversed([*names])}
    return next((by_name[_plain(one)] for one in known if _plain(one) in by_name), None)


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(map(repr, names[:most])) or "none"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
