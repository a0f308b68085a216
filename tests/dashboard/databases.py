"""Recordings for the tests, whose numbers are known."""

from types import SimpleNamespace

import numpy as np

from clipwise.monitor.store import Alert, Rows, Writer

HOSTILE = "<img src=x onerror=alert(1)>"


def steps(names, *columns, source=""):
    data = np.column_stack([np.asarray(c, dtype=np.float64) for c in columns])
    return Rows("steps", tuple(names), data, source)


def typical(path, name="lstm", count=500, seed=0, finish=True):
    """A run with a spike, NaN and Inf, layers, two logged series and two alerts."""
    rng = np.random.default_rng(seed)
    step = np.arange(1, count + 1)
    norm = rng.lognormal(-0.5, 0.5, count)
    norm[count // 2], norm[count // 3], norm[count // 4] = 60.0, np.nan, np.inf
    loss = 2 + 3 * np.exp(-step / 100) + rng.normal(0, 0.1, count)
    clipped = (norm > 1.0).astype(float)
    ours = [f"clipwise/{name}" for name in ("norm", "threshold", "clip_fraction", "direction", "nonfinite")]
    columns = [norm, np.ones(count), clipped, np.ones(count), ~np.isfinite(norm)]
    writer = Writer(path, f"uid-{name}", name, clip="clip_by_global_norm(1.0)", command="python train.py")
    layers = np.column_stack([step[9::10], *(rng.lognormal(i, 0.2, len(step[9::10])) for i in range(4))])
    layers[3, 2] = np.nan
    names = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight", "head.bias")
    alerts = [
        Alert(
            "gradient_spike", "warning", count // 2, "It jumped to 60.", "One step undoes many.", "Try 0.9."
        ),
        Alert("loss_nonfinite", "critical", count // 3, "It is NaN.", "It stays NaN.", "Lower the rate."),
    ]
    writer.write(
        [
            steps(("time", *ours), step, 1e9 + step, *columns),
            steps(("loss", "accuracy"), step, loss, step / count),
            Rows("layers", names, layers),
        ],
        alerts,
    )
    if finish:
        writer.finish()
    return SimpleNamespace(id=writer.run, norm=norm, loss=loss, writer=writer, step=step, layers=layers)


def two_sources(path):
    """A GAN: two clippers with a loss and layers each."""
    step = np.arange(1, 101)
    writer = Writer(path, "uid-gan", "gan")
    for place, source in enumerate(("generator", "critic"), start=1):
        names = ("clipwise/norm", "clipwise/threshold", "loss")
        norms, bounds = np.full(100, 10.0**place), np.full(100, np.inf)
        layers = np.column_stack([step[::10], np.ones(10)])
        writer.write(
            [
                steps(names, step, norms, bounds, step * place, source=source),
                steps(("a.weight",), step[::10], np.ones(10), source=source),
                Rows("layers", ("a.weight",), layers, source),
            ]
        )
    writer.finish()
    return writer.run


def clipped_weights(path):
    """A critic whose weights are clipped; how many stand at the bound is counted now and then."""
    step = np.arange(1, 201)
    writer = Writer(path, "uid-wgan", "wgan")
    names = ("clipwise/norm", "clipwise/threshold", "clipwise/clip_fraction")
    for source, share in (("", 0.0), ("weights", 0.8)):
        writer.write([steps(names, step, step / 100, np.full(200, 0.01), np.full(200, share), source=source)])
    shares = np.linspace(0.1, 0.625, 20)
    writer.write([steps(("clipwise/at_bound",), step[9::10], shares, source="weights")])
    writer.write([steps(("clipwise/update_ratio",), step, np.full(200, 1e-3))])
    writer.finish()
    return writer.run


def by_parts(path):
    """What `by_name` did: two parts with a norm and a threshold each, of which one clips every other step."""
    step = np.arange(1, 101)
    clip = "by_name({'lstm.*': 'clip_by_global_norm(8)', 'head.*': 'clip_by_global_norm(0.5)'})"
    writer = Writer(path, "uid-parts", "parts", clip=clip)
    names = ("clipwise/norm", "clipwise/threshold", "clipwise/clip_fraction")
    clipped = step % 2
    for source, norm, threshold, fraction in (
        ("", 5.0, 0.5, clipped / 2),
        ("by_name/lstm.*", 4.0, 8.0, 0 * step),
        ("by_name/head.*", 3.0, 0.5, clipped),
    ):
        columns = np.full(100, norm), np.full(100, threshold), fraction
        writer.write([steps(names, step, *columns, source=source)])
    writer.finish()
    return writer.run


def held_by_turns(path):
    """A threshold that the length held at first, then the loss in every fourth step, else the history."""
    step = np.arange(1, 101)
    late = step > 50
    loss = late & (step % 4 == 0)
    writer = Writer(path, "uid-held", "held", clip="auto()")
    names = (
        "clipwise/norm",
        "clipwise/threshold",
        *(f"clipwise/held/{n}" for n in ("loss", "length", "history")),
    )
    writer.write([steps(names, step, np.ones(100), np.ones(100), loss, ~late, late & ~loss)])
    writer.finish()
    return writer.run


def two_ranks(path):
    """Two processes, of which the second one's norms are ten times the first one's."""
    step = np.arange(1, 101)
    for rank in (0, 1):
        writer = Writer(path, "uid-ranks", "ranks", rank)
        writer.write([steps(("clipwise/norm", "loss"), step, step * 10.0**rank, step)])
        writer.finish()
    return writer.run


def hostile(path):
    """Names that would do something if they were read as HTML."""
    writer = Writer(path, "uid-hostile", HOSTILE, clip="<script>alert(2)</script>", command="</script><b>x")
    step = np.arange(1, 31)
    writer.write(
        [
            steps(("clipwise/norm", "clipwise/threshold"), step, step / 10, np.ones(30)),
            steps(("<b>loss</b>", "</script><script>alert(3)</script>"), step, step, step),
            Rows("layers", ("<svg onload=alert(4)>",), np.column_stack([step, step])),
        ],
        [
            Alert(
                "<i>",
                "critical",
                3,
                "<img src=x onerror=alert(5)>",
                "<b>why</b>",
                "<a href=javascript:1>x</a>",
            )
        ],
    )
    writer.finish("failed", "ValueError: <u>bad</u>")
    return writer.run
