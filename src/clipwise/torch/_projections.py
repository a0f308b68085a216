"""The weights behind the queries and the keys of one attention module, head by head."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clipwise.checks import whole
from clipwise.errors import ArgumentError
from clipwise.torch._placements import is_sharded, local, row_index


class Rows(NamedTuple):
    """The rows of a parameter that make the queries, or the keys, of all heads.

    Attributes:
        parameter: to be written to, perhaps spread over ranks.
        start, length: the first of them, and how many they are.
    """

    parameter: Tensor
    start: int
    length: int

    def scale_(self, factors: Tensor) -> None:
        """Multiply the rows of each head with its factor, in place; a factor of 1 changes no bit."""
        if not is_sharded(self.parameter):
            self._multiply_(self.here().unflatten(0, (len(factors), -1)), factors)
            return
        index = row_index(self.parameter) - self.start
        inside = (index >= 0) & (index < self.length)
        head = torch.where(inside, index // (self.length // len(factors)), len(factors))
        every = torch.cat([factors, factors.new_ones(1)])
        self._multiply_(local(self.parameter), every[head.to(every.device)])

    def here(self) -> Tensor:
        """A view of them.

        Raises:
            ArgumentError: they lie on several ranks.
        """
        if is_sharded(self.parameter):
            raise ArgumentError(
                "these projections are spread over ranks (DTensor), so inputs cannot be projected with them"
                " here: observe q and k, or inputs, in the forward pass"
            )
        return self.parameter[self.start : self.start + self.length]

    @staticmethod
    def _multiply_(part: Tensor, factors: Tensor) -> None:
        part.mul_(factors.to(part.device).reshape(-1, *[1] * (part.ndim - 1)))


class Projections:
    """Two linear modules, or the `torch.nn.MultiheadAttention` that has both.

    Attributes:
        heads, kv_heads: how many heads the queries and the keys have.
        module: the MultiheadAttention; None for two linear modules.
    """

    def __init__(self, q_proj: Any, k_proj: Any, heads: Any, kv_heads: Any) -> None:
        self.module: Any = None
        if isinstance(q_proj, nn.MultiheadAttention):
            if k_proj is not None or heads not in (None, q_proj.num_heads) or kv_heads is not None:
                raise ArgumentError(
                    "a MultiheadAttention says its projections and heads itself: give it alone"
                )
            if q_proj.bias_k is not None or q_proj.add_zero_attn:
                raise ArgumentError(
                    "add_bias_kv and add_zero_attn are not supported: they add keys of their own"
                )
            self.module = q_proj
            heads = q_proj.num_heads
        else:
            _refuse_other_modules(q_proj, k_proj)
        whole("heads", heads, allowed="a whole number above 0")
        self._both = q_proj, k_proj
        self._spread = False
        self.heads, self.kv_heads = heads, heads if kv_heads is None else kv_heads

    def rows_to_scale(self) -> tuple[list[Rows], list[Rows]]:
        """As `rows`.

        Raises:
            ArgumentError: as there; or these are copies, for a forward pass, of weights that lie on several
                ranks.
        """
        found = self.rows()
        if self._spread and not is_sharded(found[0][0].parameter):
            raise ArgumentError(
                "the projections are still gathered from a forward pass, and a change now would be lost: call"
                " reshard() of the module that was given to fully_shard first"
            )
        return found

    def rows(self) -> tuple[list[Rows], list[Rows]]:
        """What makes the queries and what makes the keys: the weight and, where there is one, the bias.

        Raises:
            ArgumentError: they are no parameters.
        """
        found = self._rows()
        self._spread = self._spread or is_sharded(found[0][0].parameter)
        return found

    def _rows(self) -> tuple[list[Rows], list[Rows]]:
        module = self.module
        if module is None:
            found = [
                [_all_of(proj, name) for name in ("weight", "bias") if getattr(proj, name) is not None]
                for proj in self._both
            ]
            return found[0], found[1]
        size = module.embed_dim
        if module.in_proj_weight is not None:
            weight = _of(module, "in_proj_weight")
            weights = [Rows(weight, 0, size), Rows(weight, size, size)]
        else:
            weights = [_all_of(module, "q_proj_weight"), _all_of(module, "k_proj_weight")]
        if module.in_proj_bias is None:
            return weights[:1], weights[1:]
        bias = _of(module, "in_proj_bias")
        return [weights[0], Rows(bias, 0, size)], [weights[1], Rows(bias, size, size)]


def _all_of(module: nn.Module, name: str) -> Rows:
    parameter = _of(module, name)
    return Rows(parameter, 0, parameter.shape[0])


def _of(module: nn.Module, name: str) -> Tensor:
    """A parameter of a module, to be written to."""
    found = getattr(module, name)
    if not isinstance(found, nn.Parameter):  # scaled in vain: the next pass makes it anew
        raise ArgumentError(
            f"{name} of {type(module).__name__} is not a parameter: QKClip cannot scale weights that are "
            "parametrized, as by weight_norm or spectral_norm"
        )
    return found.detach()


def _refuse_other_modules(q_proj: Any, k_proj: Any) -> None:
    for name, proj in (("q_proj", q_proj), ("k_proj", k_proj)):
        if not isinstance(proj, nn.Linear):
            raise ArgumentError(
                f"{name} must be a torch.nn.Linear, or q_proj alone a torch.nn.MultiheadAttention; "
                f"got {type(proj).__name__}"
            )
    if q_proj.weight is k_proj.weight:
        raise ArgumentError("q_proj and k_proj share one weight, which would be scaled twice")
