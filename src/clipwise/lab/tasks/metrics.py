"""Metrics on held-out data; NaN if the predictions are not finite, since a diverged model has no score."""

import math
from typing import Any, TypeAlias

import numpy as np
from sklearn import metrics as sk

__all__ = ["classification", "forecasting", "language"]

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Labels: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


def language(loss: float, accuracy: float) -> dict[str, float]:
    """Metrics of a language model from its mean negative log-likelihood per symbol, in nats.

    ``bits = loss / ln 2``, ``perplexity = exp(loss)``; accuracy is the share of correctly predicted symbols.

    >>> language(math.log(2), 0.5)["bits"]
    1.0
    """
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(loss))
    return {"bits": loss / math.log(2), "accuracy": accuracy, "loss": loss, "perplexity": perplexity}


def classification(logits: Floats, labels: Labels, classes: int, base_rate: float) -> dict[str, float]:
    """F1, AUC and accuracy of a classifier; ``loss`` is the mean cross-entropy in nats.

    Two classes: the main metric is the area under the ROC curve, which needs no cut-off. Accuracy predicts
    the more likely class. F1 is that of the positive class; a prediction is positive if it is more likely
    than ``base_rate``, its share in training, since rare positives are hardly ever more likely than not. More
    classes: the main metric is the macro-averaged F1; the AUC is one against the rest, macro-averaged.

    Args:
        logits: ``(n, classes)``, before the softmax.
        labels: ``(n,)``, in ``0 .. classes - 1``.
        classes: number of classes.
        base_rate: share of class 1 in training; only used for two classes.

    The AUC is NaN if a class is missing in the held-out labels.
    """
    names = ("f1", "auc", "accuracy", "loss")
    if not np.isfinite(logits).all():
        return dict.fromkeys(names, math.nan)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    complete = len(np.unique(labels)) == classes
    if classes == 2:
        f1 = sk.f1_score(labels, p[:, 1] > base_rate, zero_division=0.0)
        auc = sk.roc_auc_score(labels, logits[:, 1] - logits[:, 0]) if complete else math.nan
    else:
        f1 = sk.f1_score(labels, p.argmax(axis=1), average="macro", zero_division=0.0)
        auc = sk.roc_auc_score(labels, p, multi_class="ovr") if complete else math.nan
    accuracy = sk.accuracy_score(labels, p.argmax(axis=1))
    loss = -log_p[np.arange(len(labels)), labels].mean()
    return {name: float(value) for name, value in zip(names, (f1, auc, accuracy, loss), strict=True)}


def forecasting(predicted: Floats, actual: Floats, scale: float) -> dict[str, float]:
    """RMSE and MAE of a forecast in standardised units, and in the series' own units (times ``scale``).

    >>> forecasting(np.array([0.0, 2.0]), np.array([0.0, 0.0]), 10.0)["mae_original"]
    10.0
    """
    if np.isnan(predicted).any():
        return dict.fromkeys(("rmse", "mae", "rmse_original", "mae_original"), math.nan)
    with np.errstate(over="ignore"):
        rmse = float(np.sqrt(np.mean((predicted - actual) ** 2)))
        mae = float(np.mean(np.abs(predicted - actual)))
    return {"rmse": rmse, "mae": mae, "rmse_original": rmse * scale, "mae_original": mae * scale}
