"""The gradient of each example clipped before they are summed: for robustness, and for DP-SGD."""

from clipwise.functional.examples.report import ExampleReport
from clipwise.torch.per_example.entry import per_example
from clipwise.torch.per_example.step import PerExample

__all__ = ["ExampleReport", "PerExample", "per_example"]
