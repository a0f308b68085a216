"""``clipwise suggest``, and `suggest_run` behind it."""

import io
import json
import re
import sys

import numpy as np
import pytest

from clipwise import auto, clip_by_global_norm
from clipwise.cli import main
from clipwise.config import parse
from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor.store import Rows, Store, Writer
from clipwise.monitor.suggest import suggest, suggest_run
from tests.monitor.suggest.series import INF, falling, noise, recorded, spiked


def rows(source="", **columns):
    """One column a name, where ``__`` stands for ``/``; from step 1 on unless ``steps`` says otherwise."""
    count = len(next(iter(columns.values())))
    steps = columns.pop("steps", np.arange(1, count + 1))
    data = np.column_stack([steps, 1e9 + steps, *columns.values()])
    names = ("time", *(name.replace("__", "/") for name in columns))
    return Rows("steps", names, data.astype(np.float64), source)


def write(path, uid, *tables, name=None, clip=None):
    writer = Writer(path, uid, name or uid, clip=clip)
    writer.write(tables)
    writer.finish()


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A recording of several runs, the last of them ``spiked``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    file = tmp_path / "clipwise.db"
    norms, losses = recorded("pm25-lstm-none")
    inf, zeros = np.full(50, INF), np.zeros(50)
    measured = rows(clipwise__norm=norms, clipwise__threshold=inf, clipwise__clip_fraction=zeros)
    write(file, "pm25", measured, rows(loss=losses))
    write(file, "logs", rows(loss=falling(60), accuracy=noise(60)))
    write(file, "empty")
    both = [
        rows("critic", clipwise__norm=noise(100)),
        rows("generator", clipwise__norm=spiked(100)),
    ]
    write(file, "gan", *both, rows(loss=falling(100, first=1.0, last=9.0)))
    write(file, "spiked", rows(clipwise__norm=spiked()), rows(loss=falling(200), train=falling(200)))
    return file


def output(capsys, *words, code=0):
    assert main(["suggest", *words]) == code
    return capsys.readouterr()


def test_what_it_says(path, capsys):
    text = output(capsys).out
    found = suggest(spiked(), losses=falling(200))
    assert found.headline in text
    plain = " ".join(text.replace("•", " ").split())
    for reason in found.reasons:
        assert reason in plain
    for lines in (*found.lines.values(), *found.builtin.values()):
        assert lines in text  # whole, so that they can be pasted
    for one in found.candidates:
        assert re.search(rf"{one.name} +[\d.]+ +{one.clipped} +\d", text)
    assert f"clipwise observe --clip 'clip_by_global_norm({found.threshold})' -- python train.py" in text
    tables = text[: text.index("Lines to paste")].splitlines()
    assert max(map(len, tables)) <= 80
    assert "transformer  global norm" in text


def test_by_name_and_number(path, capsys):
    for which in ("pm25", "1"):
        assert "Use auto()." in output(capsys, which).out
    text = output(capsys, "pm25", "--db", str(path), "--kind", "LSTM").out
    assert "arXiv:1211.5063" in text
    assert "Transformer-XL" not in text


