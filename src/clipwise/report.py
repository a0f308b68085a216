"""The result of one clipping step, and the names under which it is logged everywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from clipwise.namespace import Array, on_host

__all__ = ["METRICS", "ClipReport"]

METRICS = ("norm", "norm_after", "threshold", "clip_fraction", "direction", "nonfinite")
"""The fields that are logged, each as ``clipwise/<field>``."""


def _number(value: Any) -> float:
    """A Python float from an array of any framework; this is where the host waits for the device."""
    return float(on_host(value))


@dataclass(frozen=True, kw_only=True)
class ClipReport:
    """What one clipping step measured and did.

    Values are 0-d arrays that stay on the device until they are read. `metrics`, `worst`, `str` and
    ``float(report.norm)`` need a host-device sync; creating a report does not.

    Attributes:
        norm: norm of all gradients together before clipping, with the clip's own ``norm`` (2 for value
            clipping).
        norm_after: the same norm after clipping.
        threshold: the largest norm allowed; the smallest threshold if there are several.
        clipped: whether anything was clipped.
        clip_fraction: share of the groups that were clipped: 0 or 1 for a global norm, a share of the
            tensors, units or entries otherwise.
        held: what determined the threshold: for each reason of the policy (``"warm-up"``, ``"history"``,
            ``"loss"``, ...; listed in docs/clips.md) the share of the groups whose threshold it determined, 0
            or 1 for a global norm. Empty if there is only one possible reason, as for a number; all 0 for a
            skipped step. It is computed when it is read.
        direction: cosine between the whole gradient before and after clipping; None if it was not requested
            and would have cost extra computation.
        nonfinite: number of tensors that held NaN or Inf.
        skipped: whether the step was skipped: because of NaN or Inf, by a clip with ``action="skip"`` (then
            ``threshold`` is the value that the norm exceeded, otherwise NaN), or by a rule.
        names: the name of each tensor that had a gradient.
        tensor_norms: their norms before clipping, one array of the same length.
        parts: the reports of the parts, by position for `chain` and by pattern for `by_name`.
        at_bound: for a clip of weights, the share of the groups that are at the bound after clipping,
            including those that were there before; NaN if each group has its own bound. None for other clips.
        normalised: number of tensors that had a gradient but were left out of norm and clip because their
            optimizer normalises the gradient itself (Muon). They are included in ``names``.
    """

    norm: Array
    norm_after: Array
    threshold: Array
    clipped: Array
    clip_fraction: Array
    direction: Array | None = None
    nonfinite: Array = 0
    skipped: Array = False
    names: Sequence[str] = ()
    tensor_norms: Array | None = None
    parts: Mapping[str, "ClipReport"] = field(default_factory=dict)
    at_bound: Array | None = None
    normalised: int = 0
    held: Mapping[str, Array] = field(default_factory=dict)

    def __tf_flatten__(self) -> tuple[Any, tuple[Any, ...]]:
        """For `tf.nest`, so that a `tf.function` takes and returns a report: the names are static."""
        return (tuple(self.names), self.normalised), tuple(getattr(self, name) for name in _ARRAYS)

    @classmethod
    def __tf_unflatten__(cls, metadata: Any, components: tuple[Any, ...]) -> "ClipReport":
        return cls(names=metadata[0], normalised=metadata[1], **dict(zip(_ARRAYS, components, strict=True)))

    @property
    def worst(self) -> str | None:
        """Name of the first tensor that held NaN or Inf, otherwise of the one with the largest norm."""
        if self.tensor_norms is None or not len(self.names):
            return None
        norms = self._tensor_norms()
        bad = np.flatnonzero(~np.isfinite(norms))
        return self.names[int(bad[0] if len(bad) else np.argmax(norms))]

    def norms(self) -> dict[str, float]:
        """The norm of each tensor before clipping, by name."""
        return dict(zip(self.names, self._tensor_norms().tolist(), strict=True)) if self.names else {}

    def metrics(self, *, per_tensor: bool = False) -> dict[str, float]:
        """The report as plain floats, under the names that are used everywhere: ``clipwise/norm`` and so on.

        The shares of `held` are ``clipwise/held/<reason>``. With ``per_tensor`` also
        ``clipwise/norm/<parameter>``. Unknown values are left out.
        """
        values = {f"clipwise/{name}": getattr(self, name) for name in (*METRICS, "at_bound")}
        values |= {f"clipwise/held/{reason}": share for reason, share in self.held.items()}
        found = {name: _number(value) for name, value in values.items() if value is not None}
        if per_tensor:
            found |= {f"clipwise/norm/{name}": norm for name, norm in self.norms().items()}
        return found

    def _tensor_norms(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        norms: Any = [] if self.tensor_norms is None else self.tensor_norms
        return np.asarray(on_host(norms), dtype=np.float64)

    def __str__(self) -> str:
        if bool(self.skipped):
            if _number(self.nonfinite):
                return f"step skipped: {_number(self.nonfinite):.0f} tensors not finite, first {self.worst}"
            threshold = _number(self.threshold)
            above = "" if np.isnan(threshold) else f" above the threshold {threshold:.4g}"
            return f"step skipped: norm {_number(self.norm):.4g}{above}"
        left = f", {self.normalised} normalised tensors left out" if self.normalised else ""
        bound = f"threshold {_number(self.threshold):.4g}"
        if not bool(self.clipped):
            return f"norm {_number(self.norm):.4g}, not clipped ({bound}{left})"
        return (
            f"norm {_number(self.norm):.4g} -> {_number(self.norm_after):.4g}"
            f" ({bound}, {_number(self.clip_fraction):.0%} clipped{left})"
        )


_ARRAYS = tuple(field.name for field in fields(ClipReport) if field.name not in ("names", "normalised"))
