"""The parameters of a clipper laid out: their slots, the plan over them, where their gradients are found."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clipwise.clip import AnyClip
from clipwise.functional.layout import Layout
from clipwise.functional.plan import Plan, make_plan
from clipwise.functional.slots import Slot, UnitAxes
from clipwise.namespace import Namespace
from clipwise.torch._gradients import Gradients
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._process_groups import ProcessGroups
from clipwise.torch._replicas import LossOfReplicas
from clipwise.torch._sharded import ShardedTensors
from clipwise.torch._sharded_gradients import ShardedGradients
from clipwise.torch._sharding import Sharding, sharding_of
from clipwise.torch._slots import layout_of, slots_of
from clipwise.torch._sparse import refuse_complex_ranges
from clipwise.torch._state import PolicyState
from clipwise.torch._together import refuse_on_shards
from clipwise.torch.engines._arrays import namespace_on


class LaidOut:
    """What a clipper knows of its parameters before a step; they may come and go.

    Attributes:
        clip: what is done to their gradients.
        parameters: by name.
    """

    _source: type[Gradients] = Gradients
    _spread_source: type[ShardedGradients] = ShardedGradients

    clip: AnyClip
    parameters: dict[str, Tensor]
    _unit_axes: UnitAxes | None
    _process_groups: ProcessGroups | None
    _own_slots: tuple[Slot, ...]
    _slots: tuple[Slot, ...]
    _plan: Plan
    _state: PolicyState
    _sharding: Sharding | None
    _replicas: LossOfReplicas
    _gradients: Any
    _weight_layout: Layout | None
    _sees: frozenset[str]

    def _follow(self, kept: Mapping[str, Tensor], new: Mapping[str, Tensor], model: nn.Module | None) -> None:
        """Go on with these parameters: some of the old ones, and new ones, perhaps of a model."""
        known = {slot.name: slot for slot in self._own_slots}
        later = slots_of(new, model, self._unit_axes, later=True)
        self.parameters = {**kept, **new}
        self._lay_out((*(known[name] for name in kept), *later), later=True)
        self._state = self._state.carried(self._plan)

    def _marked(self, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
        """The slots with what is known of whose optimizer normalises its gradient."""
        return slots

    def _lay_out(self, slots: tuple[Slot, ...], *, later: bool = False) -> None:
        slots = self._marked(slots)
        self._own_slots = self._slots = slots
        self._sharding = sharding_of(self.parameters, slots, self._process_groups)
        self._replicas = LossOfReplicas(self.parameters.values())
        dtypes = {name: parameter.dtype for name, parameter in self.parameters.items()}
        if self._sharding is not None:
            self._slots = self._sharding.slots
            dtypes = {entry.slot.name: entry.dtype for entry in self._sharding.entries}
        self._plan = make_plan(self.clip, self._slots, later=later)
        refuse_complex_ranges(self._plan, dtypes)
        if self._sharding is None:
            self._gradients = self._source(self.parameters, slots)
        else:
            refuse_on_shards(self._plan, self._sharding)
            self._gradients = self._spread_source(self.parameters, self._sharding)
        self._weight_layout = None

    def _weights(self, xp: Namespace) -> MeasuredTensors | None:
        """The parameters, for thresholds that look at them."""
        if "weight_norm" not in self._sees:
            return None
        parameters = list(self.parameters.values())
        sharding, gradients = self._sharding, self._gradients
        if self._weight_layout is None or self._weight_layout.xp is not xp:
            whole = Layout(self._slots, xp)
            self._weight_layout = whole if sharding else layout_of(parameters, self._slots, xp)
        if sharding is not None:
            assert isinstance(gradients, ShardedGradients)
            held = gradients.weights()
            return ShardedTensors(held, self._weight_layout, sharding, range(len(held)))
        return MeasuredTensors(parameters, self._weight_layout)

    def _namespace(self) -> Namespace:
        return namespace_on(next((p.device for p in self.parameters.values()), torch.device("cpu")))
