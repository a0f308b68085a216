"""Bounds around the activations of an existing model, with counts of how often they are reached."""

import copy
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clipwise.errors import ArgumentError, ParameterError, StateError, did_you_mean
from clipwise.torch.activations._counting import Bounding, Saturation, says_bounds
from clipwise.torch.activations.modules import ClippedReLU

__all__ = ["Activation", "ClippedActivations", "Saturation", "clip_activations"]

Activation: TypeAlias = nn.Module | Callable[[Tensor], Tensor] | float | None
"""A module, a function, a bound for `ClippedReLU`, or None to watch what is there."""


class ClippedActivations:
    """The hooks of `clip_activations` and their counts. As a context manager it removes the hooks at the end.

    Attributes:
        names: names of the wrapped modules.
    """

    def __init__(self, wrapped: Mapping[str, tuple[nn.Module, Any]], device: torch.device) -> None:
        self.names = tuple(wrapped)
        self._bounding = {name: Bounding(name, act, device) for name, (_, act) in wrapped.items()}
        self._hooks: list[RemovableHandle] = [
            module.register_forward_hook(self._bounding[name]) for name, (module, _) in wrapped.items()
        ]

    def __getstate__(self) -> dict[str, Any]:
        """A handle of a module that has gone can be neither copied nor pickled, and takes nothing off."""
        there = [hook for hook in self._hooks if hook.hooks_dict_ref() is not None]
        return vars(self) | {"_hooks": there}

    def report(self) -> dict[str, Saturation]:
        """The shares of entries at each bound since the start or the last `reset`, by module name.

        Reading the counts needs a host-device sync. A module that was not called has shares of 0, out of 0
        entries.
        """
        return {name: each.saturation() for name, each in self._bounding.items()}

    def reset(self) -> None:
        """Set all counts to 0."""
        for each in self._bounding.values():
            each.counts.zero_()

    def modules(self) -> dict[str, nn.Module]:
        """The modules that apply the bounds, by the name of the module they wrap; each is a copy."""
        acts = {name: each.act for name, each in self._bounding.items()}
        return {name: act for name, act in acts.items() if isinstance(act, nn.Module)}

    def parameters(self) -> Iterator[nn.Parameter]:
        """The learned bounds, for the optimizer. They are not among the parameters of the model."""
        for act in self.modules().values():
            yield from act.parameters()

    def state_dict(self) -> dict[str, Any]:
        """The learned bounds by module name, to be saved beside the model's state."""
        acts = self.modules().items()
        return {f"{name}.{key}": value for name, act in acts for key, value in act.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the bounds that `state_dict` returned.

        Raises:
            StateError: the state is for other modules or has other shapes. Nothing was loaded.
        """
        mine = self.state_dict()
        for key in sorted(mine.keys() ^ state.keys()):
            what = "is missing" if key in mine else "belongs to no module that is wrapped here"
            raise StateError(f"the state of the bounds does not fit: {key!r} {what}")
        for key in mine:
            found, expected = (getattr(one[key], "shape", None) for one in (state, mine))
            if found != expected:
                found, expected = (shape and tuple(shape) for shape in (found, expected))
                raise StateError(f"{key!r} is of shape {found} and not {expected}")
        for name, act in self.modules().items():
            act.load_state_dict({key: state[f"{name}.{key}"] for key in act.state_dict()})

    def remove(self) -> None:
        """Remove the hooks. The report remains available."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __str__(self) -> str:
        width = max(map(len, self.names))
        lines = [f"{'activation':<{width}}  at low  at high      entries"]
        for name, found in self.report().items():
            lines.append(f"{name:<{width}}  {found.low:6.2%}  {found.high:7.2%}  {found.entries:11,}")
        return "\n".join(lines)


def clip_activations(model: nn.Module, activations: Mapping[str, Activation]) -> ClippedActivations:
    """Bound the outputs of some modules of a model, and count how often each bound is reached.

    ``y = activation(module(x))``, by a forward hook, until ``remove()`` is called or the ``with`` block ends.
    The counts stay on the device: only ``report()`` needs a host-device sync.

    For a module with ``bounds`` (those of `clipwise.torch`, `torch.nn.ReLU6`, `torch.nn.Hardtanh`) the
    entries at or beyond each bound are counted. For any other function, the entries that it raised and those
    that it lowered are counted.

    Learned bounds belong to the returned object, not to the model: pass its ``parameters()`` to the optimizer
    and save its ``state_dict()``. They follow ``model.train()`` and ``model.eval()``. Call this function when
    the model is on its device and before its first compiled call, since torch.compile keeps the hooks that it
    saw (or call ``torch.compiler.reset()`` afterwards). A copy of the model gets its own bounds and counts.

    Args:
        model: a module. Hooks are added to its submodules; nothing else is changed. Activations that it calls
            as functions, such as `torch.nn.functional.relu`, are not modules and are not seen.
        activations: maps shell patterns of module names to activations; the first matching pattern wins. A
            pattern with a wildcard matches only modules without children; a full name matches any module. A
            value is a module (copied for each match, so that each match learns its own bound), a function, a
            number (the bound of a `ClippedReLU`), or None (only count, at the bounds of the model's own
            module).

    Raises:
        ParameterError: a pattern matches no module.
        ArgumentError: a value is not an activation, or is None for a module without known bounds. When the
            model is called: a module does not return a tensor, an activation changes its shape, or a function
            changes it in place.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.ReLU6())
    >>> with clip_activations(model, {"1": 1.0, "2": None}) as clipped:
    ...     top = model(torch.full((1, 2), 100.0)).max()
    >>> bool(top <= 1.0), clipped.names, clipped.report()["2"].entries
    (True, ('1', '2'), 2)
    """
    if not isinstance(activations, Mapping) or not activations:
        raise ArgumentError(f"activations must map patterns of names to activations, got {activations!r}")
    made = {pattern: _as_activation(pattern, given) for pattern, given in activations.items()}
    found: dict[int, tuple[str, nn.Module, Any]] = {}
    matched = set()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for name, module in model.named_modules(remove_duplicate=False):
        leaf = not any(True for _ in module.children())
        pattern = next((p for p in made if name and (p == name or (leaf and fnmatchcase(name, p)))), None)
        if pattern is None:
            continue
        matched.add(pattern)
        if id(module) not in found:  # one that is used twice is wrapped once
            act = made[pattern]
            if act is None and says_bounds(module) is None:
                raise ArgumentError(
                    f"{name} is a {type(module).__name__}, which has no bounds: give one with bounds"
                )
            own = copy.deepcopy(act).to(device) if isinstance(act, nn.Module) else act
            found[id(module)] = (name, module, own)
    for pattern in made:
        if pattern not in matched:
            names = [name for name, _ in model.named_modules() if name]
            shadowed = " before another pattern does" if matched else ""
            raise ParameterError(f"{pattern!r} matches no module{shadowed}. {did_you_mean(pattern, names)}")
    return ClippedActivations({name: (module, act) for name, module, act in found.values()}, device)


def _as_activation(pattern: str, given: Activation) -> Any:
    if isinstance(given, bool) or not (given is None or callable(given) or isinstance(given, int | float)):
        raise ArgumentError(
            f"{pattern!r}: expected a module, a function, a bound above 0 or None, got {given!r}"
        )
    return ClippedReLU(given) if isinstance(given, int | float) else given
