"""The table is collected in the processes that are started for it; here it is said on what it ran."""

import pytest

from . import back_ends

collect_ignore = ["table"] if back_ends.here() is None else ["test_back_ends.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if back_ends.here() is None:
        passed = [report.nodeid for report in terminalreporter.stats.get("passed", [])]
        ran = [name for name in back_ends.ALL if any(f"test_the_table[{name}]" in node for node in passed)]
        terminalreporter.write_line(f"The conformance table holds on: {', '.join(ran) or 'no back end'}")
