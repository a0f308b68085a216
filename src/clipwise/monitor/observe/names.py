"""Names of an optimizer's parameters, from the modules that own them, which must be found first."""

import gc
import sys
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

WRAPPERS = frozenset(
    {
        "DataParallel",
        "DistributedDataParallel",
        "FullyShardedDataParallel",
        "OptimizedModule",
        "_FabricModule",
        "_FabricOptimizer",
    }
)
"""Modules that hold another one, whose names for its parameters say more."""


class Owners:
    """The modules that own an optimizer's parameters.

    Attributes:
        modules: by name; one, unless the optimizer updates several.
        title: name of the whole: that of the variable, the attribute or the class.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.title = "+".join(modules).replace("/", ".")

    @property
    def model(self) -> nn.Module | None:
        """The one module with all parameters; None if no module owns any."""
        if len(self.modules) == 1:
            return next(iter(self.modules.values()))
        if not self.modules:
            return None
        bundle = nn.Module()
        bundle._modules.update(self.modules)  # add_module refuses names that a module has a use for
        return bundle

    def names(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """The optimizer's parameters, each once; those of no module by their place in it."""
        known: dict[int, str] = {}
        for title, module in self.modules.items():
            prefix = f"{title}." if len(self.modules) > 1 else ""
            for name, parameter in module.named_parameters():
                known.setdefault(id(parameter), prefix + name)
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for number, group in enumerate(optimizer.param_groups):
            own = group.get("param_names") or ()
            for place, parameter in enumerate(group["params"]):
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                unnamed = own[place] if place < len(own) else f"group{number}.{place}"
                name = known.get(id(parameter), unnamed)
                found[name if name not in found else f"group{number}.{place}"] = parameter
        return found


def owners(optimizer: Optimizer) -> Owners:
    """The fewest and smallest modules that contain all of an optimizer's parameters.

    Of several modules with the same parameters the outermost one is used, since its names are the longest,
    unless it only wraps another one.
    """
    wanted = {id(p) for group in optimizer.param_groups for p in group["params"]}
    every = [module for module in _alive(nn.Module) if type(module).__name__ not in WRAPPERS]
    owned = [(module, ids) for module in every if (ids := _ids(module)) & wanted]
    found: list[nn.Module] = []
    left = set(wanted)
    while left:
        best = max(
            owned, key=lambda one: (len(one[1] & left), -len(one[1] - wanted), _size(one[0])), default=None
        )
        if best is None or not best[1] & left:
            break
        found.append(best[0])
        left -= best[1]
    named: dict[str, nn.Module] = {}
    for module in found:
        title = base = _title(module, every)
        number = 1
        while title in named:
            number += 1
            title = f"{base}{number}"
        named[title] = module
    return Owners(named)


def others(optimizer: Optimizer) -> list[Optimizer]:
    """Other existing optimizers that have parameters of their own."""
    return [one for one in _alive(Optimizer) if one is not optimizer and not is_shared(one, optimizer)]


def is_shared(one: Optimizer, other: Optimizer) -> bool:
    """Whether two optimizers have a parameter in common, as a wrapper and its inner one; or one has none."""
    first, second = ({id(p) for group in o.param_groups for p in group["params"]} for o in (one, other))
    return not first or not second or not first.isdisjoint(second)


def _alive(kind: type) -> list[Any]:
    # By its type: asking an object for its class may wake up what was to be loaded later.
    return [found for found in gc.get_objects() if issubclass(type(found), kind)]


def _ids(module: nn.Module) -> set[int]:
    try:
        return {id(p) for p in module.parameters()}
    except Exception:  # a module that is half made, or of a kind of its own
        return set()


def _size(module: nn.Module) -> int:
    return sum(1 for _ in module.modules())


def _title(module: nn.Module, every: Iterable[nn.Module]) -> str:
    """The script's variable, the attribute of the module that holds it, or its class."""
    script = sys.modules.get("__main__")
    for name, value in list(vars(script).items()) if script is not None else ():
        if not name.startswith("_") and _unwrapped(value) is module:
            return name
    for parent in every:
        for name, child in getattr(parent, "_modules", {}).items():
            if child is module:
                return str(name)
    return type(module).__name__


def _unwrapped(value: Any) -> Any:
    while type(value).__name__ in WRAPPERS:
        inner = vars(value).get("_modules", {})
        value = next(
            (inner[name] for name in ("module", "_orig_mod", "_forward_module") if name in inner), None
        )
    return value
