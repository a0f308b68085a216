"""Before anything else."""

import contextlib
import gc
import re
from functools import partial

# torch's compiler imports setuptools, which cannot put its distutils in place any more once pip was imported.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401

# Triton, which torch's compiler loads, and TensorFlow both bring LLVM; only in this order they get along.
import torch._dynamo  # noqa: F401

from tests.conformance import back_ends

LONG = (
    *("tests/keras/test_backends.py::test_on[", "test_on_eight_devices", "test_in_the_interpreter"),
    *(
        "test_two_devices_are_one",
        "test_a_killed_comparison",
        "test_fit_is_recorded",
        "imports_no_other[tensor",
    ),
    *("test_sigint_to_a_real_process", "test_a_clip_from_outside_is"),
)


def pytest_collection_modifyitems(config, items):
    """Each of the processes that share the tests begins with a part of them, and with long ones there."""
    count = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    long, others = [], []
    for item in items:
        (long if any(part in item.nodeid for part in LONG) else others).append(item)
    bounds = [place * len(others) // count for place in range(count + 1)]
    items[:] = [
        item
        for part in range(count)
        for item in (*long[part::count], *others[bounds[part] : bounds[part + 1]])
    ]


def pytest_collection_finish():
    """The frameworks' million objects stay as long as the process: no collection need look at them again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter):
    """On which back ends the table of tests/conformance holds."""
    nodes = {
        outcome: [report.nodeid for report in terminalreporter.stats.get(outcome, [])]
        for outcome in ("passed", "failed", "error")
    }
    ran = {outcome: set(filter(partial(_any_of, some), back_ends.ALL)) for outcome, some in nodes.items()}
    if any(ran.values()):
        there = [name for name in back_ends.ALL if name in ran["passed"] - ran["failed"] - ran["error"]]
        terminalreporter.write_line(f"The conformance table holds on: {', '.join(there) or 'no back end'}")


def _any_of(nodes, back_end):
    """Whether one of the tests is the table on this back end, here or in a process of its own."""
    elsewhere = f"|test_on\\[{back_end.removeprefix('keras-')}]" if "keras" in back_end else ""
    return any(re.search(f"test_clip\\[{back_end}-b?(float|complex){elsewhere}", node) for node in nodes)
