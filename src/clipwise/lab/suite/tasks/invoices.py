"""Invoices that will be cancelled: a classifier whose gradients are too small for the usual threshold."""

from clipwise.lab.suite.configured import Configured

__all__ = ["INVOICES"]

INVOICES = Configured(
    name="invoices",
    title="Invoices that will be cancelled, LSTM, Adam",
    about=(
        "Online Retail II (UCI), will a customer's next invoice be a cancellation; LSTM of 128 units, Adam at"
        " .001, batch 64: the fraud detector of the texts, which clip at 1."
    ),
    metric="auc",
    lower_is_better=False,
    config={
        "model_type": "LSTM",
        "task": "Sequence_Classification",
        "data": {"source": "online_retail"},
        "training_parameters": {"optimizer": "Adam", "loss": "binary_cross_entropy"},
    },
    sizes={
        "tiny": {"data": {"max_rows": 2000}, "training_parameters": {"steps": 6}},
        "small": {"training_parameters": {"steps": 100, "evaluate_every": 50}},
        "full": {"training_parameters": {"steps": 500, "evaluate_every": 100}},
    },
    seconds={"tiny": 0.5, "small": 2.5, "full": 12},
)
"""``examples/fraud-lstm.json``."""
