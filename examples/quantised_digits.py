"""Which activation keeps its accuracy in integers: ReLU, ReLU6, or a bound that is learned (PACT)?

A small network learns scikit-learn's handwritten digits in float32 and is then quantised by torch's own
static quantisation: int8 weights, and activations on 256 levels (8 bits, the usual) or on 16, 8 or 4 (4, 3
and 2 bits, run by the same int8 kernels). The range of an activation goes to the largest value seen on the
training data, or to its bound: an integer that cannot be larger is bounded at no cost. With ``--spike`` 1 in
200 pixels of the images is so many times as bright as white, and such pixels make large activations.

    python examples/quantised_digits.py [--quick] [--seeds 10] [--spike 8] [--out accuracy.png]
"""

import argparse
import statistics
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.ao import quantization

from clipwise.torch import PACT, ClippedReLU

ACTIVATIONS = {"ReLU": nn.ReLU, "ReLU6": lambda: ClippedReLU(6.0), "PACT": lambda: PACT(6.0)}
BITS = (8, 4, 3, 2)
DECAY = 5e-4
PACT_DECAY = 1e-2


def digits(seed, spike):
    """Training and test images of 64 pixels in [0, 1], and their labels."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.3, random_state=seed, stratify=labels)
    noise = np.random.default_rng(seed)
    for part in parts[:2]:
        if spike:
            part[noise.random(part.shape) < 0.005] = spike
    return [torch.tensor(part, dtype=torch.float32) for part in parts[:2]] + [
        torch.tensor(p) for p in parts[2:]
    ]


class Net(nn.Module):
    """Three layers between the places where floats become integers and integers floats."""

    def __init__(self, activation):
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.first, self.second, self.last = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 10)
        self.act1, self.act2 = activation(), activation()

    def forward(self, x):
        x = self.act1(self.first(self.quant(x)))
        return self.dequant(self.last(self.act2(self.second(x))))


def trained(name, data, seed, epochs):
    x, _, y, _ = data
    torch.manual_seed(seed)
    net = Net(ACTIVATIONS[name])
    groups = [
        {
            "params": [p for n, p in net.named_parameters() if n.endswith("alpha") == learned],
            "weight_decay": decay,
        }
        for learned, decay in ((False, DECAY), (True, PACT_DECAY))
    ]
    optimizer = torch.optim.SGD([g for g in groups if g["params"]], 0.05, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    return net.eval()


class Bounded(quantization.MinMaxObserver):
    """The range of what was seen, but not beyond a bound."""

    def __init__(self, bound=float("inf"), **settings):
        super().__init__(**settings)
        self.bound = bound

    def calculate_qparams(self):
        self.max_val.clamp_(max=self.bound)
        return super().calculate_qparams()


def quantised(net, x, bits):
    """The network in int8 kernels, its activations on 2**bits levels, their ranges out of the data x."""
    made = Net(nn.ReLU)
    made.load_state_dict({k: v for k, v in net.state_dict().items() if not k.endswith("alpha")})
    made.eval()

    def config(bits, bound=float("inf")):
        levels = Bounded.with_args(bound=bound, dtype=torch.quint8, quant_min=0, quant_max=2**bits - 1)
        return quantization.QConfig(
            activation=levels, weight=quantization.default_per_channel_weight_observer
        )

    quantization.fuse_modules(made, [["first", "act1"], ["second", "act2"]], inplace=True)
    made.qconfig = config(8)  # what comes in and what goes out
    for layer, act in (("first", "act1"), ("second", "act2")):
        bound = float(torch.as_tensor(getattr(getattr(net, act), "bounds", (0.0, torch.inf))[1]).detach())
        getattr(made, layer).qconfig = config(bits, bound)
    quantization.prepare(made, inplace=True)
    with torch.no_grad():
        made(x)
    return quantization.convert(made)


def accuracy(net, x, y):
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).float().mean().item()


def draw(found, path):
    """What each bit that is taken away costs: the mean over seeds, and its standard error."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for i, (name, rows) in enumerate(found.items()):
        lost = [[row[0] - each for each in row[1:]] for row in rows]  # against the same network in float32
        means = [statistics.mean(column) for column in zip(*lost, strict=True)]
        errors = [statistics.stdev(c) / len(c) ** 0.5 if len(c) > 1 else 0 for c in zip(*lost, strict=True)]
        places = [place + 0.06 * (i - 1) for place in range(len(BITS))]
        axes.errorbar(places, means, errors, fmt="o-", capsize=3, label=name)
    axes.set(xlabel="bits of an activation", ylabel="accuracy lost, points", title="Digits, int8 kernels")
    axes.set_xticks(range(len(BITS)), BITS)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    print(f"picture: {path}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--spike", type=float, default=0.0, help="brightness of broken pixels; 0: none")
    parser.add_argument("--out", type=Path, help="where to write the picture")
    options = parser.parse_args(arguments)
    seeds, epochs = (1, 5) if options.quick else (options.seeds, 40)
    warnings.filterwarnings("ignore", message="torch.ao.quantization is deprecated")  # and is still there
    warnings.filterwarnings("ignore", message=".*reduce_range.*")
    warnings.filterwarnings("ignore", message=".*torch.quantize_per_tensor.* are deprecated")
    found = {name: [] for name in ACTIVATIONS}
    for seed in range(seeds):
        data = digits(seed, options.spike)
        x, x_test, _, y_test = data
        for name in ACTIVATIONS:
            net = trained(name, data, seed, epochs)
            nets = [net, *(quantised(net, x, bits) for bits in BITS)]
            found[name].append([accuracy(each, x_test, y_test) for each in nets])
            print(f"seed {seed}  {name:5}", *(f"{a:6.2f}" for a in found[name][-1]), flush=True)
    print(f"\n{'mean +- sd, %':14}{'float32':>14}" + "".join(f"{f'{bits} bit':>14}" for bits in BITS))
    for name, rows in found.items():
        cells = (
            f"{statistics.mean(c):6.2f} +-{statistics.stdev(c) if len(c) > 1 else 0:5.2f}"
            for c in zip(*rows, strict=True)
        )
        print(f"{name:14}" + "".join(f"{cell:>14}" for cell in cells))
    if options.out is not None:
        draw(found, options.out)
    return found


if __name__ == "__main__":
    main()
