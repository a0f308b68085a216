"""Many short trainings in one process; writes what it measured by itself, and a digest of the parameters."""

import hashlib
import json
import sys
import threading

import numpy as np
import torch
from torch import nn

STEPS = 4
found = {}


def digest(model):
    sums = hashlib.sha256()
    for p in model.parameters():
        sums.update(p.detach().numpy().tobytes())
    return sums.hexdigest()


def norm(model, scale=1.0):
    """In float64, of dense copies."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    arrays = [(g.to_dense() if g.is_sparse else g).detach().numpy().astype(np.float64) / scale for g in grads]
    return float(np.sqrt(sum(float((array**2).sum()) for array in arrays)))


def net():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))


def batches(count):
    return [torch.randn(8, 6) for _ in range(count)]


def train(name, make, *, model=None, micro=1, clip=None, late=None):
    torch.manual_seed(3)
    globals()[name] = model = net() if model is None else model()
    optimizer = make(model.parameters())
    norms, losses = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        seen = []
        for x in batches(micro):
            loss = model(x).pow(2).mean() / micro
            loss.backward()
            seen.append(loss.item())
        norms.append(norm(model))
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if late is not None:
            nn.utils.clip_grad_norm_(model.parameters(), late)
        losses.append(sum(seen) / micro)
    found[name] = {"digest": digest(model), "norms": norms, "losses": losses}


def sparse():
    torch.manual_seed(4)
    globals()["embedding"] = model = nn.Embedding(20, 4, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    norms, losses, coalesced = [], [], []
    for i in range(STEPS):
        optimizer.zero_grad()
        loss = model(torch.tensor([1, 2, 2, 2, 7 + i, 7 + i])).pow(3).sum()
        loss.backward()
        norms.append(norm(model))
        losses.append(loss.item())
        optimizer.step()
        coalesced.append(model.weight.grad.is_coalesced())
    found["embedding"] = {
        "digest": digest(model),
        "norms": norms,
        "losses": losses,
        "coalesced": coalesced,
    }


def closure():
    torch.manual_seed(5)
    globals()["lbfgs"] = model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    norms, losses = [], []
    x = torch.randn(8, 6)

    def evaluate():
        optimizer.zero_grad()
        loss = (model(x) - 1).pow(2).mean()
        loss.backward()
        norms.append(norm(model))
        losses.append(loss.item())
        return loss

    for _ in range(2):
        optimizer.step(evaluate)
    found["lbfgs"] = {"digest": digest(model), "norms": norms, "losses": losses}


def with_scaler(name, fused, divided):
    torch.manual_seed(6)
    globals()[name] = model = net()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    norms, losses = [], []
    for x in batches(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().pow(2).mean()
        (scaler.scale(loss) / 2 if divided else scaler.scale(loss)).backward()
        norms.append(norm(model, scaler.get_scale()))
        losses.append(loss.item() / (2 if divided else 1))
        scaler.step(optimizer)
        scaler.update()
    found[name] = {"digest": digest(model), "norms": norms, "losses": losses}


def pair():
    """Two networks against each other: each optimizer has its own losses."""
    torch.manual_seed(7)
    globals()["netG"], globals()["netD"] = net_g, net_d = nn.Linear(2, 6), net()
    opt_d = torch.optim.Adam(net_d.parameters())
    opt_g = torch.optim.Adam(net_g.parameters())
    seen = {"netD": ([], []), "netG": ([], [])}
    for _ in range(STEPS):
        opt_d.zero_grad()
        fake = net_g(torch.randn(8, 2))
        one, two = net_d(torch.randn(8, 6)).mean(), -net_d(fake.detach()).mean()
        one.backward()
        two.backward()
        seen["netD"][0].append(norm(net_d))
        seen["netD"][1].append((one.item() + two.item()) / 2)
        opt_d.step()
        opt_g.zero_grad()
        loss = net_d(fake).mean()
        loss.backward()
        seen["netG"][0].append(norm(net_g))
        seen["netG"][1].append(loss.item())
        opt_g.step()
    for name, model in (("netD", net_d), ("netG", net_g)):
        found[name] = {"digest": digest(model), "norms": seen[name][0], "losses": seen[name][1]}


def loader():
    """Worker processes, forked after the first optimizers have been recorded."""
    torch.manual_seed(8)
    globals()["loaded"] = model = net()
    data = torch.utils.data.TensorDataset(torch.randn(16, 6))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    norms, losses = [], []
    for (x,) in torch.utils.data.DataLoader(data, 4, shuffle=True, num_workers=2):
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        norms.append(norm(model))
        losses.append(loss.item())
        optimizer.step()
    found["loaded"] = {"digest": digest(model), "norms": norms, "losses": losses}


def odd():
    """Gradients whose entries share memory, NaN, and a step without any gradient."""
    torch.manual_seed(9)
    globals()["odd"] = model = nn.ParameterDict({"a": torch.randn(4, 3), "b": torch.randn(5)})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.step()
    norms = []
    for value in (1.0, 2.0, float("nan")):
        model["a"].grad = torch.full((1, 1), value).expand(4, 3)
        model["b"].grad = torch.ones(5)
        strides = model["a"].grad.stride()
        norms.append(norm(model))
        optimizer.step()
        assert model["a"].grad.stride() == strides
    found["odd"] = {"digest": digest(model), "norms": norms, "losses": []}


def followed():
    """The script's own clip of clipwise, which a fused optimizer of this size is told as a scale."""
    import clipwise

    torch.manual_seed(10)
    globals()["own"] = model = nn.Linear(1 << 12, 1 << 11, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.7), model=model)
    norms, losses = [], []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(torch.randn(2, 1 << 12)).pow(2).mean()
        loss.backward()
        norms.append(norm(model))
        losses.append(loss.item())
        optimizer.step()
    found["own"] = {"digest": digest(model), "norms": norms, "losses": losses}


