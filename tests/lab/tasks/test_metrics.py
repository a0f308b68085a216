"""Held-out figures against their definitions, written out."""

import itertools
import math

import numpy as np
import pytest

from clipwise.lab.tasks import metrics


def test_language() -> None:
    figures = metrics.language(2.0, 0.25)
    assert figures == {
        "bits": pytest.approx(2.885390081777927),
        "accuracy": 0.25,
        "loss": 2.0,
        "perplexity": pytest.approx(7.38905609893065),
    }
    assert metrics.language(1e6, 0.0)["perplexity"] == math.inf


def binary(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 200)
    logits = np.stack([np.zeros(200), rng.normal(labels - 1.5, 1.0)], axis=1)
    p = 1 / (1 + np.exp(-logits[:, 1]))
    return logits, labels, p


def test_two_classes_by_their_definitions() -> None:
    logits, labels, p = binary()
    figures = metrics.classification(logits, labels, 2, base_rate=0.3)
    called = p > 0.3
    hits = int((called & (labels == 1)).sum())
    assert figures["f1"] == pytest.approx(2 * hits / (called.sum() + labels.sum()))
    assert figures["accuracy"] == pytest.approx(((p > 0.5) == labels).mean())
    pairs = list(itertools.product(p[labels == 1], p[labels == 0]))
    assert figures["auc"] == pytest.approx(sum(a > b for a, b in pairs) / len(pairs))
    assert figures["loss"] == pytest.approx(-np.log(np.where(labels == 1, p, 1 - p)).mean())


def test_more_classes_by_their_definitions() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    logits = rng.normal(size=(300, 3)) + 2 * np.eye(3)[labels]
    figures = metrics.classification(logits, labels, 3, base_rate=0.0)
    called = logits.argmax(axis=1)
    scores = [
        2 * ((called == c) & (labels == c)).sum() / ((called == c).sum() + (labels == c).sum())
        for c in range(3)
    ]
    assert figures["f1"] == pytest.approx(np.mean(scores))
    assert figures["accuracy"] == pytest.approx((called == labels).mean())
    assert 0.5 < figures["auc"] < 1


def test_one_class_alone_has_no_auc() -> None:
    logits, _, _ = binary()
    figures = metrics.classification(logits, np.zeros(200, dtype=int), 2, base_rate=0.3)
    assert math.isnan(figures["auc"])
    assert math.isfinite(figures["accuracy"])


def test_a_model_that_diverged_has_no_figures() -> None:
    logits, labels, _ = binary()
    logits[3, 1] = np.nan
    assert all(map(math.isnan, metrics.classification(logits, labels, 2, 0.3).values()))
    assert all(map(math.isnan, metrics.forecasting(np.array([math.nan]), np.array([0.0]), 1.0).values()))
    assert metrics.forecasting(np.array([1e200]), np.array([0.0]), 1.0)["rmse"] == math.inf


def test_large_logits_do_not_overflow() -> None:
    figures = metrics.classification(np.array([[0.0, 1e4], [1e4, 0.0]]), np.array([1, 1]), 2, 0.5)
    assert figures["loss"] == pytest.approx(5e3)
