"""The recorder: what it keeps is what the reports say, and no disk ends a training."""

import copy
import math
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch

import clipwise
from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor import Monitor, MonitorWarning, Store
from clipwise.monitor.suggest import suggest_run

FIELDS = ("norm", "norm_after", "threshold", "skipped", "nonfinite")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


def train(monitor, steps=25, bad=(), name="", log=True):
    """A small regression; returns what is true of it: the losses and the reports."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.5), model=model)
    if monitor is not None:
        assert monitor.attach(clipper, name) is clipper
    losses, reports = [], []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 3)).square().mean()
        loss.backward()
        if step in bad:
            model.bias.grad[0] = math.nan
        optimizer.step()
        if monitor is not None and log:
            monitor.log(loss=loss)
        losses.append(loss.item())
        reports.append(clipper.report)
    return losses, reports, [p.detach().clone() for p in model.parameters()]


def test_every_step_of_a_clipper_and_what_is_logged(path):
    with Monitor(path, run="small", layers_every=10) as monitor:
        losses, reports, _ = train(monitor, bad=[7])
    with Store(path) as store:
        run = store.run("small")
        names = [
            "loss",
            *(f"clipwise/{n}" for n in ("norm", "norm_after", "threshold", "skipped", "nonfinite")),
        ]
        found = store.series(run.id, names)
        layers = store.layers(run.id)
    assert (run.status, run.steps, run.clip) == ("finished", 25, "clip_by_global_norm(0.5)")
    assert run.facts["torch"] == torch.__version__
    assert found["loss"].steps.tolist() == list(range(1, 26))
    assert found["loss"].values.tolist() == losses
    for name in FIELDS:
        expected = [float(getattr(report, name)) for report in reports]
        np.testing.assert_array_equal(found[f"clipwise/{name}"].values, expected)
    assert found["clipwise/skipped"].values.sum() == 1.0
    assert layers.steps.tolist() == [1, 7, 10, 20]  # and where NaN turned up
    assert layers.names == ("weight", "bias")
    for step, norms in zip(layers.steps, layers.norms, strict=True):
        np.testing.assert_array_equal(norms, reports[step - 1].tensor_norms.numpy())


def test_it_changes_nothing(path):
    with Monitor(path) as monitor:
        with_it = train(monitor)[2]
    for one, other in zip(with_it, train(None)[2], strict=True):
        assert torch.equal(one, other)


def test_every_nth_step_and_several_sources(path):
    with Monitor(path, every=5, layers_every=0) as monitor:
        train(monitor, 12, name="generator", log=False)
        train(monitor, 12, name="critic", log=False)
    with Store(path) as store:
        assert store.sources(1) == ["generator", "critic"]
        found = {one: store.series(1, ["clipwise/norm"], one) for one in ("generator", "critic", "")}
        assert not any(len(store.layers(1, one).steps) for one in found)
    assert [list(one) for one in found.values()] == [["clipwise/norm"], ["clipwise/norm"], []]
    assert found["critic"]["clipwise/norm"].steps.tolist() == [5, 10]


def test_a_loss_that_the_clipper_was_told_is_recorded(path):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    with Monitor(path) as monitor:
        clipper = monitor.attach(clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1.0)))
        for loss in (3.0, 2.0):
            parameter.grad = torch.ones(2)
            clipper.observe(loss)
            optimizer.step()
    with Store(path) as store:
        assert store.series(1, ["loss"])["loss"].values.tolist() == [3.0, 2.0]


def test_what_held_the_threshold_is_recorded_and_said(path):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    with Monitor(path, rules=[]) as monitor:
        monitor.attach(clipwise.torch.attach(optimizer, clipwise.zclip(warmup=4), nonfinite="skip"))
        for step in range(25):  # of the last five, which are left out, nothing held the threshold
            parameter.grad = torch.ones(2) * (torch.nan if step >= 20 else 1.0)
            optimizer.step()
            monitor.log(loss=1.0)
    with Store(path) as store:
        found = store.series(1, ["clipwise/held/warm-up", "clipwise/held/history"])
        assert [one.values.tolist() for one in found.values()] == [
            [1.0] * 4 + [0.0] * 21,
            [0.0] * 4 + [1.0] * 16 + [0.0] * 5,
        ]
        said = suggest_run(store, 1).reasons
    held = "The threshold was determined by earlier norms in 80 % of the steps, by the warm-up in 20 %."
    assert held in said


def test_a_logged_value_is_that_of_its_moment(path):
    total = torch.tensor(1.0, requires_grad=True)
    with Monitor(path) as monitor:
        monitor.log(step=3, total=total)
        with torch.no_grad():
            total += 5.0
        monitor.log(total=np.float32(2.0), step=4)
    with Store(path) as store:
        found = store.series(1, ["total"])["total"]
    assert found.values.tolist() == [1.0, 2.0]
    assert found.steps.tolist() == [3, 4]


def test_optax(path):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    import clipwise.jax

    optimizer = optax.chain(clipwise.jax.transform(clipwise.clip_by_global_norm(1.0)), optax.adam(0.1))
    params = {"w": jax.numpy.zeros(2)}
    state = optimizer.init(params)
    # What a step is given away is gone: the recorder must have kept numbers of its own.
    step = jax.jit(lambda state, g: optimizer.update({"w": g}, state, params), donate_argnums=0)
    with Monitor(path, layers_every=2) as monitor:
        for size in (1.0, 2.0, 3.0):
            _, state = step(state, jax.numpy.asarray([3.0, 4.0]) * size)
            monitor.record(state)
    with Store(path) as store:
        found = store.series(1, ["clipwise/norm", "clipwise/norm_after"])
        layers = store.layers(1)
    np.testing.assert_allclose(found["clipwise/norm"].values, [5.0, 10.0, 15.0], rtol=1e-6)
    np.testing.assert_allclose(found["clipwise/norm_after"].values, [1.0] * 3, rtol=1e-6)
    assert (layers.names, layers.steps.tolist()) == (("w",), [1, 2])


def test_a_file_that_cannot_be_written_is_said_once_and_nothing_is_lost_if_it_can_later(tmp_path):
    path = tmp_path / "missing" / "runs.db"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monitor = Monitor(path, flush=0.05)
        losses = train(monitor)[0]
        for _ in range(2):
            assert not monitor.flush()
        assert sum(len(rows.data) for rows in monitor.unwritten) >= 50
        path.parent.mkdir()
        monitor.close()
    assert len([w for w in said if w.category is MonitorWarning]) == 1
    assert "cannot be written just now" in str(said[0].message)
    with Store(path) as store:
        assert store.series(1, ["loss"])["loss"].values.tolist() == losses


def test_a_file_that_can_be_written_again_is_tried_again_unasked(tmp_path):
    path = tmp_path / "missing" / "runs.db"
    monitor = Monitor(path, flush=0.05)
    with warnings.catch_warnings(record=True):
        monitor.log(step=1, loss=0.5)
        assert not monitor.flush()
    path.parent.mkdir()
    end = time.monotonic() + 120
    while monitor.unwritten and time.monotonic() < end:
        time.sleep(0.02)
    assert monitor.unwritten == []
    with Store(path) as store:
        assert store.series(1, ["loss"])["loss"].values.tolist() == [0.5]
    monitor.close()


@pytest.mark.parametrize("opened", [False, True], ids=["beginning", "ending"])
def test_other_processes_in_the_way_at_the_end_are_waited_for(path, opened, monkeypatch):
    monkeypatch.setattr("clipwise.monitor.store._schema.WAITING", 0.0)
    with warnings.catch_warnings(record=True), Monitor(path, flush=60) as monitor:
        monitor.log(step=1, loss=0.5)
        if opened:
            assert monitor.flush()
            monitor.log(step=2, loss=0.25)
        other = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(0.3, other.close)
        timer.start()
    timer.join()
    with Store(path) as store:
        assert store.series(1, ["loss"])["loss"].values.tolist() == [0.5, 0.25][: 1 + opened]
        assert store.run().status == "finished"


def test_what_was_not_written_is_said_at_the_end(tmp_path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monitor = Monitor(tmp_path / "missing" / "runs.db", flush=60, keep=3)
        for step in range(1, 11):
            monitor.log(step=step, loss=1.0)
            monitor.flush()
        monitor.close()
    messages = [str(w.message) for w in said if w.category is MonitorWarning]
    assert len(messages) == 2
    assert messages[1].startswith("10 rows of steps 1 to 10 are not in")
    assert [int(rows.data[0, 0]) for rows in monitor.unwritten] == [8, 9, 10]


def test_a_file_of_somebody_else_stays_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database" * 100)
    with pytest.warns(MonitorWarning, match="is not a recording"), Monitor(path) as monitor:
        monitor.log(loss=1.0)
    assert path.read_bytes() == b"not a database" * 100


def test_after_kill_9_what_is_older_than_the_interval_is_there(path):
    code = (
        f"import clipwise, os, signal, time; m = clipwise.Monitor({str(path)!r}, run='killed', flush=0.1)\n"
        "m.log(step=1, loss=0.5); print('logged', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "logged\n"
    deadline = time.monotonic() + 30
    while not (path.exists() and _rows(path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    with Store(path) as store:
        assert store.run("killed").status == "lost"
        assert store.series(1, ["loss"])["loss"].values.tolist() == [0.5]


def _fail_after(monitor):
    monitor.log(loss=1.0)
    raise KeyError("gone")


def _rows(path):
    try:
        with Store(path) as store:
            return "loss" in store.series(1, ["loss"])
    except StoreError:  # it is being made
        return False


def test_an_error_that_ends_the_run_is_told(path):
    with pytest.raises(KeyError), Monitor(path) as monitor:
        _fail_after(monitor)
    by_itself = "import clipwise, sys; m = clipwise.Monitor(sys.argv[1]); m.log(loss=1.0); 1 / 0"
    subprocess.run([sys.executable, "-c", by_itself, str(path)], capture_output=True, check=False)
    with Store(path) as store:
        assert [(run.status, run.note) for run in store.runs()] == [
            ("failed", "ZeroDivisionError: division by zero"),
            ("failed", "KeyError: 'gone'"),
        ]


def test_ranks_of_one_training_are_one_run(path):
    code = "import clipwise, sys; m = clipwise.Monitor(sys.argv[1]); m.log(step=1, loss=float(m.rank))"
    for rank in ("0", "1"):
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29"}
        there = os.environ | meeting | {"RANK": rank}
        subprocess.run([sys.executable, "-c", code, str(path)], env=there, check=True)
    with Store(path) as store:
        (run,) = store.runs()
        assert run.ranks == (0, 1)


def test_what_cannot_be_is_refused_at_once(path):
    wrong = [("every", 0), ("layers_every", -1), ("flush", 0), ("flush", "1"), ("keep", 1.5), ("run", "")]
    for name, value in wrong:
        with pytest.raises(ArgumentError, match=name):
            Monitor(path, **{name: value})
    with Monitor(path) as monitor:
        for value in ("0.5", None, np.zeros(2), [1.0]):
            with pytest.raises(ArgumentError, match="log takes numbers, got loss="):
                monitor.log(loss=value)
        with pytest.raises(ArgumentError, match=r"attach takes a clipwise\.torch\.Clipper"):
            monitor.attach(torch.nn.Linear(1, 1))
        with pytest.raises(ArgumentError, match="log takes no value called 'time'"):
            monitor.log(time=1.0)
        for step in (1.5, "1", -1, 2**60):
            with pytest.raises(ArgumentError, match="step must be a whole number from 0 to 2\\*\\*53, got"):
                monitor.log(step=step, loss=1.0)
            with pytest.raises(ArgumentError, match="step must be a whole number"):
                monitor.record(None, step=step)


def test_each_clipper_has_a_name_of_its_own(path):
    one, other = (
        clipwise.torch.Clipper([torch.nn.Parameter(torch.ones(1))], clipwise.clip_by_norm(1.0)) for _ in "ab"
    )
    with Monitor(path) as monitor:
        monitor.attach(one)
        for again in (one, other):
            with pytest.raises(ArgumentError, match=r"a clipper is attached already: .* a name of its own"):
                monitor.attach(again)
        with pytest.raises(ArgumentError, match="a clipper is attached already"):
            monitor.record(one.report)
        monitor.attach(other, "critic")
        with pytest.raises(ArgumentError, match="'critic' is attached already"):
            monitor.attach(one, "critic")


FULL = """
import sys, warnings, clipwise
from pathlib import Path
from clipwise.monitor import Monitor, Store
warnings.simplefilter("always")
disk = Path(sys.argv[1])
monitor = Monitor(disk / "runs.db", flush=60, rules=[], keep=1000)
for step in range(1, 1001):
    monitor.log(step=step, loss=1.0 / step, other=1.0)
    if step % 100 == 0:
        monitor.flush()
    if step == 300:
        try:
            with open(disk / "filler", "wb") as file:
                while True:
                    file.write(b"0" * 4096); file.flush()
        except OSError as error:
            print(error.strerror)
