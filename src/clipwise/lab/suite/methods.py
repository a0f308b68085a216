"""What every task is trained with: clips, and what the literature puts in their place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clipwise.clip import AnyClip
from clipwise.config import parse
from clipwise.errors import ArgumentError, did_you_mean

__all__ = ["BASELINE", "FIXED", "METHODS", "Method", "Variant", "chosen", "percentiles"]


@dataclass(frozen=True)
class Variant:
    """Changes to the setting of a task, apart from the clip.

    Attributes:
        rate: factor of the learning rate.
        weight_decay: weight decay of the optimizer.
        layer_norm: whether layer normalisation is added, in models that support it.
        schedule: whether the rate has a warm-up over a tenth of the run and then a cosine decay to 0.
        option: an option that only one task has.
    """

    rate: float = 1.0
    weight_decay: float = 0.0
    layer_norm: bool = False
    schedule: bool = False
    option: str = ""


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: name on the command line.
        label: name in tables and pictures.
        clip: string form of the clip; None for no clipping.
        role: ``"baseline"``, ``"fixed"``, ``"clip"``, ``"auto"`` or ``"rival"`` (an alternative to clipping).
        variants: the runs that are trained; the best one counts.
    """

    name: str
    label: str
    clip: str | None = None
    role: str = "clip"
    variants: tuple[Variant, ...] = (Variant(),)

    @property
    def parsed(self) -> AnyClip | None:
        return None if self.clip is None else parse(self.clip)


FIXED = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Thresholds of the global norm, as people try them."""

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Factors of a task's learning rate that are tried without clipping."""

BASELINE = Method("none", "no clipping", role="baseline")

# Values and norms of a tensor are smaller than the global norm, hence their thresholds.
METHODS: Mapping[str, Method] = {
    one.name: one
    for one in (
        BASELINE,
        *(Method(f"norm-{t:g}", f"global norm {t:g}", f"clip_by_global_norm({t:g})", "fixed") for t in FIXED),
        Method("value", "value 0.1", "clip_by_value(0.1)"),
        Method("tensor", "norm of each tensor 0.5", "clip_by_norm(0.5)"),
        Method("agc", "AGC 0.01", "adaptive_grad_clip(0.01)"),
        Method("autoclip", "AutoClip 10", "autoclip(10)"),
        Method("zclip", "ZClip 2.5", "zclip(2.5)"),
        Method("adagc", "AdaGC 1.05", "adagc(1.05)"),
        Method("skip", "skip spikes", "skip_spikes()"),
        Method("auto", "auto", "auto()", "auto"),
        Method(
            "tuned-rate",
            "no clipping, tuned rate",
            None,
            "rival",
            tuple(Variant(rate=rate) for rate in RATES),
        ),
        Method("weight-decay", "no clipping, weight decay", None, "rival", (Variant(weight_decay=1e-4),)),
        Method("layer-norm", "no clipping, layer norm", None, "rival", (Variant(layer_norm=True),)),
        Method("schedule", "no clipping, warm-up and decay", None, "rival", (Variant(schedule=True),)),
    )
}


def percentiles(*ranks: float) -> tuple[Method, ...]:
    """AutoClip at several percentiles.

    >>> percentiles(25)[0].clip
    'autoclip(25)'
    """
    return tuple(Method(f"p{q:g}", f"AutoClip {q:g}", f"autoclip({q:g})") for q in ranks)


def chosen(known: Mapping[str, Method], names: Iterable[str]) -> tuple[Method, ...]:
    """The methods with these names, in the order of the table; all methods if no names are given.

    Raises:
        ArgumentError: a name is unknown.
    """
    names = list(names)
    for name in names:
        if name not in known:
            raise ArgumentError(f"unknown method {name!r}. {did_you_mean(name, known)}")
    return tuple(one for one in known.values() if not names or one.name in names)
