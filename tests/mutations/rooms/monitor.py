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
        "            self._roll_back(database)\n\n",
        '            database.execute("COMMIT")\n\n',
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
        "self._names, self._parameters = tuple(names), tuple(parameters)",
        "self._names, self._parameters = (*names[:-1], ''), tuple(parameters)",
        "tests/monitor/exporters/test_tables.py",
    ),
    Break(
        "a NaN becomes an empty cell",
        f"{EXPORTERS}/csv.py",
        '"NaN" if cell != cell else cell',
        '"" if cell != cell else cell',
        "tests/monitor/exporters/test_tables.py",
    ),
    Break(
        "TensorBoard gets no norms of parameters",
        f"{EXPORTERS}/_steps.py",
        "for name, norm in step.layers.items()}",
        "for name, norm in ()}",
        "tests/monitor/exporters/test_tensorboard.py",
    ),
    Break(
        "a step is cut in two where a portion ends",
        f"{EXPORTERS}/_export.py",
        "if len(part) >= AT_ONCE and moment.step != part[-1].step:",
        "if len(part) >= AT_ONCE:",
        "tests/monitor/exporters/test_tables.py",
    ),
    Break(
        "an export that fails replaces what was there",
        f"{EXPORTERS}/_tables.py",
        "                raise _Abandoned\n",
        "                pass\n",
        "tests/monitor/exporters/test_tables.py",
    ),
    Break(
        "values of all sources are nobody's",
        "src/clipwise/monitor/store/writer.py",
        "text(rows.source),",
        '"",',
        "tests/monitor/test_store.py",
    ),
    Break(
        "a step that was taken again takes the place of the first",
        "src/clipwise/monitor/store/moments.py",
        "turn = max((free.get(name, 0) for name in named), default=0)",
        "turn = 0",
        "tests/monitor/test_store.py",
    ),
    Break(
        "rows are shown before those that belong to their steps",
        "src/clipwise/monitor/store/reader.py",
        "rows.data[:, 0] < step",
        "rows.data[:, 0] < step + 5",
        "tests/monitor/test_store.py",
    ),
    Break(
        "rules are shown what was done to the weights",
        "src/clipwise/monitor/rules/_shown.py",
        "self._is_of_weights = self._is_of_weights or AT_BOUND in values",
        "pass",
        "tests/monitor/test_weights.py",
    ),
]
