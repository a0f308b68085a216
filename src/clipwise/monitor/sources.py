"""Steps outside of PyTorch: from the state of an optax optimizer, and in Keras' ``fit``."""

from typing import Any

from clipwise.errors import TrainingStopped
from clipwise.monitor._adam import of_keras
from clipwise.monitor._warning import say


def report_in(state: Any) -> Any:
    """The last report in the state of an optax optimizer, as a copy.

    A copy is needed because a compiled step may donate the state, and its memory would be reused.

    Raises:
        StateError: the state holds no report.
    """
    from clipwise.jax.reports import packed_report

    return packed_report(state)


def keras_callback(monitor: Any, name: str = "") -> Any:
    """A callback that records the steps of the model's optimizer and the logs of ``fit``."""
    import keras

    from clipwise.keras.attach import clipping_of, counts

    class Recording(keras.callbacks.Callback):  # type: ignore[misc]
        """Steps at the end of each batch; losses as Keras has them, means over the epoch so far."""

        def __reduce__(self) -> Any:
            raise TypeError(
                "what monitor.callback() gives writes into the file of a Monitor in this process, so it is"
                " neither pickled nor copied deeply: call monitor.callback() where it is needed"
            )

        def __copy__(self) -> Any:
            return keras_callback(monitor, name)

        def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
            monitor.describe(clipping_of(self.model.optimizer).clip)
            self._seen, self._is_fresh = self._counts(), True
            self._step = max(monitor.steps_of(name), self._iterations())

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            seen = self._counts()
            if seen == self._seen:
                return
            self._seen = seen
            try:
                self._step += 1
                if self._is_fresh:
                    self._is_fresh = False
                    monitor._intake.know_adam(self._step, name, of_keras(self.model.optimizer))
                monitor.record(clipping_of(self.model.optimizer).report(), step=self._step, name=name)
            except TrainingStopped as stop:
                self.model.stop_training = True
                say(f"a rule stopped the training: {stop}")
            self._log(logs)

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self._log({name: value for name, value in (logs or {}).items() if name.startswith("val_")})

        def _counts(self) -> tuple[float, ...]:
            """What changes with each step: one that is left out is no iteration, a micro-batch is no step."""
            return (self._iterations(), *counts(self.model.optimizer))

        def _iterations(self) -> int:  # on JAX, asking the model brings the variables up
            return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

        def _log(self, logs: dict[str, Any] | None) -> None:
            values = {n: float(v) for n, v in (logs or {}).items() if not n.startswith("clipwise/")}
            if values:  # a metric may have a name that `log` gives something else
                taken = ("step", "name", "time")
                monitor.log(
                    step=self._step,
                    name=name,
                    **{f"{n} (2)" if n in taken else n: v for n, v in values.items()},
                )

    return Recording()