print(sum(len(rows.data) for rows in monitor.unwritten))
if sys.argv[2] == "freed":
    (disk / "filler").unlink()
monitor.close()
(disk / "filler").unlink(missing_ok=True)
with Store(disk / "runs.db") as store:
    print(len(store.series(1, ["loss"])["loss"].values), store.run().status)
"""


@pytest.mark.parametrize("then", ["freed", "full"])
def test_a_full_disk(tmp_path, then):
    """A real one, of 512 kB: the training goes on; what does not fit is kept and written later, or said."""
    run = f"exec {sys.executable} -c \"$0\" '{tmp_path}' {then}"
    mount = f"mount -t tmpfs -o size=512k tmpfs '{tmp_path}' && {run}"
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        able = subprocess.run(
            [*inside, f"mount -t tmpfs tmpfs '{tmp_path}'"], capture_output=True, check=False
        )
    except FileNotFoundError:
        able = None
    if able is None or able.returncode:
        pytest.skip("a small disk of one's own needs user namespaces, which this system does not give")
    done = subprocess.run([*inside, mount, FULL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    full, kept, *found = done.stdout.splitlines()
    assert full == "No space left on device"
    assert int(kept) >= 600  # what came after
    assert done.stderr.count("cannot be written just now") == 1
    if then == "freed":
        assert found == ["1000 finished"]
    else:
        assert "are not in" in done.stderr
        assert found == [f"{1000 - int(kept)} running"]  # the process is still there, and could not say more


def test_where_a_norm_explodes_every_layer_is_kept_and_the_worst_is_named(path):
    model = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2), "last": torch.nn.Linear(2, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(math.inf), model=model)
    monitor = Monitor(path, layers_every=0)
    monitor.attach(clipper)
    for step in range(1, 61):
        for name, p in model.named_parameters():
            p.grad = torch.full_like(p, 100.0 if (step, name) == (41, "last.bias") else 1.0)
        optimizer.step()
    with pytest.warns(MonitorWarning, match=r"at step 41, .* the largest is that of last\.bias \(141\.4\)"):
        monitor.close()
    with Store(path) as store:
        layers = store.layers(1)
        assert layers.steps.tolist() == [41]
        assert layers.norms[0, layers.names.index("last.bias")] == pytest.approx(2**0.5 * 100)
        assert [(alert.rule, alert.step) for alert in store.alerts(1)] == [("gradient_spike", 41)]


def test_a_monitor_is_no_copy_of_another(path):
    with Monitor(path, run="first") as monitor:
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="make one in each process"):
                way(monitor)


FORKED = """
import clipwise, os, sys
monitor = clipwise.Monitor(sys.argv[1], rules=[])
monitor.log(step=1, loss=0.5)
child = os.fork()
if not child:
    for step in (2, 3):
        monitor.log(step=step, loss=0.25)
    os._exit(monitor.flush())
