"""Weights that meet columns of numbers: their norms without any per-example gradient."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from clipwise.torch.per_example.rows import squared, unchanged, widened
from clipwise.torch.per_example.ties import Factors, product_squares
from clipwise.torch.per_example.uses import Use, Weight

__all__ = ["LinearUse", "MatrixUse", "bias_squares"]


class MatrixUse(Use):
    """A weight that meets columns of numbers: the gradient of an example is ``G^T A`` over T positions."""

    @abstractmethod
    def _factors(self, some: slice) -> tuple[Tensor, Tensor]:
        """What went in, and what came back: ``(examples, groups, T, in)``, ``(examples, groups, T, out)``."""

    def _matrix_squares(self, positions: int, ins: int, outs: int, groups: int, apart: int) -> Tensor:
        """Squared norms; arguments as for `product_squares`."""
        return product_squares(
            self._factors,
            self.size,
            self.gradient.device,
            positions=positions,
            ins=ins,
            outs=outs,
            groups=groups,
            apart=apart,
        )


class LinearUse(MatrixUse):
    """``y = x W^T + b``, or ``x W + b``.

    Args:
        x: ``(examples, ..., in)``; see ``time_first``.
        roles: which of weight and bias are tracked, by role: ``"weight"`` or ``"bias"``.
        transposed: the weight is (in, out).
        time_first: examples are along axis 1.
        flat: the first two axes are one, of so many positions an example.
    """

    def __init__(
        self,
        weights: Sequence[Weight],
        roles: Sequence[str],
        size: int,
        x: Tensor,
        *,
        transposed: bool = False,
        time_first: bool = False,
    ) -> None:
        super().__init__(weights, size)
        self.roles = roles
        self.transposed = transposed
        self.time_first = time_first
        self._x, self._version = x.detach(), x._version

    def release(self) -> None:
        super().release()
        del self._x

    def replace(self, places: Tensor) -> None:
        x, gradient = self._both()
        self._x, self._gradient, self.time_first = x[places], gradient[places], False
        self._version = self._x._version

    def _both(self) -> tuple[Tensor, Tensor]:
        """What went in and came back, ``(examples, T, ...)``."""
        unchanged(self._x, self._version)
        return self._arranged(self._x), self._arranged(self.gradient)

    def _arranged(self, tensor: Tensor) -> Tensor:
        if self.time_first:  # (T, examples, d), or the two first as one
            return tensor.reshape(-1, self.size, tensor.shape[-1]).transpose(0, 1)
        return tensor.reshape(self.size, -1, tensor.shape[-1])

    def _factors(self, some: slice) -> tuple[Tensor, Tensor]:
        x, gradient = self._both()
        return x[some, None], gradient[some, None]

    def factors(self, role: int, some: slice) -> Factors | None:
        if self.roles[role] == "bias":
            return None
        x, gradient = (one[some] for one in self._both())
        x = x.to(gradient.dtype)
        return Factors(x, gradient) if self.transposed else Factors(gradient, x)

    def squares(self, role: int) -> Tensor:
        x, gradient = self._both()
        if self.roles[role] == "bias":
            return bias_squares(gradient)
        return self._matrix_squares(x.shape[1], x.shape[2], gradient.shape[2], 1, 0)

    def examples(self, role: int, some: slice) -> Tensor:
        x, gradient = (one[some] for one in self._both())
        if self.roles[role] == "bias":
            return widened(gradient).sum(1)
        x = x.to(gradient.dtype)
        return x.mT @ gradient if self.transposed else gradient.mT @ x

    def total(self, role: int, factors: Tensor) -> Tensor:
        x, gradient = self._both()
        if self.roles[role] == "bias":
            return factors.to(widened(gradient[:0]).dtype) @ widened(gradient).sum(1)
        factors = factors.to(gradient.dtype).view(-1, 1, 1)
        x = x.to(gradient.dtype)
        if x.shape[2] < gradient.shape[2]:  # the smaller of the two is copied
            x = x * factors
        else:
            gradient = gradient * factors
        a, g = x.reshape(-1, x.shape[2]), gradient.reshape(-1, gradient.shape[2])
        return a.mT @ g if self.transposed else g.mT @ a


def bias_squares(gradient: Tensor) -> Tensor:
    """Of ``(examples, T, out)``."""
    return squared(widened(gradient).sum(1) if gradient.shape[1] > 1 else gradient)
