"""States which back ends the table ran on; one that was chosen and did not run fails the run."""

import os

import pytest

from . import back_ends

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

collect_ignore_glob = ["on_*.py"]  # a back end that was not chosen is not imported, and Keras not in here


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    name = getattr(item, "callspec", None) and item.callspec.params.get("back_end")
    if report.when == "call" and report.passed and name is not None:
        name = getattr(name, "NAME", name)
        back_ends.RAN[name] = back_ends.RAN.get(name, 0) + 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = ", ".join(f"{name} ({count})" for name, count in back_ends.RAN.items())
    terminalreporter.write_line(f"The conformance table ran on: {ran or 'no back end'}")