assert os.waitpid(child, 0)[1] == 0
monitor.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_is_told_that_nothing_of_it_is_kept(path):
    done = subprocess.run([sys.executable, "-c", FORKED, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was forked from the one that records") == 1
    with Store(path) as store:
        assert store.series(1, ["loss"])["loss"].steps.tolist() == [1]


def test_a_warning_is_wrapped_sentences_and_no_line_of_code(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    shown = warnings.formatwarning("a few words " * 6, MonitorWarning, "clipwise.monitor", 1)
    assert shown.splitlines()[0].startswith("clipwise: a few words")
    assert max(map(len, shown.splitlines())) <= 40
    other = warnings.formatwarning("as ever", UserWarning, "file.py", 3, "")
    assert other == "file.py:3: UserWarning: as ever\n"


def test_each_part_of_by_name_has_its_norm_and_its_threshold(path):
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    parts = clipwise.by_name({"body.*": clipwise.clip_by_global_norm(3.0), "head.*": clipwise.autoclip(10)})
    with Monitor(path) as monitor:
        monitor.attach(clipwise.torch.attach(optimizer, parts, model=model), "net")
        for size in (1.0, 2.0):
            for name, p in model.named_parameters():
                p.grad = torch.full_like(p, size * (2.0 if name.startswith("body") else 1.0))
            optimizer.step()
    names = [f"clipwise/{name}" for name in ("norm", "norm_after", "threshold", "clip_fraction")]
    with Store(path) as store:
        assert store.sources(1) == ["net", "net/by_name/body.*", "net/by_name/head.*"]
        body, head = (store.series(1, names, one) for one in store.sources(1)[1:])
        assert store.parameters(1, "net/by_name/body.*") == []
        assert all(alert.source == "net" for alert in store.alerts(1))
    six = 6**0.5  # entries of a part
    np.testing.assert_allclose(body["clipwise/norm"].values, [2 * six, 4 * six], rtol=1e-6)
    np.testing.assert_allclose(body["clipwise/norm_after"].values, [3.0, 3.0], rtol=1e-6)
    assert body["clipwise/threshold"].values.tolist() == [3.0, 3.0]
    np.testing.assert_allclose(head["clipwise/norm"].values, [six, 2 * six], rtol=1e-6)
    assert head["clipwise/clip_fraction"].values.tolist() == [0.0, 1.0]
