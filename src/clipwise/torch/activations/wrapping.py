"""Bounds around the activations of a model that exists, and how often they are reached."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clipwise.errors import ArgumentError, ParameterError, did_you_mean
from clipwise.torch.activations.modules import ClippedReLU

__all__ = ["Activation", "ClippedActivations", "Saturation", "clip_activations"]

Activation: TypeAlias = nn.Module | Callable[[Tensor], Tensor] | float | None
"""A module, a function, a bound for `ClippedReLU`, or None to watch what is there."""


@dataclass(frozen=True)
class Saturation:
    """How often one activation was at its bounds.

    Attributes:
        low: share of the entries at or below the lower bound.
        high: share at or above the upper bound.
        entries: how many were seen.
    """

    low: float
    high: float
    entries: int


class ClippedActivations:
    """What `clip_activations` gives: the hooks, and their counts. A context manager that takes them off.

    Attributes:
        names: of the modules that are wrapped.
    """

    def __init__(self, wrapped: Mapping[str, tuple[nn.Module, Any]], device: torch.device) -> None:
        self.names = tuple(wrapped)
        self._acts = {name: act for name, (_, act) in wrapped.items()}
        self._counts = {name: torch.zeros(3, dtype=torch.int64, device=device) for name in wrapped}
        self._hooks: list[RemovableHandle] = [
            module.register_forward_hook(self._hook(name, module, act))
            for name, (module, act) in wrapped.items()
        ]

    def _hook(self, name: str, module: nn.Module, act: Any) -> Callable[[Any, Any, Any], Tensor | None]:
        def hook(_: nn.Module, arguments: Any, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor):
                raise ArgumentError(f"{name} gives {type(output).__name__} and not a tensor to clip")
            result = output if act is None else act(output)
            with torch.no_grad():
                self._count(name, module if act is None else act, output, result)
            return None if act is None else result

        return hook

    def _count(self, name: str, act: Any, before: Tensor, after: Tensor) -> None:
        bounds = _bounds(act)
        if bounds is None:  # a function: what it lifted, and what it cut
            low, high = after > before, after < before
        else:
            low, high = before <= bounds[0], before >= _along(bounds[1], before, act)
        if self._counts[name].device != before.device:
            self._counts[name] = self._counts[name].to(before.device)
        found = torch.stack([low.sum(), high.sum(), torch.full_like(low.sum(), before.numel())])
        self._counts[name].add_(found)

    def report(self) -> dict[str, Saturation]:
        """The shares since the beginning or the last `reset`, by name; this waits for the device.

        What was not called has shares of 0, of 0 entries.
        """
        found = {}
        for name, counts in self._counts.items():
            low, high, entries = counts.tolist()
            found[name] = Saturation(low / max(entries, 1), high / max(entries, 1), entries)
        return found

    def reset(self) -> None:
        """Count from here on."""
        for counts in self._counts.values():
            counts.zero_()

    def modules(self) -> dict[str, nn.Module]:
        """The modules that bound, by the name of what they wrap: each has a copy of its own."""
        return {name: act for name, act in self._acts.items() if isinstance(act, nn.Module)}

    def parameters(self) -> Iterator[nn.Parameter]:
        """The learned bounds, for the optimizer: the model does not know them."""
        for act in self.modules().values():
            yield from act.parameters()

    def remove(self) -> None:
        """Take the bounds off again. The report stays."""
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
    """Bound what some modules of a model give, and count how often each bound is reached.

    ``y = activation(module(x))``, by a forward hook, until ``remove()`` or the end of the ``with`` block. The
    counts stay on the device: nothing waits for it before ``report()``.

    A module of a bound (those of `clipwise.torch`, `torch.nn.ReLU6`, `torch.nn.Hardtanh`) counts the entries
    at its bounds and beyond; any other function those that it lifted and those that it cut.

    Args:
        model: hooks go onto its modules; nothing else of it changes. What it calls as a plain function, as
            it may `torch.nn.functional.relu`, is not a module and is not seen.
        activations: by shell patterns of module names, the first that matches wins. Patterns with a wildcard
            see modules without children only, a full name any module. A module is copied for each match, so
            that each learns its own bound; a number is the bound of a `ClippedReLU`; None only counts, at the
            bounds that the model's own module has.

    Raises:
        ParameterError: a pattern matches no module.
        ArgumentError: a value is nothing that bounds; None for a module whose bounds are not known; when the
            model is called: a module does not give one tensor.

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
            if act is None and _bounds(module) is None:
                raise ArgumentError(
                    f"{name} is a {type(module).__name__}, which says no bounds: give one that bounds it"
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


def _bounds(act: Any) -> tuple[Any, Any] | None:
    """Between what an activation bounds, where it is one that says so."""
    if isinstance(act, nn.Hardtanh):  # ReLU6 is one
        return act.min_val, act.max_val
    return getattr(act, "bounds", None)


def _along(bound: Any, x: Tensor, act: Any) -> Any:
    """A bound by channel in a shape that broadcasts."""
    if isinstance(bound, Tensor) and bound.ndim == 1:
        shape = [1] * x.ndim
        shape[act.axis] = -1
        return bound.detach().reshape(shape)
    return bound
