"""Arrays of any framework as floats on the host; needs a host-device sync."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipwise.monitor.store import Floats
from clipwise.namespace import framework_of, on_host


def floats(values: Sequence[Any]) -> Floats:
    """0-d arrays of any framework and device, and Python numbers, as one vector.

    PyTorch tensors on a device are gathered there and copied in one transfer.
    """
    found = np.empty(len(values), dtype=np.float64)
    away: dict[Any, list[int]] = {}
    for place, value in enumerate(values):
        if isinstance(value, float | int):
            found[place] = value
        elif framework_of(value) == "torch":
            if value.device.type == "cpu":
                found[place] = value.item()
            else:
                away.setdefault(value.device, []).append(place)
        else:
            found[place] = np.asarray(value).reshape(())
    for device, places in away.items():
        torch = sys.modules["torch"]
        wide = torch.float32 if device.type == "mps" else torch.float64
        rows = [values[place].detach().reshape(()).to(wide) for place in places]
        found[places] = torch.stack(rows).cpu().numpy()
    return found


def vector(values: Any) -> Floats:
    """A vector of any framework and device."""
    return np.asarray(on_host(values), dtype=np.float64)
