"""The number of CPU threads of a run."""

import torch

from clipwise.lab.config.lab_config import LabConfig

__all__ = ["threads"]

SMALL = 256
"""Width up to which a recurrent step is too little work for two threads: on an idle machine they gain a
tenth, and where another program wants the cores, waiting for each other costs a factor of up to a hundred."""


def threads(config: LabConfig) -> int:
    """The number of CPU threads of each process of a run.

    One for a recurrent model up to width 256; otherwise torch's current number, divided by the devices.
    """
    if config.model_type != "Transformer" and config.model_parameters.hidden_size <= SMALL:
        return 1
    return max(1, torch.get_num_threads() // config.devices)
