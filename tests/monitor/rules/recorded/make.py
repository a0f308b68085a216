"""Trains the lab's tasks and writes what a Monitor recorded of them: ``python make.py NAME ...``."""

import csv
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import clipwise
import clipwise.torch
from clipwise.config import parse
from clipwise.config.files import read_mapping
from clipwise.lab.config.lab_config import parse_config
from clipwise.lab.training import loop, train
from clipwise.monitor import Monitor, Store

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[3] / "examples"
AS_IT_IS = object()


def lab(example: str, steps: int, clip: Any = AS_IT_IS, **changes: Any) -> Any:
    """A run of an example, its configuration changed here and there."""

    def run(monitor: Monitor) -> None:
        given = read_mapping(EXAMPLES / f"{example}.json")
        given["training_parameters"].pop("epochs", None)
        given["training_parameters"]["steps"] = steps
        for key, value in changes.items():
            section = "training_parameters" if key in ("optimizer", "learning_rate", "momentum") else None
            (given[section] if section else given)[key] = value
        config = parse_config(given)
        chosen = config.clip if clip is AS_IT_IS else None if clip is None else parse(clip)

        def attached(*args: Any, **kwargs: Any) -> Any:
            return monitor.attach(clipwise.torch.attach(*args, **kwargs))

        with mock.patch.object(loop, "attach", attached):
            train.train(config, chosen, label="", role="configured")

    return run


def sigmoids(deep: int, steps: int) -> Any:
    """A stack of sigmoid layers on digits, as nobody builds them any more: gradients vanish on their way."""

    def run(monitor: Monitor) -> None:
        from sklearn.datasets import load_digits

        data, labels = load_digits(return_X_y=True)
        torch.manual_seed(0)
        x, y = torch.tensor(data, dtype=torch.float32) / 16, torch.tensor(labels)
        layers: list[nn.Module] = [nn.Linear(64, 32)]
        for _ in range(deep):
            layers += [nn.Sigmoid(), nn.Linear(32, 32)]
        model = nn.Sequential(*layers, nn.Sigmoid(), nn.Linear(32, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        clip = clipwise.clip_by_global_norm(1.0)
        clipper = monitor.attach(clipwise.torch.attach(optimizer, clip, model=model))
        for _ in range(steps):
            chosen = torch.randint(len(x), (64,))
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            clipper.observe(loss)
            optimizer.step()

    return run


def transformer(monitor: Monitor) -> None:
    lab("chatbot-gru", 300, "clip_by_global_norm(1.0)", model_type="Transformer", optimizer="Adam")(monitor)


RUNS = {
    # Healthy: no rule may speak.
    "chatbot": lab("chatbot-gru", 500),
    "chatbot_auto": lab("chatbot-gru", 300, "auto()"),
    "chatbot_autoclip": lab("chatbot-gru", 300, "autoclip(10)"),
    "chatbot_transformer": transformer,
    "fraud": lab("fraud-lstm", 400),
    "fraud_autoclip": lab("fraud-lstm", 300, "autoclip(10)"),
    "pm25": lab("pm25-lstm", 400),
    "pm25_auto": lab("pm25-lstm", 300, "auto()"),
    "shakespeare": lab("shakespeare-lstm-sgd", 400),
    "shakespeare_autoclip": lab("shakespeare-lstm-sgd", 300, "autoclip(10)"),
    # Not healthy.
    "shakespeare_unclipped": lab("shakespeare-lstm-sgd", 200, None),
    "pm25_unclipped": lab("pm25-lstm", 300, None),
    "chatbot_tight": lab(
        "chatbot-gru", 300, "clip_by_global_norm(0.001)", optimizer="SGD", learning_rate=1.0
    ),
    "sigmoids": sigmoids(8, 300),
}


def record(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        with Monitor(path, run=name) as monitor:
            RUNS[name](monitor)
        with Store(path) as store:
            names = [n for n in store.names(1) if n not in ("time", "clipwise/skipped")]
            series = store.series(1, names)
            steps = series["clipwise/norm"].steps
            columns = {n: dict(zip(s.steps.tolist(), s.values, strict=True)) for n, s in series.items()}
            write(
                f"{name}.csv", names, [[s, *(columns[n].get(s, "") for n in names)] for s in steps.tolist()]
            )
            layers = store.layers(1)
            rows = [[s, *norms] for s, norms in zip(layers.steps.tolist(), layers.norms, strict=True)]
            write(f"{name}.layers.csv", list(layers.names), rows)


def write(file: str, names: list[str], rows: list[Any]) -> None:
    with (HERE / file).open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["step", *names])
        table.writerows([[row[0], *(v if v == "" else f"{v:.6g}" for v in row[1:])] for row in rows])


if __name__ == "__main__":
    for chosen in sys.argv[1:] or RUNS:
        record(chosen)
        print(chosen, flush=True)
