"""The pages say what is so: their Python examples run, and their pictures are what the library draws.

Examples with prompts are doctests. The others are fragments of a program: each page names what they take
for granted, in SETTINGS. Pages with tests of their own (ELSEWHERE) run there.
"""

import contextlib
import doctest
import importlib.util
import re
import textwrap
from pathlib import Path

import optax
import pytest

from tests.depth import brief

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = {"configuration.md", "clips.md", "suggest.md", "lightning.md", "huggingface.md", "accelerate.md"}

LEFT_OUT = {
    ("exporters.md", ">>> events = EventAccumulator"): "shows the numbers and times of one run",
    ("sharded.md", "fully_shard(model)"): "needs several processes; so does the rest of that page",
    ("sharded.md", "groups = {"): "the same",
    ("sharded.md", "model_state, optimizer_state = get_state_dict"): "the same",
    ("keras.md", "import keras, clipwise.keras"): "compiles a step; tests/keras fits models",
    ("keras.md", "with keras.StatelessScope"): "is for the JAX back end; tests/keras has it",
}

LINE = """
import torch, clipwise
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = model(torch.ones(2, 4)).mean()
"""

SETTINGS = {
    "pytorch.md": LINE,
    "monitor.md": LINE
    + """
data = [0]
with clipwise.Monitor("clipwise.db", run="lstm") as earlier:
    earlier.log(step=1, loss=1.0)
    """,
    "alerts.md": "my_function = print",
    "dashboard.md": "import clipwise; clipwise.Monitor('clipwise.db').close()",
    "exporters.md": """
        import clipwise
        with clipwise.Monitor("clipwise.db", run="toy") as toy:
            toy.log(step=1, loss=1.0)
    """,
    "ratios.md": """
        import torch
        logp, values = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
        old_logp, advantages, old_values, returns, rollout_logp = torch.randn(5, 2, 3)
        mask = torch.ones(2, 3, dtype=bool)
        monitor = type("Monitor", (), {"log": lambda self, **values: values})()
    """,
    "per-example.md": """
        import torch, clipwise
        model = torch.nn.Linear(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        indices = range(6)
        loader = [(torch.ones(6, 4), torch.zeros(6, dtype=int))]
        poisson_batches = lambda rate: loader
        loss, usual = 4.0, 1.0
    """,
    "weights.md": LINE
    + """
import keras, optax
critic, real, fake = torch.nn.Linear(3, 1), torch.randn(4, 3), torch.randn(4, 3)
    """,
    "activations.md": """
        import torch, clipwise
        features = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
        head = torch.nn.ModuleDict({"act": torch.nn.ReLU()})
        model = torch.nn.ModuleDict({"features": features, "head": head})
        train = lambda model: model["head"]["act"](model["features"](torch.ones(2, 3)))
        path = "bounds.pt"
    """,
    "attention.md": LINE
    + """
attention = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(8, 64), "k_proj": torch.nn.Linear(8, 16)})
attention.q_proj, attention.k_proj = attention["q_proj"], attention["k_proj"]
q, k = torch.ones(1, 32, 5, 2), torch.ones(1, 8, 5, 2)
    """,
    "jax.md": """
        import clipwise, jax, optax
        params, grads = {"w": jax.numpy.ones(3)}, {"w": jax.numpy.ones(3)}
        clip, loss, schedule = clipwise.clip_by_global_norm(1.0), 1.0, optax.constant_schedule(1.0)
        state = clipwise.jax.init(clip, params)
        loss_fn = lambda params, x, y: (params["w"] @ x - y) ** 2
        inputs, targets = jax.numpy.ones((4, 3)), jax.numpy.zeros(4)
    """,
    "keras.md": """
        import keras, clipwise
        optimizer, loss = clipwise.keras.attach(keras.optimizers.SGD(), "auto"), 1.0
        optimizer.build([keras.Variable([1.0])])
    """,
    "tensorflow.md": """
        import tensorflow as tf, clipwise, keras
        variables, path = [tf.Variable([1.0])], "saved"
        model = type("Model", (tf.Module,), {"__call__": lambda self, x: x * variables[0]})()
        optimizer = type("Optimizer", (tf.Module,), {"apply_gradients": lambda self, pairs: list(pairs)})()
        loss_of = lambda found, y: tf.reduce_mean((found - y) ** 2)
        inputs, targets = tf.ones((4, 1)), tf.zeros((4, 1))
    """,
}

PAGES = [
    str(page.relative_to(DOCS))
    for page in sorted(DOCS.rglob("*.md"))
    if page.name not in ELSEWHERE and "```python" in page.read_text(encoding="utf-8")
]


