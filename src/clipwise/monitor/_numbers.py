"""Numbers of any framework's arrays as floats of the host: here it waits for the device."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipwise.monitor.store import Floats


def floats(values: Sequence[Any]) -> Floats:
    """0-d arrays, of any framework and device, and Python's numbers as one vector.

    PyTorch's tensors on a device are brought together there, and come over in one transfer.
    """
    found = np.empty(len(values), dtype=np.float64)
    torch = sys.modules.get("torch")
    away: dict[Any, list[int]] = {}
    for place, value in enumerate(values):
        if torch is not None and isinstance(value, torch.Tensor):
            if value.device.type == "cpu":
                found[place] = value.item()
            else:
                away.setdefault(value.device, []).append(place)
        else:
            found[place] = np.asarray(value).reshape(())
    for device, places in away.items():
        wide = torch.float32 if device.type == "mps" else torch.float64  # type: ignore[union-attr]
        rows = [values[place].detach().reshape(()).to(wide) for place in places]
        found[places] = torch.stack(rows).cpu().numpy()  # type: ignore[union-attr]
    return found


def vector(values: Any) -> Floats:
    """A vector of any framework and device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values, dtype=np.float64)
