"""Decisions of rules that all processes of a training make at the same step."""

import sys
from typing import Any


class Consensus:
    """Makes the processes of ``torch.distributed`` agree; a single process agrees with itself.

    Every process must ask at every step, so rules that stop or skip need a monitor in each process.
    """

    def __init__(self) -> None:
        self._under_way: tuple[Any, Any] | None = None

    def any(self, said: bool) -> bool:
        """Whether any process says yes in this step; waits for all of them."""
        if _processes() == 1:
            return said
        flag, work = self._ask(said)
        work.wait()
        return bool(flag.item())

    def soon(self, said: bool) -> bool:
        """Whether any process said yes one step ago; all learn it in the same step, with little waiting."""
        if _processes() == 1:
            return said
        before, self._under_way = self._under_way, self._ask(said)
        if before is None:
            return False
        flag, work = before
        work.wait()
        return bool(flag.item())

    def _ask(self, said: bool) -> tuple[Any, Any]:
        import torch
        from torch import distributed

        on_cpu = "gloo" in str(distributed.get_backend_config()) or distributed.get_backend() == "mpi"
        device = "cpu" if on_cpu else torch.accelerator.current_accelerator() or "cpu"
        flag = torch.tensor(float(said), device=device)
        return flag, distributed.all_reduce(flag, op=distributed.ReduceOp.MAX, async_op=True)


def _processes() -> int:
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())