def left_out(page: str, block: str) -> bool:
    return any(page == name and block.startswith(begins) for name, begins in LEFT_OUT)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.S | re.M)
    blocks = [block for block in blocks if not left_out(page, block)]
    names = {"__name__": page}
    exec(textwrap.dedent(SETTINGS.get(page, "")), names)
    with contextlib.ExitStack() as ends:
        for block in blocks:
            if ">>>" in block:
                test = doctest.DocTestParser().get_doctest(block, names, page, page, 0)
                assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
                names = test.globs
                continue
            exec(compile(block, page, "exec"), names)
            if hasattr(names.get("monitor"), "close"):
                ends.callback(names["monitor"].close)


def test_what_is_left_out_is_there():
    for page, begins in LEFT_OUT:
        assert f"```python\n{begins}" in (DOCS / page).read_text(encoding="utf-8")


def test_every_page_of_a_method_has_its_picture():
    spec = importlib.util.spec_from_file_location("draw_methods", DOCS / "draw_methods.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    pages = {page.stem for page in (DOCS / "methods").glob("*.md")} - {"index"}
    assert pages == set(draw.METHODS) == {page.stem for page in (DOCS / "methods").glob("*.svg")}
    for name in pages:
        assert f"]({name}.svg)" in (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    for name in brief(draw.METHODS, "clip_by_norm"):
        assert draw.drawing(draw.METHODS[name]) == (DOCS / "methods" / f"{name}.svg").read_text()


def test_our_lines_for_those_of_other_libraries():
    names: dict[str, object] = {"t": 1.0, "r": 0.01}
    exec(
        f"{LINE}\nimport keras, optax\nAdam, parameters = keras.optimizers.Adam, [*model.parameters()]", names
    )
    rows = re.findall(r"^\|.*$", (DOCS / "migrating.md").read_text(encoding="utf-8"), re.M)
    lines = [code for row in rows for code in re.findall(r"`(clipwise\..*?\))`", row)]
    lines.remove("clipwise.torch.patch()")
    assert len(lines) >= 15
    for line in lines:
        of_jax = {"optimizer": optax.sgd(0.1), "clip": "auto"} if "clipwise.jax" in line else {}
        assert eval(line, names | of_jax) is not None


def test_the_figures_of_the_alternatives_are_those_of_the_suite():
    def table(text):
        return [
            [cell.strip(" *") for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*$", text, re.M)
        ]

    results = (DOCS.parent / "benchmarks" / "results" / "lab-full.md").read_text(encoding="utf-8")
    tasks = dict(re.findall(r"^## [^\n]*\n\n`([\w-]+)`(.*?)(?=^## |\Z)", results, re.M | re.S))
    page = (DOCS / "alternatives.md").read_text(encoding="utf-8")
    rows = table(page[page.index("| task (figure)") : page.index("*Best fixed norm*")])
    columns = {
        "no clipping": "no clipping",
        "norm 1": "global norm 1",
        "warm-up, decay": "no clipping, warm-up and decay",
    }
    compared = 0
    for task, *shown in rows[2:]:
        found = table(tasks[task.split("`")[1]])
        figures = {row[0]: row[1] for row in found}
        figures["best fixed norm"] = next(row[1] for row in found if row[2] == "best fixed")
        for column, figure in zip(rows[0][1:], shown, strict=True):
            name = columns.get(column, column if column in figures else f"no clipping, {column}")
            assert figure.split()[0] == figures.get(name, "–").split()[0].strip("*"), (task, column)
            compared += 1
    assert compared == 7 * 16


def test_the_lines_of_the_readme_for_each_framework():
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^## Frameworks\n\n((?:    .*\n)+)", text, re.M)
    assert block is not None
    of_jax, of_keras, of_tensorflow, of_trainers = textwrap.dedent(block[1]).splitlines()
    names = {"clip": "clip_by_global_norm(1.0)"}
    exec(f"{LINE}\nimport keras, optax, tensorflow as tf", names)
    exec(of_jax, names)
    assert isinstance(names["optimizer"], optax.GradientTransformationExtraArgs)
    names["model"] = names["keras"].Sequential([names["keras"].layers.Dense(1)])
    exec(of_keras, names)
    names |= {"gradients": [names["tf"].constant([3.0, 4.0])], "variables": None, "state": None}
    exec(of_tensorflow, names)
    assert names["gradients"][0].numpy().tolist() == pytest.approx([0.6, 0.8])
    assert of_trainers.startswith(
        "trainer = Trainer(..., callbacks=[ClipCallback(clip)])"
    )  # tests/integrations
