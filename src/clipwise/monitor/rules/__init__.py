"""Rules that watch a training and say what is wrong with it."""

from clipwise.monitor.rules.moment import Moment

__all__ = ["Moment"]
