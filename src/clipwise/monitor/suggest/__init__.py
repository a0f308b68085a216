"""Recommends a threshold from recorded norms, with reasons.

`suggest` takes norms, `suggest_run` takes a recorded run. The first rule of `suggest` that applies decides.
"""

from clipwise.monitor.suggest._decide import Verdict
from clipwise.monitor.suggest._recorded import suggest_run
from clipwise.monitor.suggest._statistics import Candidate, Statistics
from clipwise.monitor.suggest._typical import KINDS, TYPICAL, Typical
from clipwise.monitor.suggest.suggestion import Suggestion, suggest

__all__ = [
    "KINDS",
    "TYPICAL",
    "Candidate",
    "Statistics",
    "Suggestion",
    "Typical",
    "Verdict",
    "suggest",
    "suggest_run",
]
