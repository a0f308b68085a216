"""For each extra of pyproject.toml a small real use of what it brings, run in an empty folder.

Each is a list of steps; a step is Python, a file of the repository with its arguments (``@...``), or a
command line (``$ ...``).
"""

RECORDED = """
import numpy as np, clipwise
norms = np.random.default_rng(0).lognormal(size=200)
with clipwise.Monitor("clipwise.db", run="toy", rules=[]) as monitor:
    for step, norm in enumerate(norms, 1):
        after = min(norm, 1.0)
        monitor.record(clipwise.ClipReport(
            norm=norm, norm_after=after, threshold=1.0, clipped=norm > 1, clip_fraction=float(norm > 1)))
        monitor.log(loss=1 / step)
"""

EXPORTED = """
from clipwise.monitor import Store
from clipwise.monitor.exporters import TOOLS, export
with Store("clipwise.db") as store:
    export(store, "toy", TOOLS["{0}"]("{1}"))
"""

JAX = """
import jax, jax.numpy as jnp, numpy as np, optax, clipwise
optimizer = optax.chain(clipwise.jax.transform(clipwise.clip_by_global_norm(1.0)), optax.sgd(1.0))
gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
updates, state = jax.jit(optimizer.update)(gradients, optimizer.init(gradients))
np.testing.assert_allclose(updates["a"], [-0.6, 0.0], rtol=1e-6)
np.testing.assert_allclose(updates["b"], [-0.8], rtol=1e-6)
"""

YAML = """
import clipwise
from pathlib import Path
Path("clip.yaml").write_text("method: clip_by_global_norm\\nthreshold: 0.5\\n")
assert clipwise.config.load("clip.yaml") == clipwise.clip_by_global_norm(0.5)
"""

DATA = """
import duckdb, numpy as np, pyarrow as pa, pyarrow.parquet
from clipwise.data import Clipper
column = np.array([[1.0], [2.0], [3.0], [4.0], [100.0]])
assert Clipper("iqr").fit(column).transform(column).max() == 7.0
pyarrow.parquet.write_table(pa.table({"x": column[:, 0]}), "in.parquet")
"""

READ = "import pyarrow.parquet; assert max(pyarrow.parquet.read_table('out.parquet')['x'].to_pylist()) == 7.0"

SERVED = """
import subprocess, sys, time, urllib.request
server = subprocess.Popen(["clipwise", "dashboard", "--port", "18765"])
try:
    for attempt in range(60):
        time.sleep(1)
        try:
            page = urllib.request.urlopen("http://127.0.0.1:18765/").read()
            break
        except OSError:
            assert server.poll() is None and attempt < 59
    assert b"clipwise" in page
finally:
    server.terminate()
    server.wait()
"""

NOTIFIED = """
import http.server, threading, clipwise
heard = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        heard.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200); self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
with clipwise.Monitor("clipwise.db", run="toy", notify=[f"json://127.0.0.1:{server.server_port}"]) as monitor:
    monitor.log(step=1, loss=1.0)
    monitor.log(step=2, loss=float("nan"))
assert heard and b"toy" in heard[0], heard
"""

RAY = """
import os
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray, torch, clipwise
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
def worker():
    model = prepare_model(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.1), model=model)
    model(torch.ones(8, 4)).square().mean().backward()
    optimizer.step()
    ray.train.report({"after": float(clipper.report.norm_after)})
ray.init(num_cpus=2, include_dashboard=False)
scaling = ScalingConfig(num_workers=1, use_gpu=False)
result = TorchTrainer(worker, scaling_config=scaling, run_config=RunConfig(storage_path=os.getcwd())).fit()
assert abs(result.metrics["after"] - 0.1) < 1e-4, result.metrics
"""

SITE = """
from pathlib import Path
Path("conf.py").write_text('extensions = ["myst_parser", "sphinx_copybutton"]\\nhtml_theme = "furo"\\n')
Path("index.md").write_text("# A page\\n\\n```python\\n1\\n```\\n")
import nbclient, nbformat
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
nbclient.NotebookClient(book).execute()
assert book.cells[0].outputs[0].data["text/plain"] == "2"
"""

LAB = """
import json
from pathlib import Path
Path("text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
Path("tiny.json").write_text(json.dumps({
    "model_type": "RNN", "task": "Language_Modeling", "data": {"path": "text.txt"}, "device": "cpu",
    "model_parameters": {"hidden_size": 8, "embedding_size": 4},
    "training_parameters": {
        "optimizer": "SGD", "learning_rate": 0.5, "steps": 6, "batch_size": 4, "sequence_length": 16,
        "gradient_clipping": {"method": "clip_by_global_norm", "threshold": 0.1}}}))
"""

TORCH = ["@.ci/installed.py"]
CLI = [RECORDED, "$ clipwise runs", "$ clipwise suggest", "$ clipwise export toy --to csv"]
TRAINED = [LAB, "$ clipwise compare tiny.json --clip clip_by_value(0.01)"]

# Keras is nothing without a back end; KERAS_BACKEND is this one wherever extras are tried.
WITH = {"keras": "jax"}

USES: dict[str, list[str]] = {
    "torch": [*TORCH, "@examples/pytorch/loop.py"],
    "jax": [JAX],
    "keras": ["@examples/keras/fit.py"],
    "tensorflow": ["@examples/tensorflow/gradient_tape.py"],
    "lightning": [*TORCH, "@examples/trainers/lightning_trainer.py"],
    "transformers": ["@examples/trainers/hf_trainer.py", "@examples/trainers/accelerate_loop.py"],
    "ray": [RAY],
    "yaml": [YAML],
    "data": [DATA, "$ clipwise data clip in.parquet out.parquet --iqr 1.5", READ],
    "cli": CLI,
    "dashboard": [*CLI, "$ clipwise report toy -o toy.html --png toy.png", SERVED],
    "notify": [NOTIFIED],
    "tensorboard": [RECORDED, EXPORTED.format("tensorboard", "runs")],
    "wandb": [RECORDED, EXPORTED.format("wandb", ".")],
    "mlflow": [RECORDED, EXPORTED.format("mlflow", ".")],
    "trackio": [RECORDED, EXPORTED.format("trackio", ".")],
    "parquet": [RECORDED, EXPORTED.format("parquet", "toy.parquet")],
    "lab": TRAINED,
    "tune": [*TRAINED, "$ clipwise tune tiny.json --trials 3 --steps 4"],
    "docs": [SITE, "$ sphinx-build -W -q . site"],
}
USES["all"] = [step for extra, steps in USES.items() if extra not in ("ray", "docs") for step in steps]
USES["dev"] = ["$ ruff --version", "$ mypy --version", "$ lint-imports --help", *USES["all"]]
