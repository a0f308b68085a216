"""Names of metrics for people."""

from clipwise.wording import number

NAMES = {"bits": "bits", "f1": "F1", "auc": "AUC", "rmse": "RMSE", "mae": "MAE", "nll": "NLL"}
HEADINGS = {
    "bits": "Bits per character",
    "f1": "F1",
    "auc": "Area under the ROC curve",
    "rmse": "RMSE",
    "errors": "Share of wrong answers",
    "mse": "Mean squared error",
    "return": "Return, the last episodes",
    "distance": "Sliced Wasserstein distance",
    "nll": "Negative log-likelihood of a step in nats",
    "slope": "Decades that the gradient grows or shrinks in a layer",
}


def metric_name(metric: str) -> str:
    """The name of a metric in a table."""
    return NAMES.get(metric, metric.replace("_", " "))


def heading(metric: str) -> str:
    """The name of a metric as the title of a chart."""
    return HEADINGS.get(metric, metric_name(metric))


def value_of(metric: str, value: float) -> str:
    """A metric with its value.

    >>> value_of("bits", 2.4583), value_of("f1", 0.5)
    ('2.458 bits', 'F1 0.5')
    """
    if metric == "bits":
        return f"{number(value)} bits"
    return f"{metric_name(metric)} {number(value)}"
