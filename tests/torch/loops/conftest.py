"""Fused optimizers are given the coefficient here however small the model, so that the loops prove it."""

import pytest

from clipwise.torch import _measure


@pytest.fixture(autouse=True)
def fold_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "FOLDS_FROM", 0)