def compiled():
    torch.manual_seed(11)
    globals()["traced"] = model = net()
    quick = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.Adam(model.parameters())
    norms, losses = [], []
    for x in batches(STEPS):
        optimizer.zero_grad()
        loss = quick(x).pow(2).mean()
        loss.backward()
        norms.append(norm(model))
        losses.append(loss.item())
        optimizer.step()
    found["traced"] = {"digest": digest(model), "norms": norms, "losses": losses}
    # A step in the compiler's hands is left to it.
    whole = torch.compile(optimizer.step, backend="eager")
    whole()
    found["whole"] = {"digest": digest(model), "norms": [], "losses": []}


def threads(count=4):
    """As a search with several jobs does: all have gone backward when the first of them steps."""
    torch.manual_seed(12)
    together = threading.Barrier(count)
    models = [net() for _ in range(count)]
    data = [batches(STEPS) for _ in range(count)]

    def work(number):
        name, model = f"thread{number}", models[number]
        globals()[name] = model
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        norms, losses = [], []
        for x in data[number]:
            optimizer.zero_grad()
            loss = model(x).pow(2).mean()
            loss.backward()
            norms.append(norm(model))
            losses.append(loss.item())
            together.wait()
            optimizer.step()
            together.wait()
        found[name] = {"digest": digest(model), "norms": norms, "losses": losses}

    workers = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()


def many():
    """One after the other, as in a search for settings: each has gone before the next."""
    torch.manual_seed(12)
    norms, losses = [], []
    for _ in range(40):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        loss = model(torch.randn(8, 6)).pow(2).mean()
        loss.backward()
        norms.append(norm(model))
        losses.append(loss.item())
        optimizer.step()
    found["many"] = {"digest": digest(model), "norms": norms, "losses": losses}


def main(path):
    keeping = (torch.optim.SGD(net().parameters(), 0.1), net())  # one more, so that each has its name
    threads()
    train("sgd", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, foreach=False))
    train("sgd_fused", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True))
    train("adam_each", lambda p: torch.optim.Adam(p, 0.01, foreach=True))
    train("adamw_loop", lambda p: torch.optim.AdamW(p, 0.01, foreach=False))
    train("adamw_fused", lambda p: torch.optim.AdamW(p, 0.01, fused=True))
    train("accumulated", lambda p: torch.optim.Adam(p, 0.01), micro=3)
    train("clipped", lambda p: torch.optim.SGD(p, 0.1), clip=0.25)
    train("late", lambda p: torch.optim.SGD(p, 0.1), late=0.25)
    sparse()
    closure()
    with_scaler("scaled", fused=False, divided=False)
    with_scaler("scaled_fused", fused=True, divided=True)
    pair()
    loader()
    odd()
    followed()
    compiled()
    many()
    torch.rand(1)
    with open(path, "w") as file:
        json.dump(found | {"random": torch.rand(2).tolist()}, file)
    del keeping


if __name__ == "__main__":
    main(sys.argv[1])
