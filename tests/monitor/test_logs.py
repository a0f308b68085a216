"""Logs of other tools: the same rows in each format give what the numbers themselves give."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from clipwise.cli.commands import cli
from clipwise.errors import ClipwiseError, StoreError
from clipwise.monitor.logs import columns_of, read_log, recorded
from clipwise.monitor.rules import default_rules, replay
from clipwise.monitor.store import NORM
from clipwise.monitor.suggest import suggest, suggest_run

STEPS = range(10, 2010, 10)
RANDOM = np.random.default_rng(0)
NORMS = RANDOM.lognormal(0.0, 0.3, len(STEPS)) * np.where(np.arange(len(STEPS)) == 150, 40.0, 1.0)
LOSSES = 3.0 / np.sqrt(STEPS)


def rows(norm="grad_norm", loss="loss", step="step"):
    triples = zip(STEPS, LOSSES.tolist(), NORMS.tolist(), strict=True)
    return [{step: s, "epoch": s / 100, loss: value, norm: size} for s, value, size in triples]


def trainer_state(folder):
    summary = {"step": 2000, "train_loss": 0.5, "train_runtime": 1.0}
    (folder / "checkpoint-900").mkdir()
    (folder / "checkpoint-900" / "trainer_state.json").write_text("{}")
    (folder / "checkpoint-2000").mkdir()
    file = folder / "checkpoint-2000" / "trainer_state.json"
    file.write_text(json.dumps({"global_step": 2000, "log_history": [*rows(), summary]}))
    return folder


def json_lines(folder):
    file = folder / "log.jsonl"
    lines = [json.dumps(row) for row in rows("Grad-Norm", "lm loss", "iteration")]
    file.write_text("\n".join(["starting {at once}", *lines]))
    return file


def printed(folder):
    file = folder / "train.log"
    file.write_text("\n".join(f"12:00 INFO {row}" for row in rows()))
    return file


def csv_with_gaps(folder):
    """As Lightning's CSVLogger has it: what is logged together stands in one row, the rest is empty."""
    lines = ["epoch,grad_2.0_norm_total,step,train_loss_step,val_loss"]
    for row in rows():
        lines += [f"0,{row['grad_norm']},{row['step']},,", f"0,,{row['step']},{row['loss']},9.0"]
    (folder / "metrics.csv").write_text("\n".join(lines))
    return folder


def by_columns(folder):
    """As pandas' ``to_json`` writes the history of a run of W&B."""
    file = folder / "history.json"
    table = rows("train/grad_norm", "train/loss", "_step")
    columns = {name: {str(i): row[name] for i, row in enumerate(table)} for name in table[0]}
    file.write_text(json.dumps(columns))
    return file


