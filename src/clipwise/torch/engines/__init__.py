"""The arithmetic behind `clipwise.torch`: norms, scaling, clamping. One engine a file, one set of names.

| engine | for |
|---|---|
| ``native`` | the CPU: C over a table of pointers, if the extension module was built |
| ``triton`` | CUDA: the same in Triton, if it is installed |
| ``foreach`` | every other device: torch's operations on lists of tensors |
| ``reference`` | whatever the others do not take: torch's operations on one tensor after the other |

The environment variable ``CLIPWISE_ENGINE`` names one that is used wherever it can be.
"""

from clipwise.torch.engines._arrays import array_on, tensor_of
from clipwise.torch.engines.choice import AnyBatch, engine, gather, make_batch, refuse_unknown_engine

__all__ = ["AnyBatch", "array_on", "engine", "gather", "make_batch", "refuse_unknown_engine", "tensor_of"]
