"""Hooks in Keras after the script has imported it: `fit` is recorded, `save` writes what it always writes."""

import functools
import threading
from typing import Any

import keras

from . import clipwise_module, say  # it has another name here

_fits: list[Any] = []
_inside = threading.local()


def begin() -> None:
    """Install the hooks; clipwise itself is loaded by the first training."""
    for name in ("fit", "train_on_batch"):
        setattr(keras.Model, name, _training(getattr(keras.Model, name), name))
    keras.Model.save = _saving(keras.Model.save)
    for module in (keras.saving, keras.models):
        module.save_model = _saving(module.save_model)


def _training(function: Any, name: str) -> Any:
    @functools.wraps(function)
    def training(model: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(_inside, "fit", False) or _loaded() is None:
            return function(model, *args, **kwargs)
        _inside.fit = True
        try:
            if name == "fit":
                args, kwargs = _loaded().fit(model, function, args, kwargs)
                return function(model, *args, **kwargs)
            attached = _loaded().attach(model)
            result = function(model, *args, **kwargs)
            if attached:
                _loaded().batch(model, result)
            return result
        finally:
            _inside.fit = False

    return training


def _saving(function: Any) -> Any:
    @functools.wraps(function)
    def saving(model: Any, *args: Any, **kwargs: Any) -> Any:
        if not _fits or _fits[0] is None:
            return function(model, *args, **kwargs)
        with _fits[0].saved(model):
            return function(model, *args, **kwargs)

    return saving


def _loaded() -> Any:
    if not _fits:
        try:
            _fits.append(clipwise_module("monitor.observe.fits").Fits(say))
        except Exception as error:  # whatever it is, the script is to run
            _fits.append(None)
            say(f"Keras is not recorded: {type(error).__name__}: {error}")
    return _fits[0]
