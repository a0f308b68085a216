"""The recorder, its file, the rules, suggestions, and other tools."""

from tests.mutations.breaks import Break

RULES = "tests/monitor/rules"
EXPORTERS = "src/clipwise/monitor/exporters"

BREAKS = [
    Break(
        "the last rows are not written",
        "src/clipwise/monitor/_flusher.py",
        "            self._turn_over(last=True)\n",
        "",
        "tests/monitor/test_recorder.py",
    ),
    Break(
        "a file that fails once is never tried again",
        "src/clipwise/monitor/_flusher.py",
        "self._next_try = now + self._wait",
        "self._next_try = float('inf')",
        "tests/monitor/test_recorder.py",
    ),
    Break(
        "half of a write stays",
        "src/clipwise/monitor/store/writer.py",
        "        with self._transaction():\n            for some in rows:",
        "        with contextlib.nullcontext():\n            for some in rows:",
        "tests/monitor/test_store.py",
    ),
    Break(
        "each process says the same",
        "src/clipwise/monitor/store/writer.py",
        "rank <> ?",
        "rank = ?",
        "tests/monitor/test_alerting.py",
    ),
    Break(
        "patience of one more",
        "src/clipwise/monitor/rules/engine.py",
        "if self.bad < rule.patience or",
        "if self.bad <= rule.patience or",
        f"{RULES}/test_engine.py",
    ),
    Break(
        "a rule that never fires",
        "src/clipwise/monitor/rules/loss_spike.py",
        "return recent.quantile(0) <= 0 or",
        "return recent.quantile(0) <= 0 and",
        f"{RULES}/test_loss_rules.py",
    ),
    Break(
        "one clipped step is overlooked",
        "src/clipwise/monitor/rules/threshold_never_binds.py",
        "if fraction > 0 or threshold != self._threshold:",
        "if threshold != self._threshold:",
        f"{RULES}/test_threshold_rules.py",
    ),
    Break(
        "an Inf is a finite loss",
        "src/clipwise/monitor/rules/loss_nonfinite.py",
        'if not -float("inf") < value < float("inf"):',
        "if value != value:",
        f"{RULES}/test_loss_rules.py",
    ),
    Break(
        "a suggestion one class too low",
        "src/clipwise/monitor/suggest/_decide.py",
        "np.percentile(usual, 95)",
        "np.percentile(usual, 90)",
        "tests/monitor/suggest/test_decisions.py",
    ),
    Break(
        "norms after the breakdown count",
        "src/clipwise/monitor/suggest/_decide.py",
        "given.norms[: None if broken is None else broken.at]",
        "given.norms[:]",
        "tests/monitor/suggest/test_decisions.py",
    ),
    Break(
        "chances that do not add up",
        "src/clipwise/monitor/suggest/_statistics.py",
        "at_most(count - 1, p)",
        "at_most(count, p)",
        "tests/monitor/suggest/test_statistics.py",
    ),
    Break(
        "a table without its last column",
        f"{EXPORTERS}/_tables.py",
        "[values.get(name) for name in self._names]",
        "[values.get(name) for name in self._names[:-1]]",
        "tests/monitor/exporters/test_tables.py",
    ),
    Break(
        "a NaN becomes an empty cell",
        f"{EXPORTERS}/csv.py",
        '("NaN" if cell != cell else cell',
        "(None if cell != cell else cell",
        "tests/monitor/exporters/test_tables.py",
    ),
    Break(
        "TensorBoard gets no norms of parameters",
        f"{EXPORTERS}/tensorboard.py",
        "in named(step).items():",
        "in step.values.items():",
        "tests/monitor/exporters/test_tensorboard.py",
    ),
]
