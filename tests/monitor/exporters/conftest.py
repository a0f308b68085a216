"""One recording with everything in it that is hard to export, and what must be read back of it."""

import math
import socket
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from clipwise.monitor.store import Alert, Rows, Store, Writer, moments_of

START = 1_700_000_000.0
LOSS = {1: 0.75, 2: math.nan, 3: math.inf, 4: -math.inf, 5: 0.1}
NORM = {1: 3.0, 2: math.nan, 3: 1e30, 4: 2.5, 5: 1 / 3}
LATE = {2: 0.5, 4: 0.25}
"""Logged of single steps, in rows that come after all others."""
LAYERS = {2: {"a.weight": math.nan, "a.bias": 0.5}, 4: {"a.weight": 1.5}}
TIMES = {step: START + step / 8 for step in LOSS}
ALERT = Alert(
    "loss_nonfinite", "critical", 2, "The loss is NaN.", "No step helps.", "Lower the rate.", 1, TIMES[2]
)
SECOND = Alert("spike", "warning", 4, "A spike, of 1,000.", "It\nmay diverge.", "Clip.", 0, TIMES[4])
FACTS = {"python": "3.12", "seed": 3}


def steps(*names, data):
    return Rows("steps", ("time", *names), np.asarray(data, dtype=np.float64))


def layers(step):
    found = LAYERS[step]
    return Rows("layers", tuple(found), np.asarray([[step, *found.values()]], dtype=np.float64))


def rows():
    """As the recorder makes them: a clipper's steps, what was logged of them later, layers."""
    return [
        steps("clipwise/norm", data=[[s, TIMES[s], v] for s, v in NORM.items()]),
        layers(2),
        layers(4),
        steps("loss", data=[[s, TIMES[s] + 0.01, v] for s, v in LOSS.items()]),
        steps("accuracy", data=[[s, TIMES[5] + 1, v] for s, v in LATE.items()]),
    ]


def pieces():
    """The same as a live run hands it over: a part at a time."""
    return [moments_of([some]) for some in rows()]


def same(found, expected, *, at=lambda value: value):
    """Two mappings by step, NaN equal to NaN."""
    assert list(found) == list(expected)
    np.testing.assert_array_equal([found[s] for s in found], [at(expected[s]) for s in expected])


@pytest.fixture(autouse=True)
def away(monkeypatch):
    """The addresses of other machines that were asked for: none, at the end of every test."""
    found, connect = [], socket.socket.connect

    def watched(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
            found.append(address)
            raise OSError(f"no network in tests: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    yield found
    assert found == []


def record(path):
    """A recording of two runs; the one called ``lstm: <b>/1`` is the first."""
    writer = Writer(path, "u", "lstm: <b>/1", command="python t.py", clip="clip_by_norm(1.0)", facts=FACTS)
    writer.write(rows(), [ALERT])
    writer.write([], [SECOND])
    writer.finish()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE runs SET started = ?", (START,))
    writer = Writer(path, "v", "plain")
    writer.write([steps("loss", data=[[1, START, 2.0]])])
    writer.finish("failed", "ValueError: no")
    return path


@pytest.fixture
def path(tmp_path):
    return record(tmp_path / "clipwise.db")


@pytest.fixture
def store(path):
    with Store(path) as store:
        yield store
