"""An example whose gradient is far larger than usual for the largest of a batch."""

from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.rules._base import Finding, Watcher
from clipwise.monitor.rules.gradient_spike import GradientSpike, SpikeWatcher
from clipwise.monitor.store import Moment
from clipwise.monitor.wording import of, show, times

PREFIX = "clipwise/example/"
LARGEST, AFTER, THRESHOLD, PLACE, KEY, NONFINITE = (
    f"{PREFIX}{name}" for name in ("norm/1", "norm_after", "threshold", "largest", "key", "nonfinite")
)


@dataclass(frozen=True, kw_only=True)
class ExampleSpike(GradientSpike):
    """Alerts if an example's gradient is not finite, or far above the largest ones of recent batches.

    For recorded steps of `clipwise.torch.per_example`. It judges the largest norm of each batch, by the same
    criterion as `GradientSpike`. The alert names the example: its index in the batch, and its key if numbers
    were passed as ``keys=``.

    Args:
        window, z, factor: as for `GradientSpike`.
        patience, cooldown, level, actions: as for `Rule`.
    """

    name: ClassVar[str] = "example_spike"

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(self, source)


class _Watcher(SpikeWatcher):
    norm = LARGEST

    def judge(self, moment: Moment) -> bool | None:
        if moment.values.get(NONFINITE, 0.0) > 0:
            self._bad = moment
            return True
        return super().judge(moment)

    def finding(self) -> Finding:
        values = self._bad.values
        example = (
            f"example {values[PLACE]:.0f} of the batch" if values.get(PLACE, -1.0) >= 0 else "an example"
        )
        if KEY in values:
            example += f" (key {values[KEY]:.0f})"
        advice = "Check it for a wrong label or a broken input; it may also be a rare case."
        if values.get(NONFINITE, 0.0) > 0:
            return Finding(
                seen=f"The gradient of {example}{of(self._source)} at step {self._bad.step:,} is NaN or Inf.",
                why="One such example makes the sum of all NaN, unless it is left out.",
                advice=f'{advice} nonfinite="drop" of per_example leaves such examples out.',
            )
        norm = values[LARGEST]
        # A recording of old has the threshold alone, which bounds tensors where those are clipped.
        after = values.get(AFTER, min(norm, values.get(THRESHOLD, norm)))
        why = "It was not clipped, and may outweigh the rest of its batch."
        if after < norm * (1 - 1e-6):
            why = f"It was clipped, and counts for {show(after)}."
        return Finding(
            seen=f"The gradient of {example} has the norm {show(norm)} at step {self._bad.step:,}"
            f"{of(self._source)}, {times(norm / self._usual)} the {show(self._usual)} that the largest of a"
            " batch usually has.",
            why=why,
            advice=advice,
        )
