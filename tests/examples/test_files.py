"""Each short example runs from the root of the repository, and what it prints is true."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from clipwise.monitor import Store
from tests.depth import thorough
from tests.examples.program import ROOT, output_of

NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?)"


def numbers(pattern, said):
    """The numbers of each place where the pattern, with ``#`` for a number, is found."""
    found = re.findall(pattern.replace("#", NUMBER), said)
    assert found, (pattern, said)
    return np.array(found, dtype=float)


def clips_to(threshold, said):
    """That norms above the threshold are printed as the threshold, as often as they are printed."""
    for norm, after in numbers("norm # -> #", said):
        assert after == threshold < norm


def test_every_example_has_a_line_in_the_table_and_a_test():
    folder = ROOT / "examples"
    table, tests = (folder / "README.md").read_text(), Path(__file__).read_text()
    for path in (*folder.rglob("*.py"), *folder.rglob("*.json"), *folder.rglob("*.ipynb")):
        name = path.relative_to(folder).as_posix()
        assert f"({name})" in table, f"{name} has no line in examples/README.md"
        assert path.parent == folder or name in tests, f"nothing runs {name}"


def test_outliers():
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    x, y = load_breast_cancer(return_X_y=True)
    x, *_ = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    x = np.where(np.random.default_rng(0).random(x.shape) < 0.005, 1000 * x, x)
    q25, q75 = np.quantile(x[:, 1], [0.25, 0.75])
    high = q75 + 3 * (q75 - q25)

    said = output_of("examples/data/outliers.py")
    assert numbers(r"clips \d+ below \([^)]*\) and # above", said)[1] == np.sum(x[:, 1] > high) > 0
    assert numbers("out.csv: largest radius [^,]*, texture #", said)[0] == pytest.approx(high, rel=1e-4)
    as_it_is, clipped = numbers("accuracy #", said)
    assert clipped > as_it_is


@thorough
def test_lbfgs():
    said = output_of("examples/pytorch/lbfgs.py")
    time = np.linspace(0, 10, 100)
    error = np.exp(0.5 * time) - 3 * np.exp(-0.8 * time)
    curve = np.exp(0.5 * time)
    first = math.hypot(np.mean(2 * error * curve), np.mean(2 * error * curve * time))
    assert numbers("largest norm #", said)[1] == pytest.approx(first, rel=0.01)  # the noise is left out here
    amplitude, rate = numbers("amplitude #, rate #", said)[1]
    assert (amplitude, rate) == pytest.approx((3.0, -0.8), abs=0.02)
    assert numbers("clipped # of # evaluations", said)[:, 0].tolist()[0] == 0
    assert 1 <= numbers("clipped # of # evaluations", said)[1][0] < numbers("clipped # of # eval", said)[1][1]


@thorough
def test_scheduled_threshold():
    rows = numbers("step +# .*threshold # +norm # -> #", output_of("examples/pytorch/scheduled_threshold.py"))
    for step, threshold, norm, after in rows:
        expected = 0.5 + 4.5 * (1 + math.cos(math.pi * min(step / 80, 1))) / 2
        assert threshold == pytest.approx(expected, abs=0.006)  # two digits are printed
        assert after == min(norm, threshold)
    assert len(rows) == 6


@thorough
def test_loop():
    said = output_of("examples/pytorch/loop.py")
    losses = numbers("loss #", said)
    assert losses[0] == pytest.approx(math.log(256), abs=0.1)
    assert losses[-1] < losses[0] / 2
    (clipped, steps) = numbers("clipped # of # steps", said)[0]
    assert 0 < clipped <= steps == 150


@thorough
def test_amp():
    said = output_of("examples/pytorch/amp.py")
    clips_to(0.5, said)
    scales, clipped = numbers("scale #", said), numbers("clipped # of 60", said)
    skipped = math.log2(2**24 / scales[1])  # each step that the scaler skips halves its scale
    assert skipped > 0
    assert clipped.tolist() == [60, 60 - skipped]


