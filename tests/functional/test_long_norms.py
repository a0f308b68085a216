"""Norms of long float32 gradients on PyTorch, which are measured row by row: against float64."""

import numpy as np
import pytest
import torch

from clipwise.functional.arithmetic.torch import LONG, ROW, TorchArithmetic


@pytest.mark.parametrize("scale", [1.0, 1e19, 1e-22, 3e38, 0.0, np.nan])
@pytest.mark.parametrize("length", [LONG - 1, LONG, 40 * ROW + 17])
def test_of_any_scale(scale, length):
    rng = np.random.default_rng(0)
    arrays = [np.full(length, 0.1), rng.uniform(-1, 1, length), np.linspace(1e-3, 1.0, length)]
    arrays = [(x * scale).astype(np.float32).reshape(1, -1) for x in arrays]
    wanted = [np.linalg.norm(x.astype(np.float64)) for x in arrays]
    tensors = [torch.from_numpy(x) for x in arrays]
    tensors[1] = torch.stack([tensors[1], tensors[0]], dim=-1)[..., 0]
    assert not tensors[1].is_contiguous()
    found = TorchArithmetic(tensors[0]).norms(tensors, 2.0)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, wanted, rtol=3e-7)


def test_what_one_coefficient_scales():
    arithmetic = TorchArithmetic(torch.zeros(1))
    arrays = [torch.full((2, 3), 3.0), torch.full((3,), 1e-40)]
    for factor in (0.5, 1.0):
        coefficient = torch.tensor(factor, dtype=torch.float64)
        found = arithmetic.chosen(arrays, [coefficient] * 2)
        assert all(torch.equal(one, array * factor) for one, array in zip(found, arrays, strict=True))
    assert found[0] is arrays[0]