def test_narrow_and_wide(path, capsys, monkeypatch):
    for width in (60, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        text = output(capsys, "spiked").out
        assert max(map(len, text[: text.index("Lines to paste")].splitlines())) <= width


def test_json(path, capsys):
    def refused(token):
        raise AssertionError(token)

    data = json.loads(output(capsys, "pm25", "--json").out, parse_constant=refused)
    assert data["run"] == {"id": 1, "name": "pm25", "status": "finished", "steps": 50}
    assert (data["verdict"], data["clip"], data["threshold"]) == ("adapt", "auto()", None)
    assert data["statistics"]["nonfinite"] == 23
    same = json.loads(output(capsys, "--json").out)
    assert same["threshold"] == suggest(spiked()).threshold


def test_a_clip_of_one_number_from_another_source(path, capsys):
    assert "Clipping is not needed." in output(capsys, "gan", "--source", "critic", "--kind", "gan").out
    assert "Use clip_by_global_norm(" in output(capsys, "gan", "--source", "generator", "--kind", "gan").out
    assert "broke down" in output(capsys, "gan", "--source", "critic").out  # the loss rises


def test_each_of_several_gets_an_answer(tmp_path, capsys):
    """Folds of one script: the first has no name of its own."""
    norms, losses = recorded("pm25-lstm-none")
    writer = Writer(tmp_path / "a.db", "u", "folds", command="python train.py", facts={"unnamed": "net"})
    writer.write([rows(clipwise__norm=np.ones(200)), rows("net2", clipwise__norm=norms, loss=losses)])
    writer.finish()
    text = output(capsys, "--db", str(tmp_path / "a.db")).out
    first, second = text.split("net2:")
    assert "net:\nClipping is not needed." in first
    assert "Use auto()." in second
    assert "broke down" in second
    data = json.loads(output(capsys, "--json", "--db", str(tmp_path / "a.db")).out)
    assert {name: one["verdict"] for name, one in data["sources"].items()} == {
        "": "not needed",
        "net2": "adapt",
    }
    assert "Use auto()." in output(capsys, "--source", "net2", "--db", str(tmp_path / "a.db")).out
    with Store(tmp_path / "a.db") as store, pytest.raises(StoreError, match="norms of '', 'net2': name one"):
        suggest_run(store)


def test_the_recorded_command_is_in_the_line_to_try(tmp_path, capsys):
    for number, command in enumerate([f"{sys.executable} train.py --lr 0.1", "python -c 'import x'"]):
        writer = Writer(tmp_path / f"{number}.db", "u", "run", command=command)
        writer.write([rows(clipwise__norm=spiked())])
        writer.finish()
        text = output(capsys, "--db", str(tmp_path / f"{number}.db")).out
        assert text.rstrip().endswith(("python train.py --lr 0.1", "-- python train.py")[number])


def test_a_terminal_that_takes_ascii_only(path, monkeypatch):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert main(["suggest"]) == 0
    ascii_only.flush()
    assert b"\n* " in ascii_only.buffer.getvalue()


def test_another_loss(path, capsys):
    assert output(capsys, "--loss", "train").out == output(capsys, "--loss", "loss").out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nobody"], "no run 'nobody'"),
        (["spikd"], "Did you mean 'spiked'?"),
        (["--db", "none.db"], "there is no recording 'none.db'"),
        (["--db", "text.txt"], "'text.txt' is not a recording"),
        (["--db", "."], "a folder"),
        (["logs"], "run 'logs' has no gradient norms"),
        (["empty"], "run 'empty' has no gradient norms"),
        (["gan", "--source", "critics"], "no source 'critics'. Did you mean 'critic'?"),
        (["spiked", "--source", "critic"], "no source 'critic'. It has only one."),
        (["--loss", "trains"], "Did you mean 'train'?"),
        (["--kind", "transfomer"], "Did you mean 'transformer'?"),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_mistakes(path, capsys, words, sentence, form):
    (path.parent / "text.txt").write_text("no database " * 1000)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    said = output(capsys, *words, *form, code=2)
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()}.items() >= before.items()
    assert not (path.parent / "none.db").exists()


def test_an_empty_file(tmp_path, capsys):
    (tmp_path / "e.db").touch()
    assert "nothing has been recorded" in output(capsys, "--db", str(tmp_path / "e.db"), code=2).err
    Writer(tmp_path / "w.db", "u", "begun").close()
    with Store(tmp_path / "w.db") as store, pytest.raises(StoreError, match="no gradient norms"):
        suggest_run(store)


def test_a_hostile_name(tmp_path, capsys):
    write(tmp_path / "h.db", "u", rows(clipwise__norm=spiked()), name="[red]\x1b[31m\x07evil[/red]\n")
    text = output(capsys, "--db", str(tmp_path / "h.db")).out
    assert "run [red]\\x1b[31m\\x07evil[/red]\\n (number 1" in text
    assert "\x1b" not in text


# What is known of a run beside its norms.


def suggestion(tmp_path, *tables, clip=None, **options):
    write(tmp_path / "r.db", "u", *tables, clip=clip)
    with Store(tmp_path / "r.db") as store:
        return suggest_run(store, **options)


def test_steps_are_those_of_the_recording(tmp_path):
    norms, losses = recorded("pm25-lstm-none")
    steps = 10 * np.arange(1, 51)
    found = suggestion(tmp_path, rows(clipwise__norm=norms, steps=steps), rows(loss=losses, steps=steps))
    assert "broke down at step 70:" in " ".join(found.reasons)
    assert found.clip == auto()


def test_losses_at_some_steps_only(tmp_path):
    losses = np.concatenate([falling(30), np.full(10, 3.5)])
    steps = 10 * np.arange(1, 41)
    found = suggestion(tmp_path, rows(clipwise__norm=noise(400)), rows(loss=losses, steps=steps))
    assert "broke down at step 310:" in " ".join(found.reasons)


def test_a_clip_that_acted_is_kept_as_it_is_written(tmp_path):
    calm = noise(200)
    bound = np.full(200, float(np.percentile(calm, 10)))
    columns = rows(clipwise__norm=calm, clipwise__threshold=bound, clipwise__clip_fraction=calm > bound)
    found = suggestion(tmp_path, columns, clip="autoclip(10)")
    assert found.headline == "Keep autoclip()."
    assert "by autoclip() in 90 % of its steps" in " ".join(found.reasons)


def test_thresholds_of_single_tensors_are_not_compared_with_the_global_norm(tmp_path):
    calm = noise(200)
    columns = {"clipwise__norm": calm, "clipwise__threshold": np.full(200, 0.1)}
    seldom = rows(**columns, clipwise__clip_fraction=np.arange(200) % 10 == 0)
    found = suggestion(tmp_path, seldom, clip="clip_by_norm(0.1)")
    assert found.verdict == "clip"
    assert "by clip_by_norm(0.1) in 10 % of its steps" in " ".join(found.reasons)
    often = rows(**columns, clipwise__clip_fraction=np.arange(200) % 10 != 0)
    (tmp_path / "r.db").unlink()
    assert suggestion(tmp_path, often, clip="clip_by_norm(0.1)").headline == "Keep clip_by_norm(0.1)."
    (tmp_path / "r.db").unlink()
    assert suggestion(tmp_path, often).verdict == "clip"  # not known what it was