@thorough
def test_accumulation():
    said = output_of("examples/pytorch/accumulation.py")
    clips_to(0.5, said)
    norms = numbers("norm # ->.*norm #", said)
    assert norms[:, 0] == pytest.approx(norms[:, 1], rel=1e-3)
    assert numbers("# backward passes, # steps, # clipped", said)[0].tolist() == [80, 20, 20]
    assert numbers("a step: #", said)[0] < 1e-5


@thorough
def test_per_part():
    said = output_of("examples/pytorch/per_part.py")
    encoder, head, rest = (line.strip() for line in said.splitlines()[1:])
    assert encoder.startswith("encoder.*")
    assert head.startswith("head.*")
    assert rest.startswith("*")
    clips_to(0.05, encoder)
    assert numbers("threshold #", head) == 0.5
    assert 0 < numbers("threshold #", rest) != 0.5


@thorough
def test_dp_sgd():
    said = output_of("examples/pytorch/dp_sgd.py")
    assert numbers("threshold #, ", said) == 1
    assert numbers("by at most #", said) == 1 / 500  # of one example, clipped to 1, of a batch of 500
    assert numbers("accuracy #%", said) > 90
    assert 1 < numbers("epsilon #,", said) < 3


@thorough
def test_gan():
    said = output_of("examples/pytorch/gan.py")
    clips_to(0.1, said.partition("discriminator")[0])
    for clipped, steps in numbers("clipped # of # steps", said):
        assert 0 < clipped <= steps <= 201


@thorough
def test_lora():
    said = output_of("examples/pytorch/lora.py")
    (trained, total) = numbers("trained # of # weights", said)[0]
    assert trained == 4 * ((32 + 128) + (128 + 128) + (128 + 4))
    assert total == trained + 32 * 128 + 128 * 128 + 128 * 4 + 128 + 128 + 4
    assert "clipped: " + ", ".join(f"{i}.lora_{x}" for i in (0, 2, 4) for x in "AB") in said
    assert "frozen weights unchanged: True" in said


@thorough
def test_wgan():
    said = output_of("examples/pytorch/wgan.py")
    assert numbers("largest weight #,", said) == 0.1
    assert numbers("penalty: .*slope #", said)[0] == pytest.approx(1, abs=0.5)


@thorough
def test_bounded_activations():
    said = output_of("examples/pytorch/bounded_activations.py")
    bounds = numbers("bounds #, #", said)
    assert bounds[0].tolist() == [3, 3]
    assert numbers("activations up to #", said)[0] == bounds[-1][0] != 3


@thorough
def test_unmodified(tmp_path):
    file = tmp_path / "a.db"
    losses = []
    for options in (["--run", "first"], ["--run", "second", "--clip", "clip_by_global_norm(8)"]):
        observe = ["-m", "clipwise", "observe", "--db", file, *options]
        said = output_of(*observe, "--", "examples/pytorch/unmodified.py")
        losses.append(numbers("held-out loss #", said)[0])
    assert losses[1] < losses[0] / 10
    with Store(file) as store:
        for name in ("first", "second"):
            found = store.series(store.run(name).id, ["clipwise/norm", "clipwise/norm_after"])
            norms, after = (found[f"clipwise/{what}"].values for what in ("norm", "norm_after"))
            assert len(norms) == 300
            assert max(norms) > 80
            assert max(after) == (max(norms) if name == "first" else pytest.approx(8.0))


@thorough
def test_fsdp2():
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "examples/pytorch/fsdp2.py"]
    said = output_of(*command, OMP_NUM_THREADS="1")
    clips_to(0.5, said)
    rows = numbers("by rank #, #; whole: norm #", said)
    assert np.hypot(rows[:, 0], rows[:, 1]) == pytest.approx(rows[:, 2], rel=1e-3)
    assert (rows[:, :2] < rows[:, 2:]).all()
    assert sorted(re.findall(r"rank (\d): clipped 31 of 31", said)) == ["0", "1"]


@thorough
def test_lightning_trainer():
    said = output_of("examples/trainers/lightning_trainer.py")
    after, threshold = numbers("norm_after +#\nclipwise/threshold +#", said)[0]
    assert after <= threshold == 5
    assert numbers("clipped # of # steps", said)[0][1] == 3 * 1024 / 32