def events(folder):
    """Norms as PyTorch writes numbers, losses as TensorFlow does; the last record is cut off."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    with (folder / "events.out.tfevents.1").open("wb") as file:
        writer = RecordWriter(file)
        for i, row in enumerate(rows()):
            event = Event(step=row["step"], wall_time=5.0)
            event.summary.value.add(tag="train/grad_norm", simple_value=row["grad_norm"])
            tensor = event.summary.value.add(tag="train/loss").tensor
            tensor.dtype = 1
            if i % 2:
                tensor.tensor_content = np.float32(row["loss"]).tobytes()
            else:
                tensor.float_val.append(row["loss"])
            writer.write(event.SerializeToString())
        end = file.tell()
        writer.write(event.SerializeToString())
        file.truncate(end + 30)
    return folder


@pytest.mark.parametrize("write", [trainer_state, json_lines, printed, csv_with_gaps, by_columns, events])
def test_every_format_gives_what_the_numbers_give(write, tmp_path):
    tolerance = 1e-7 if write is events else 0.0  # TensorBoard keeps float32
    with recorded(read_log(write(tmp_path))) as store:
        run = store.run()
        series = store.series(run.id, [NORM, "loss"])
        found = suggest_run(store, run)
        alerts = replay(default_rules(), store, run.id)
    for name, values in ((NORM, NORMS), ("loss", LOSSES)):
        np.testing.assert_array_equal(series[name].steps, STEPS)
        np.testing.assert_allclose(series[name].values, values, rtol=tolerance)
    assert found.headline == suggest(NORMS, losses=LOSSES).headline
    assert [(one.rule, one.step) for one in alerts] == [("gradient_spike", STEPS[150])]


def test_parts_of_a_model_are_sources_of_their_own(tmp_path):
    file = tmp_path / "m.csv"
    lines = [f"{s},{n},{2 * n},{v}" for s, n, v in zip(STEPS, NORMS, LOSSES, strict=True)]
    file.write_text("\n".join(["step,actor/grad_norm,critic/grad_norm,critic/loss", *lines]))
    with recorded(read_log(file)) as store:
        assert store.clippers(1) == ["actor", "critic"]
        assert store.names(1, "actor") == [NORM]
        np.testing.assert_array_equal(store.series(1, ["loss"], "critic")["loss"].values, LOSSES)
    with recorded(read_log(file, norm="critic/grad_norm")) as store:
        np.testing.assert_array_equal(store.series(1, [NORM])[NORM].values, 2 * NORMS)


def test_numbers_that_are_none_and_steps_that_are_missing(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text(
        '{"grad_norm": NaN, "loss": "nan"}\n{"grad_norm": "Infinity"}\n{"grad_norm": null, "note": "x"}\n'
        '{"grad_norm": true}\n{"grad_norm": 2}\n'
    )
    (norms, losses) = read_log(file).rows
    np.testing.assert_array_equal(norms.data, [[1, math.nan], [2, math.inf], [5, 2.0]])
    np.testing.assert_array_equal(losses.data, [[1, math.nan]])


def test_a_held_out_loss_is_not_the_loss():
    found = columns_of(["step", "eval/loss", "val/grad_norm", "train/grad_norm", "grad_norm_per_layer"])
    assert found.norms == {"": "train/grad_norm"}
    assert found.losses == {}


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ('{"loss": 1.0}', {}, "no column has one of the usual names of a gradient norm"),
        ('{"grad_norm": 1.0}', {"norm": "gradnorm"}, "no numeric column is called 'gradnorm'"),
        ('{"grad_norm": 1.0}', {"loss": "los"}, "no numeric column is called 'los' \\(--loss\\)"),
        ('{"grad_norm": 1.0, "Grad-Norm": 2.0}', {}, "both 'grad_norm' and 'Grad-Norm' could be"),
        ('{"grad_norm": "high"}', {}, "holds no numbers"),
        ("hello", {}, "no line holds a JSON object"),
        ("", {}, "no line holds a JSON object"),
    ],
)
def test_what_is_no_log_is_said_in_one_sentence(content, options, said, tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text(content)
    with pytest.raises(StoreError, match=said):
        read_log(file, **options)


def test_files_that_are_none(tmp_path):
    (tmp_path / "run.wandb").write_bytes(bytes(range(256)))
    (tmp_path / "events.out.tfevents.1").write_bytes(bytes(range(256)))
    (tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "none", "there is no file"),
        (tmp_path / "empty", "holds no log with a known name"),
        (tmp_path / "run.wandb", "run.history"),
        (tmp_path / "events.out.tfevents.1", "is damaged, or no event file"),
    ):
        with pytest.raises(ClipwiseError, match=said):
            read_log(path)


def test_the_exit_code_of_check(tmp_path):
    calm, wild = tmp_path / "calm.jsonl", tmp_path / "wild.jsonl"
    wild.write_text("\n".join(map(json.dumps, rows())))
    calm.write_text("\n".join(json.dumps(row) for i, row in enumerate(rows()) if i != 150))

    def check(*words):
        found = CliRunner().invoke(cli, ["check", *map(str, words)], standalone_mode=False)
        if found.exception is not None:
            raise found.exception
        return found

    assert check("--from", calm).return_value == 0
    found = check("--from", wild, "--json")
    assert found.return_value == 1
    assert [one["step"] for one in json.loads(found.output)["alerts"]] == [STEPS[150]]
    assert check("--from", wild, "--level", "critical").return_value == 0
    with pytest.raises(ClipwiseError, match="not both"):
        check("run", "--from", wild)
    with pytest.raises(ClipwiseError, match="give the log with --from"):
        check("--norm", "x")