def test_of_several_clippers_each_has_its_own(tmp_path):
    norms = {"generator": noise(200), "critic": 5 * noise(200, seed=3)}
    bounds = {"generator": np.full(200, 0.9), "critic": np.full(200, 4.5)}
    tables = [
        rows(
            name,
            clipwise__norm=norms[name],
            clipwise__threshold=bounds[name],
            clipwise__clip_fraction=norms[name] > bounds[name],
        )
        for name in norms
    ]
    write(tmp_path / "r.db", "u", *tables, clip="clip_by_global_norm(0.9)")  # the first one's
    with Store(tmp_path / "r.db") as store:
        generator, critic = (suggest_run(store, source=name) for name in norms)
    assert generator.headline == "Keep clip_by_global_norm(0.9)."
    assert "order" not in " ".join(generator.reasons)
    assert critic.headline == "Keep clip_by_global_norm(4.5)."
    assert critic.threshold == 4.5
    assert "clip_by_global_norm(0.9)" not in " ".join(critic.reasons)
    assert "Which clip that was is not recorded" in " ".join(critic.reasons)


def test_the_parts_of_by_name_have_their_own_clip(tmp_path):
    norms, bound = noise(200), np.full(200, 0.5)
    columns = {
        "clipwise__norm": norms,
        "clipwise__threshold": bound,
        "clipwise__clip_fraction": norms > bound,
    }
    tables = [rows(**columns), rows("by_name/head.*", **columns)]
    clip = "by_name({'head.*': clip_by_global_norm(0.5), '*': agc})"
    write(tmp_path / "r.db", "u", *tables, clip=clip)
    with Store(tmp_path / "r.db") as store:
        whole, head = (suggest_run(store, source=source) for source in ("", "by_name/head.*"))
    assert whole.verdict == head.verdict == "keep"
    assert head.clip == clip_by_global_norm(0.5)
    assert whole.clip == parse(clip)


def test_weights_that_are_clipped_are_no_gradients(tmp_path):
    norms, bound = noise(200), np.full(200, 0.9)
    columns = {
        "clipwise__norm": norms,
        "clipwise__threshold": bound,
        "clipwise__clip_fraction": norms > bound,
    }
    weights = rows("weights", **columns, clipwise__at_bound=bound)
    write(tmp_path / "r.db", "u", rows(**columns), weights, clip="clip_by_global_norm(0.9)")
    with Store(tmp_path / "r.db") as store:
        assert suggest_run(store).headline == "Keep clip_by_global_norm(0.9)."
        with pytest.raises(StoreError, match="no source 'weights'"):
            suggest_run(store, source="weights")


def test_the_order_is_that_of_the_clip(tmp_path):
    bound = np.full(200, 100.0)
    norms = spiked()
    columns = rows(clipwise__norm=norms, clipwise__threshold=bound, clipwise__clip_fraction=norms > bound)
    found = suggestion(tmp_path, columns, clip="clip_by_global_norm(100.0, norm=inf)")
    assert found.clip == clip_by_global_norm(found.threshold, INF)


def test_a_bad_kind_comes_first(tmp_path):
    write(tmp_path / "r.db", "u")
    with Store(tmp_path / "r.db") as store, pytest.raises(ArgumentError, match="kind"):
        suggest_run(store, kind="x")


@pytest.mark.filterwarnings("ignore::clipwise.monitor.MonitorWarning")
def test_a_real_training(tmp_path):
    torch = pytest.importorskip("torch")
    import clipwise

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    monitor = clipwise.Monitor(tmp_path / "m.db", run="line")
    clipper = monitor.attach(clipwise.torch.attach(optimizer, clip_by_global_norm(INF), model=model))
    norms = []
    for step in range(120):
        optimizer.zero_grad()
        inputs = torch.randn(32, 4)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean() + 1
        (loss * (1000 if step % 30 == 29 else 1)).backward()
        norms.append(float(sum(p.grad.double().square().sum() for p in model.parameters()) ** 0.5))
        if step % 30 == 29:  # a spike that the weights do not feel
            optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 1e-4
        monitor.log(loss=loss)
    assert clipper.steps == 120
    monitor.close()
    with Store(tmp_path / "m.db") as store:
        found = suggest_run(store, "line")
    assert found.statistics.max == pytest.approx(max(norms), rel=1e-5)
    assert found.statistics.median == pytest.approx(np.median(norms), rel=1e-5)
    assert found.verdict == "clip"
    usual = [norm for norm in norms if norm <= 10 * np.median(norms)]
    assert len(usual) == 116
    assert found.threshold == pytest.approx(np.percentile(usual, 95), rel=0.05)