@thorough
def test_hf_trainer():
    said = output_of("examples/trainers/hf_trainer.py")
    rows = numbers("grad_norm # -> #", said)
    assert len(rows) == 4
    assert rows[:, 1] == pytest.approx(np.minimum(rows[:, 0], 0.5))
    assert numbers("clipped # of # steps", said)[0][1] == 40


@thorough
def test_accelerate_loop():
    said = output_of("examples/trainers/accelerate_loop.py")
    batches, steps, clipped = numbers("# batches: # steps, # clipped", said)[0]
    assert (batches, steps) == (192, 96)
    assert numbers("one more epoch: # steps", said)[0] == 128
    assert numbers("loaded: # steps, # clipped", said)[0].tolist() == [steps, clipped]


@thorough
def test_flax_optax():
    said = output_of("examples/jax/flax_optax.py")
    assert "step 150  loss nan  step skipped" in said
    assert "skipped 1 of 201 steps" in said
    losses = numbers("loss #", said)  # those that are numbers
    assert losses[-1] < losses[0] / 10


@thorough
@pytest.mark.parametrize("backend", ["jax", "torch", "tensorflow"])
def test_keras(backend):
    said = output_of("examples/keras/fit.py", KERAS_BACKEND=backend)
    assert f"back end {backend}" in said
    rows = numbers("clipwise/norm # +clipwise/norm_after # +clipwise/clip_fraction #", said)
    assert len(rows) == 4
    assert (rows[:, 1] <= 3.0 + 1e-9).all()
    assert (rows[:, 1] < rows[:, 0]).all()
    assert said.splitlines()[-1].endswith("True")


@thorough
def test_gradient_tape():
    said = output_of("examples/tensorflow/gradient_tape.py")
    assert "traced once: True" in said
    (clipped, steps) = numbers("clipped # of # steps", said)[0]
    assert 0 < clipped < steps == 201


@thorough
def test_ppo():
    said = output_of("examples/rl/ppo.py")
    rows = numbers("return +# +ratios outside #%, up to #", said)
    assert len(rows) == 6
    assert (rows[:, 2] > 1).all()
    assert ((rows[:, 1] > 0) <= (rows[:, 2] > 1.0)).all()
    assert numbers("clipped # of # gradients", said)[0][1] == 6 * 10 * 8


@thorough
def test_grpo():
    said = output_of("examples/rl/grpo.py")
    rewards, outside, binding, kl = numbers("reward +# +outside #% +binding #% +KL #", said).T
    assert rewards[-1] > 2 * rewards[0]
    assert (outside >= binding).all()
    assert (kl >= 0).all()
    if "->" in said:
        clips_to(0.2, said)


NOTEBOOKS = [
    "notebooks/why_runs_explode.ipynb",
    "notebooks/finding_a_threshold.ipynb",
    "notebooks/reading_a_bad_run.ipynb",
]


def code_of(name):
    cells = json.loads((ROOT / "examples" / name).read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_with_its_output(name):
    assert (ROOT / "examples" / name).stat().st_size < 300_000
    cells = code_of(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}  # no warning, no error


@thorough
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("\n\n".join("".join(cell["source"]) for cell in code_of(name)))
    said = output_of(program, MPLBACKEND="agg")
    if "explode" in name:
        before, after = numbers("from loss # to #", said)[0]
        assert before < 0.1 < after
        assert numbers("ends at w = #, b = #, loss #", said)[1][2] < 0.1
    elif "finding" in name:
        by_threshold = dict(numbers("threshold # +#", said))
        assert min(by_threshold, key=by_threshold.get) not in (0.01, 10)
        assert numbers("recommended +#\n", said)[0] < by_threshold[0.01]
    else:
        bad, clipped, too_low = re.findall("held-out loss (.*)", said)
        assert bad == "nan"
        assert float(clipped) < float(too_low) / 5
        assert "bad: diverged" in said
        assert said.count("threshold_too_low") == 1
