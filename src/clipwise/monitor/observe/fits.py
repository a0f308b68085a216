"""Records Keras' ``fit`` and ``train_on_batch``, with a clip that only measures or that of ``--clip``."""

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from clipwise import config
from clipwise.clip import clip_by_global_norm
from clipwise.errors import ArgumentError
from clipwise.keras.attach import attach, clipping_of, is_clipped, unclipped
from clipwise.monitor.observe.recording import monitor_here
from clipwise.monitor.observe.settings import Settings


class Fits:
    """Acts before a training begins. An error here does not end the training.

    Args:
        say: called with a sentence that the user should know.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._settings = Settings.here()
        self._clip = None if self._settings.clip is None else config.parse(self._settings.clip)
        self._names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._given: list[str] = []
        self._naming = threading.Lock()

    def _name(self, model: Any) -> str:
        """Whose the values of a model are: "" of the first, its own name of every further one."""
        with self._naming:
            if model not in self._names:
                title = str(getattr(model, "name", "") or type(model).__name__)
                name = title if title not in self._given else f"model{len(self._given) + 1}"
                if not self._given:
                    monitor_here(self._settings).name_unnamed(title)
                self._names[model] = name if self._given else ""
                self._given.append(name)
            return self._names[model]

    def fit(self, model: Any, function: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of ``fit``, with a callback that records."""
        try:
            if not self.attach(model):
                return args, kwargs
            bound = inspect.signature(function).bind(model, *args, **kwargs)
            given = bound.arguments.get("callbacks")
            ours = monitor_here(self._settings).callback(self._name(model))
            if given is not None and hasattr(given, "append") and not isinstance(given, list):
                # Keras' own list of callbacks
                given.append(ours)
                return args, kwargs
            listed = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
            bound.arguments["callbacks"] = [*listed, ours]
            return bound.args[1:], bound.kwargs
        except Exception as error:
            self._failed(error)
            return args, kwargs

    def attach(self, model: Any) -> bool:
        """Attach to the optimizer of a model so that it is measured; returns whether that was possible."""
        optimizer = getattr(model, "optimizer", None)
        if optimizer is None:
            return False
        try:
            if is_clipped(optimizer):
                return True
            attach(
                optimizer,
                clip_by_global_norm(float("inf")) if self._clip is None else self._clip,
                model=model,
                nonfinite="propagate" if self._clip is None else "skip",
            )
        except Exception as error:
            self._failed(error)
            return False
        return True

    def batch(self, model: Any, result: Any) -> None:
        """Record what ``train_on_batch`` did."""
        try:
            monitor = monitor_here(self._settings)
            monitor.describe(clipping_of(model.optimizer).clip)
            name = self._name(model)
            step = monitor.steps_of(name) + 1
            loss = result.get("loss") if isinstance(result, dict) else result
            loss = loss[0] if isinstance(loss, list | tuple) else loss
            loss = None if loss is None else float(loss)
            monitor.take(clipping_of(model.optimizer).report(), step=step, name=name, loss=loss)
        except Exception as error:
            self._failed(error)

    @contextmanager
    def saved(self, model: Any) -> Iterator[None]:
        """A context in which the optimizer is the script's own, so that saved files load without clipwise."""
        optimizer = getattr(model, "optimizer", None)
        with ExitStack() as meanwhile:
            try:
                if optimizer is not None and is_clipped(optimizer):
                    meanwhile.enter_context(unclipped(optimizer))
            except Exception as error:
                self._failed(error)
            yield

    def _failed(self, error: Exception) -> None:
        what = str(error) if isinstance(error, ArgumentError) else f"{type(error).__name__}: {error}"
        self._say(f"this Keras model is not recorded, and the training goes on: {what}")
