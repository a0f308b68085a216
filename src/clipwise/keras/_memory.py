"""What is kept between steps, in variables of the optimizer: they are saved with it, and compiled with it."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from clipwise.functional.arithmetic import Arithmetic, arithmetic_of
from clipwise.functional.clipping import ClipState, blank_report, init_state
from clipwise.functional.group_thresholds import map_state
from clipwise.functional.plan import Plan
from clipwise.functional.slots import Slot
from clipwise.keras._backends import backend
from clipwise.namespace import Array
from clipwise.report import METRICS, ClipReport

_FIELDS = (*METRICS, "clipped", "skipped")

TOTALS = (*METRICS, "skipped")
"""What is summed up over steps: in each column of the totals, a sum and the number of its terms."""

_EVERY_STEP = ("nonfinite", "skipped")
"""Of the totals, what skipped steps count in too."""

_ALWAYS = np.array([name in _EVERY_STEP for name in TOTALS])
_SKIPPED = _FIELDS.index("skipped")

_ABSENT = -1.0
"""In the place of the norm of a variable without a gradient."""


class Memory:
    """Variables for the state of the thresholds, the last report, totals over steps, and losses.

    Args:
        optimizer: which the variables belong to; they come behind its own.
        plan: what is done in each step.
        slots: of all its variables.
        loss: whether a threshold looks at the loss.
        of: what comes before the names of the variables, where it is not about gradients.

    Attributes:
        skip: 1 while the step that is being made is left out, else 0.
        variables: all of them.
    """

    def __init__(
        self, optimizer: Any, plan: Plan, slots: Sequence[Slot], *, loss: bool, of: str = ""
    ) -> None:
        self._plan, self._slots = plan, slots
        numbers = arithmetic_of([])
        self._wide = keras.backend.standardize_dtype(arithmetic_of([backend().like()]).xp.float_dtype)
        blank = blank_report(plan, numbers, (), complete=True)
        self._form = _hollow(blank)
        self._layout = init_state(plan, numbers.xp)
        self.variables: list[Any] = []

        def add(name: str, value: Any, aggregation: str = "only_first_replica") -> Any:
            value = np.asarray(value)
            kind = self._wide if value.dtype.kind == "f" else "int32"

            def initial(shape: Any, dtype: Any = None) -> Any:
                return keras.ops.convert_to_tensor(value.astype(kind), dtype=dtype)

            variable = optimizer.add_variable(
                shape=value.shape,
                initializer=initial,
                dtype=kind,
                aggregation=aggregation,
                name=f"clipwise_{of}{name}",
            )
            self.variables.append(variable)
            return variable

        # What has no entries needs no variable, and TensorFlow cannot send it to other workers.
        self._state = [
            add(f"state_{i}", leaf) if np.size(leaf) else None
            for i, leaf in enumerate(tree.flatten(self._layout))
        ]
        self._report = add("report", self._encoded(numbers, blank))
        self._norms = add("norms", np.full(len(slots), _ABSENT))
        self._totals = add("totals", np.zeros((2, len(TOTALS))))
        self._loss = add("loss", np.zeros(2)) if loss else None
        self.skip = add("skip", np.zeros(()))

    # The thresholds.

    def state(self) -> ClipState:
        """The state as it is now."""
        # Snapshots: a policy may hand on what it was given as another part of the state.
        variables = iter(self._state)

        def value(leaf: Array) -> Array:
            variable = next(variables)
            if variable is not None:
                return backend().snapshot(variable)
            kind = self._wide if np.asarray(leaf).dtype.kind == "f" else "int32"
            return keras.ops.zeros(np.shape(leaf), dtype=kind)

        found: ClipState = map_state(value, self._layout)
        return found

    def remember(
        self, arithmetic: Arithmetic, state: ClipState, report: ClipReport, present: Sequence[int]
    ) -> None:
        """Keep the state after a step, and its report; ``present``: the slots that had a gradient."""
        variables = iter(self._state)

        def keep(leaf: Array) -> None:
            variable = next(variables)
            if variable is not None:
                variable.assign(leaf)

        map_state(keep, state)
        encoded = self._encoded(arithmetic, report)
        self._form = _hollow(report)
        self._report.assign(encoded)
        self._norms.assign(self._spread(arithmetic, report.tensor_norms, present))
        self._totals.assign(self._added(arithmetic, encoded))
        self.skip.assign(encoded[_SKIPPED])
        if self._loss is not None:  # the mean stays, for a step of which no loss is given
            self._loss.assign(
                keras.ops.multiply(backend().read(self._loss), np.asarray([1.0, 0.0], self._wide))
            )

    # The losses since the last step: their mean, and how many.

    def hear(self, loss: Array) -> None:
        """Take a loss into the mean of those since the last step."""
        if self._loss is None:
            return
        ops = keras.ops
        mean, count = ops.unstack(backend().read(self._loss), 2)
        loss = ops.mean(ops.cast(ops.stop_gradient(ops.convert_to_tensor(loss)), self._wide))
        mean = ops.where(count > 0, (mean * count + loss) / (count + 1), loss)
        self._loss.assign(ops.stack([mean, count + 1]))

    def loss(self) -> Array | None:
        """The mean of the losses since the last step; where there was none, of those before it."""
        return None if self._loss is None else backend().read(self._loss)[0]

    # The report.

    def report(self) -> ClipReport:
        """The report of the last step, as arrays of its own; a blank one before the first."""
        vector = backend().snapshot(self._report)
        norms = keras.ops.convert_to_numpy(backend().read(self._norms))
        present = [i for i, norm in enumerate(norms) if not norm < 0]
        return self._decoded(
            iter([vector[place] for place in range(vector.shape[0])]),
            self._form,
            names=tuple(self._slots[i].name for i in present),
            tensor_norms=np.asarray(norms[present], dtype=np.float64),
        )

    def totals(self) -> np.ndarray[Any, Any]:
        """Two rows of `TOTALS`: sums over the steps since they were cleared, and the numbers of terms."""
        found: np.ndarray[Any, Any] = np.array(
            keras.ops.convert_to_numpy(backend().read(self._totals)), np.float64
        )
        return found

    def clear_totals(self) -> None:
        """Begin the totals anew."""
        self._totals.assign(np.zeros(self._totals.shape))

    def _encoded(self, arithmetic: Arithmetic, report: ClipReport) -> Array:
        """A report and its parts as one vector."""
        xp = arithmetic.xp
        values: list[Array] = []

        def add(report: ClipReport) -> None:
            for field in _FIELDS:
                value = getattr(report, field)
                value = xp.full((), xp.nan) if value is None else xp.asarray(value)
                values.append(xp.astype(value, xp.float_dtype))
            values.extend(xp.astype(xp.asarray(share), xp.float_dtype) for share in report.held.values())
            for part in report.parts.values():
                add(part)

        add(report)
        return xp.stack(values)

    def _decoded(self, numbers: Iterator[Array], form: ClipReport, **more: Any) -> ClipReport:
        values: dict[str, Any] = {name: next(numbers) for name in _FIELDS}
        for flag in ("clipped", "skipped"):
            values[flag] = values[flag] > 0
        if form.direction is None:
            values["direction"] = None
        held = {reason: next(numbers) for reason in form.held}
        parts = {key: self._decoded(numbers, part) for key, part in form.parts.items()}
        return ClipReport(**values, parts=parts, held=held, **more)

    def _spread(self, arithmetic: Arithmetic, norms: Array, present: Sequence[int]) -> Array:
        """The norms by slot."""
        if len(present) == len(self._slots):
            return norms
        xp = arithmetic.xp
        values = [xp.full((), _ABSENT)] * len(self._slots)
        for i, place in enumerate(present):
            values[place] = norms[i]
        return xp.stack(values)

    def _added(self, arithmetic: Arithmetic, encoded: Array) -> Array:
        """The totals with one more step in them."""
        xp = arithmetic.xp
        # All at once: every operation costs as much as a small gradient.
        skipped = encoded[_SKIPPED : _SKIPPED + 1]
        values = xp.concat([encoded[: len(METRICS)], skipped])
        counted = xp.isfinite(values) & (xp.asarray(_ALWAYS) | (skipped == 0.0))
        sums = xp.where(counted, values, xp.zeros_like(values))
        return backend().read(self._totals) + xp.stack([sums, xp.astype(counted, xp.float_dtype)])


def _hollow(report: ClipReport) -> ClipReport:
    """The form of a report, without its arrays, which may be those of a trace."""
    return ClipReport(
        norm=0.0,
        norm_after=0.0,
        threshold=0.0,
        clipped=False,
        clip_fraction=0.0,
        direction=None if report.direction is None else 0.0,
        parts={key: _hollow(part) for key, part in report.parts.items()},
        held=dict.fromkeys(report.held, 0.0),
    )
