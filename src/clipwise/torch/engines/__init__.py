"""Engines: implementations of norms, scaling and clamping for `clipwise.torch`, one file each.

| engine | used for |
|---|---|
| ``native`` | the CPU: C code over a table of pointers, if the extension module was built |
| ``triton`` | CUDA: the same in Triton, if Triton is installed |
| ``foreach`` | other devices: torch's operations on lists of tensors |
| ``reference`` | tensors that the others do not support: torch's operations on one tensor at a time |

The environment variable ``CLIPWISE_ENGINE`` names one to use wherever it is possible.
"""

from clipwise.torch.engines._arrays import array_on, tensor_of
from clipwise.torch.engines.choice import AnyBatch, engine, gather, make_batch, refuse_unknown_engine

__all__ = ["AnyBatch", "array_on", "engine", "gather", "make_batch", "refuse_unknown_engine", "tensor_of"]
