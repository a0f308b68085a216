"""A small network in Keras and the same in float64 numpy: its gradients, clips and steps by hand."""

import keras
import numpy as np

RNG = np.random.default_rng(7)
X = RNG.normal(size=(48, 5)).astype("float32")
Y = 10.0 * RNG.normal(size=(48, 1)).astype("float32")
RATE = 0.05


def net(name="net"):
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Dense(6, activation="tanh", name="first"),
        keras.layers.Dense(1, name="last"),
    ]
    return keras.Sequential([keras.Input((5,)), *layers], name=name)


def fitted(optimizer, x=X, y=Y, *, size=8, callbacks=(), **compiled):
    """A network after one epoch in order."""
    model = net()
    model.compile(optimizer, loss="mse", **compiled)
    model.fit(x, y, batch_size=size, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


def gradients(weights, x, y):
    """Those of the mean squared error, by hand."""
    w1, b1, w2, b2 = weights
    hidden = np.tanh(x @ w1 + b1)
    out = hidden @ w2 + b2
    d_out = 2.0 * (out - y) / len(x)
    d_hidden = (d_out @ w2.T) * (1.0 - hidden**2)
    return [x.T @ d_hidden, d_hidden.sum(0), hidden.T @ d_out, d_out.sum(0)]


def by_hand(clip, *, x=X, y=Y, size=8, micro=1, momentum=0.0):
    """The weights after one epoch of SGD, each mean over ``micro`` batches clipped; and the norms seen."""
    weights = [w.astype(np.float64) for w in net().get_weights()]
    speeds = [np.zeros_like(w) for w in weights]
    norms = []
    for start in range(0, len(x), size * micro):
        parts = [
            gradients(weights, x[s : s + size].astype(np.float64), y[s : s + size])
            for s in range(start, start + size * micro, size)
        ]
        mean = [np.mean(each, axis=0) for each in zip(*parts, strict=True)]
        norms.append(total(mean))
        for i, g in enumerate(clip(mean, weights)):
            speeds[i] = momentum * speeds[i] - RATE * g
            weights[i] = weights[i] + speeds[i]
    return weights, norms


def total(arrays):
    return float(np.sqrt(sum(np.sum(np.square(a, dtype=np.float64)) for a in arrays)))


def globally(threshold):
    return lambda gs, ws: [g * min(1.0, threshold / total(gs)) for g in gs]


def by_tensor(threshold):
    return lambda gs, ws: [g * min(1.0, threshold / total([g])) for g in gs]


def by_value(threshold):
    return lambda gs, ws: [np.clip(g, -threshold, threshold) for g in gs]


def by_unit(ratio, eps=1e-3):
    """Adaptive gradient clipping, the last axis telling units apart."""

    def clip(gs, ws):
        out = []
        for g, w in zip(gs, ws, strict=True):
            axes = 0 if g.ndim == 2 else None
            limit = ratio * np.maximum(np.sqrt((w**2).sum(axes)), eps)
            out.append(g * np.minimum(1.0, limit / np.sqrt((g**2).sum(axes))))
        return out

    return clip


def percentile(q):
    seen = []

    def clip(gs, ws):
        seen.append(total(gs))
        return globally(np.percentile(seen, q))(gs, ws)

    return clip


def variables_of(optimizer):
    """The optimizer's variables by name."""
    found = {}
    for variable in optimizer.variables:  # Keras may leave out the model's name in one that was loaded
        name = variable.path.rpartition("/")[2].removeprefix("net_")
        found[name] = keras.ops.convert_to_numpy(variable)
    return found
