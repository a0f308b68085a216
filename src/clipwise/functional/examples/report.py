"""The report of one step of per-example clipping."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from clipwise.namespace import Array, on_host

__all__ = ["QUANTILES", "ExampleReport"]

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
"""The quantiles of the examples' norms that are logged."""


@dataclass(frozen=True, kw_only=True)
class ExampleReport:
    """The gradient norm of each example of a step, and the effect of the clip.

    Values stay on the device until they are read: `quantiles`, `largest`, `metrics` and ``str`` need a
    host-device sync.

    Attributes:
        losses: loss of each example, ``(examples,)``.
        norms: norm of each example's whole gradient before clipping, with the ``norm`` of the clip's first
            part.
        norms_after: the same after clipping.
        threshold: the largest norm allowed; the smallest threshold if there are several.
        tensor_norms: norms by parameter of the same kind, ``(examples, parameters)``.
        names: names of the parameters.
        keys: the caller's names of the examples; None without names.
        mask: which rows are examples and not padding; None: all.
    """

    losses: Array
    norms: Array
    norms_after: Array
    threshold: Array
    tensor_norms: Array
    names: Sequence[str] = ()
    keys: Sequence[Any] | None = None
    mask: Array | None = None

    def __tf_flatten__(self) -> tuple[Any, tuple[Any, ...]]:
        """For `tf.nest`, so that a `tf.function` takes and returns a report: names and keys are static."""
        keys = None if self.keys is None else tuple(self.keys)
        return (tuple(self.names), keys), tuple(getattr(self, name) for name in _ARRAYS)

    @classmethod
    def __tf_unflatten__(cls, metadata: Any, components: tuple[Any, ...]) -> "ExampleReport":
        return cls(names=metadata[0], keys=metadata[1], **dict(zip(_ARRAYS, components, strict=True)))

    def __len__(self) -> int:
        """Number of examples without padding."""
        return int(self.norms.shape[0]) if self.mask is None else int(on_host(self.mask).sum())

    def _rows(self, array: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
        rows = np.asarray(on_host(array), dtype=np.float64)
        return rows if self.mask is None else rows[np.asarray(on_host(self.mask), dtype=bool)]

    def quantiles(self, q: Sequence[float] = QUANTILES) -> dict[float, float]:
        """Quantiles of the norms before clipping, with linear interpolation; NaN and Inf are ignored."""
        norms = self._rows(self.norms)
        finite = norms[np.isfinite(norms)]
        values = np.quantile(finite, q) if len(finite) else np.full(len(q), np.nan)
        return dict(zip(q, values.tolist(), strict=True))

    @property
    def largest(self) -> int | None:
        """Index of the first example with NaN or Inf, otherwise of the one with the largest norm."""
        return next(iter(self.places(1)), None)

    def places(self, k: int = 5) -> list[int]:
        """Indices of the k examples with the largest norms, in descending order; NaN and Inf come first."""
        norms = self._rows(self.norms)
        order = np.argsort(np.where(np.isfinite(norms), norms, np.inf), kind="stable")
        ends = np.isfinite(norms).sum()
        found = np.concatenate([order[ends:], order[:ends][::-1]])[:k]
        if self.mask is not None:
            found = np.flatnonzero(on_host(self.mask))[found]
        return found.tolist()  # type: ignore[no-any-return]

    def examples(self, k: int = 5) -> list[tuple[Any, float, str]]:
        """The k examples with the largest norms: key or index, norm, parameter with the largest part."""
        norms, parts = _host(self.norms), _host(self.tensor_norms)
        found: list[tuple[Any, float, str]] = []
        for place in self.places(k):
            key = place if self.keys is None else self.keys[place]
            key = key.item() if hasattr(key, "item") else key
            row = np.where(np.isfinite(parts[place]), parts[place], np.inf)
            found.append((key, float(norms[place]), self.names[int(np.argmax(row))] if len(row) else ""))
        return found

    @property
    def clip_fraction(self) -> float:
        """The share of the examples that were clipped."""
        if not len(self):
            return 0.0
        return float(np.mean(self._rows(self.norms_after) < self._rows(self.norms) * (1 - 1e-6)))

    def metrics(self) -> dict[str, float]:
        """Values for a logger: ``clipwise/example/norm/0.5`` and the other quantiles, and more.

        ``clipwise/example/norm_after`` is the norm of the largest example after clipping.
        """
        found = {f"clipwise/example/norm/{q:g}": value for q, value in self.quantiles().items()}
        norms = self._rows(self.norms)
        found["clipwise/example/nonfinite"] = float((~np.isfinite(norms)).sum())
        found["clipwise/example/threshold"] = float(on_host(self.threshold))
        found["clipwise/example/clip_fraction"] = self.clip_fraction
        place = self.largest
        if place is not None:
            found["clipwise/example/largest"] = float(place)
            found["clipwise/example/norm_after"] = float(on_host(self.norms_after[place]))
            key = None if self.keys is None else on_host(self.keys[place])
            if key is not None and key.shape == () and key.dtype.kind in "iuf":
                found["clipwise/example/key"] = float(key)
        return found

    def __str__(self) -> str:
        if not len(self):
            return "no examples"
        of: Mapping[float, float] = self.quantiles((0.5, 0.9))
        key, norm, name = self.examples(1)[0]
        return (
            f"{len(self)} examples: norms {of[0.5]:.4g} (median), {of[0.9]:.4g} (9 of 10),"
            f" {norm:.4g} (largest, example {key!r}, in {name}); threshold"
            f" {float(on_host(self.threshold)):.4g}, {self.clip_fraction:.0%} clipped"
        )


_ARRAYS = tuple(one.name for one in fields(ExampleReport) if one.name not in ("names", "keys"))


def _host(array: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(on_host(array), dtype=np.float64)
