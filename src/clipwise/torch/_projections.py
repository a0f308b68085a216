"""The weights behind the queries and the keys of one attention module, head by head."""

from typing import Any

from torch import Tensor, nn

from clipwise.checks import whole
from clipwise.errors import ArgumentError


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
        self.heads, self.kv_heads = heads, heads if kv_heads is None else kv_heads

    def rows(self) -> tuple[list[Tensor], list[Tensor]]:
        """What makes the queries and what makes the keys: the weight and, where there is one, the bias.

        Raises:
            ArgumentError: they are sharded, or no parameters.
        """
        module = self.module
        if module is None:
            found = [
                [_of(proj, name) for name in ("weight", "bias") if getattr(proj, name) is not None]
                for proj in self._both
            ]
            return found[0], found[1]
        both = slice(module.embed_dim), slice(module.embed_dim, 2 * module.embed_dim)
        if module.in_proj_weight is not None:
            weights = [_of(module, "in_proj_weight")[part] for part in both]
        else:
            weights = [_of(module, "q_proj_weight"), _of(module, "k_proj_weight")]
        if module.in_proj_bias is None:
            return weights[:1], weights[1:]
        q_bias, k_bias = (_of(module, "in_proj_bias")[part] for part in both)
        return [weights[0], q_bias], [weights[1], k_bias]


def _of(module: nn.Module, name: str) -> Tensor:
    """A parameter of a module, to be written to."""
    found = getattr(module, name)
    if hasattr(found, "full_tensor"):
        raise ArgumentError("QKClip needs whole projections, and these are sharded (DTensor)")
    if not isinstance(found, nn.Parameter):  # scaled in vain: the next pass makes it anew
        raise ArgumentError(
            f"{name} of {type(module).__name__} is no parameter: QKClip cannot scale what is parametrized, "
            "as by weight_norm or spectral_norm"
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
