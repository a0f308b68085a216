"""Per-example clipping: each example's gradient is clipped before the sum, for robustness and for DP-SGD."""

from clipwise.functional.examples.report import ExampleReport
from clipwise.torch.per_example.entry import per_example
from clipwise.torch.per_example.step import PerExample

__all__ = ["ExampleReport", "PerExample", "per_example"]
