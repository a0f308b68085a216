"""The lines to paste do run, and clip at the number that was recommended."""

import numpy as np
import pytest

import clipwise
from clipwise import autoclip, by_name, chain, clip_by_global_norm, clip_by_norm
from clipwise.monitor.suggest import suggest
from clipwise.monitor.suggest._lines import builtin_lines, expression, lines
from tests.monitor.suggest.series import INF, NAN, noise, spiked

NUMBER = suggest(spiked())
AUTO = suggest([*noise(20), *[NAN] * 20])
KEPT = autoclip(10), chain(clip_by_norm(1.0), clip_by_global_norm(2.0)), by_name({"*": clip_by_norm(1.0)})


def test_which_are_tested():
    assert NUMBER.threshold
    assert AUTO.clip == clipwise.auto()
    frameworks = {"pytorch", "keras", "optax", "lightning", "transformers"}
    assert NUMBER.lines.keys() == NUMBER.builtin.keys() == AUTO.lines.keys() == frameworks
    assert AUTO.builtin == {}


def run(text, **names):
    exec(text, names)  # the lines themselves are what is tested
    return names


def large(torch, model):
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)


@pytest.mark.parametrize("text", [NUMBER.lines["pytorch"], NUMBER.builtin["pytorch"]])
def test_pytorch(text):
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    large(torch, model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    run(text, torch=torch, model=model, optimizer=optimizer)
    optimizer.step()
    moved = (
        sum(float((p.detach() - b).square().sum()) for p, b in zip(model.parameters(), before, strict=True))
        ** 0.5
    )
    assert moved == pytest.approx(NUMBER.threshold, rel=1e-4)


@pytest.mark.parametrize("clip", [AUTO.clip, *KEPT])
def test_pytorch_with_other_clips(clip):
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    names = run(lines(clip)["pytorch"], model=model, optimizer=optimizer)
    large(torch, model)
    optimizer.step()
    assert names["clipper"].steps == 1
    assert names["clipper"].clip == clip


def test_another_order():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    large(torch, model)
    found = builtin_lines(clip_by_global_norm(2.0, INF))
    assert set(found) == {"pytorch"}  # the others only know the order 2
    run(found["pytorch"], torch=torch, model=model)
    assert float(model.weight.grad.abs().max()) == pytest.approx(2.0, rel=1e-4)
    assert builtin_lines(clip_by_global_norm(2.0, "rms")) == builtin_lines(clip_by_norm(1.0)) == {}


@pytest.mark.parametrize("text", [NUMBER.lines["optax"], NUMBER.builtin["optax"], AUTO.lines["optax"]])
def test_optax(text):
    jnp, optax = pytest.importorskip("jax.numpy"), pytest.importorskip("optax")
    names = run(text, optax=optax, optimizer=optax.sgd(1.0), learning_rate=1.0)
    params, grads = {"w": jnp.ones(4)}, {"w": jnp.full(4, 100.0)}
    state = names["optimizer"].init(params)
    updates, _ = names["optimizer"].update(grads, state, params)
    length = float(np.linalg.norm(np.asarray(updates["w"])))
    # auto: a fiftieth of the weights' norm
    assert length == pytest.approx(0.04 if text == AUTO.lines["optax"] else NUMBER.threshold, rel=1e-4)


@pytest.mark.parametrize("text", [NUMBER.lines["keras"], NUMBER.builtin["keras"]])
def test_keras(text):
    keras = pytest.importorskip("keras")
    made = run(text, keras=keras, learning_rate=1.0, optimizer=keras.optimizers.SGD(1.0))["optimizer"]
    weights = keras.Variable(np.ones(4, dtype=np.float32))
    made.build([weights])
    made.apply([keras.ops.convert_to_tensor(np.full(4, 100.0, dtype=np.float32))])
    if text == NUMBER.builtin["keras"]:
        assert made.global_clipnorm == NUMBER.threshold
    elif text == NUMBER.lines["keras"]:
        report = clipwise.keras.report(made)
        assert float(report.norm_after) == pytest.approx(NUMBER.threshold, rel=1e-4)
    moved = np.linalg.norm(np.asarray(keras.ops.convert_to_numpy(weights)) - 1)
    assert 0 < moved <= max(2.0, NUMBER.threshold * 1.001)  # Adam moves each of the four by its rate


@pytest.mark.parametrize("text", [NUMBER.lines["lightning"], NUMBER.builtin["lightning"]])
def test_lightning(text, monkeypatch, tmp_path):
    pl = pytest.importorskip("lightning.pytorch")
    monkeypatch.chdir(tmp_path)
    quiet = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = run(text, Trainer=lambda **given: pl.Trainer(**quiet, **given))["trainer"]
    if text == NUMBER.builtin["lightning"]:
        assert trainer.gradient_clip_val == NUMBER.threshold
    else:
        assert "ClipCallback" in [type(callback).__name__ for callback in trainer.callbacks]


@pytest.mark.parametrize("text", [NUMBER.lines["transformers"], AUTO.lines["transformers"]])
def test_transformers(text, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    made = run(
        text, Trainer=transformers.Trainer, model=torch.nn.Linear(1, 1), args=args, train_dataset=[{"x": 1}]
    )
    names = [type(callback).__name__ for callback in made["trainer"].callback_handler.callbacks]
    assert "ClipCallback" in names


def test_transformers_own(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    names = {"TrainingArguments": transformers.TrainingArguments, "output_dir": str(tmp_path)}
    assert run(NUMBER.builtin["transformers"], **names)["args"].max_grad_norm == NUMBER.threshold


def test_every_clip_can_be_written():
    for clip in (*KEPT, clip_by_global_norm(0.1), clip_by_global_norm(3.0, INF), clipwise.auto()):
        made = eval(expression(clip), {"clipwise": clipwise})
        assert (clipwise.config.parse(made) if isinstance(made, str) else made) == clip
