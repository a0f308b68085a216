"""Eight devices, forced on the host, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import clipwise

PROGRAM = """
import os
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
import clipwise, clipwise.jax

assert len(jax.devices()) == 8
devices = np.array(jax.devices()).reshape(4, 2)
rng = np.random.default_rng(0)
sizes = {"kernel": ((16, 8), P("data", "model")), "wide": ((8, 4), P(None, "model"))}
sizes |= {"back": ((16, 8), P("model", "data")), "bias": ((8,), P("data")), "shift": ((8,), P())}
plain = {k: jnp.asarray(rng.normal(size=shape), jnp.float32) for k, (shape, _) in sizes.items()}
GLOBAL, CUBIC = clipwise.clip_by_global_norm(0.5), clipwise.Clip(0.5, per="unit", norm=3.0)
AGC, ADAGC = clipwise.adaptive_grad_clip(0.1), clipwise.adagc(warmup=1)
EVERY = clipwise.chain(clipwise.clip_by_value(1.0), CUBIC, AGC, ADAGC, clipwise.clip_by_block_rms(0.1))

explicit = jax.sharding.AxisType.Explicit

def check(found, expected, rtol=1e-6, atol=1e-7):
    for k in expected:
        np.testing.assert_allclose(np.asarray(found[k]), np.asarray(expected[k]), rtol=rtol, atol=atol)

def on_a_mesh(mesh, clips):
    placed = {k: jax.device_put(v, NamedSharding(mesh, sizes[k][1])) for k, v in plain.items()}
    for clip in clips:
        tx = clipwise.jax.attach(optax.sgd(0.1, momentum=0.9), clip)
        update = jax.jit(tx.update)
        expected, own = update(plain, tx.init(plain), plain)
        found, state = update(placed, tx.init(placed), placed)
        check(found, expected)
        again, own = update(plain, own, plain)  # what a memory says that holds something
        after, state = update(placed, state, placed)
        check(after, again)
        check(clipwise.jax.report(state).norms(), clipwise.jax.report(own).norms())
        outcome = clipwise.jax.clip(clip, placed, None, placed)[0]
        check(outcome, clipwise.jax.clip(clip, plain, None, plain)[0])
        # On automatic axes the compiler may spread what is whole on every device, as "shift" is.
        for k in placed if explicit in mesh.axis_types else placed.keys() - {"shift"}:
            for out in (outcome[k], after[k]):
                assert out.sharding.is_equivalent_to(placed[k].sharding, out.ndim), (clip, k, out.sharding)

def in_shard_map(clip):
    line = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    x = jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)
    tx = clipwise.jax.attach(optax.adam(0.1), clip)
    loss = lambda w, x: ((x @ w["kernel"] @ w["wide"]) ** 2).mean() + (w["bias"] ** 2).sum()

    def step(w, state, x):
        grads = jax.lax.pmean(jax.grad(loss)(jax.lax.pcast(w, "data", to="varying"), x), "data")
        return tx.update(grads, state, w)

    spread = jax.jit(jax.shard_map(step, mesh=line, in_specs=(P(), P(), P("data")), out_specs=(P(), P())))
    found, state = spread(plain, tx.init(plain), x)
    expected, own = jax.jit(tx.update)(jax.grad(loss)(plain, x), tx.init(plain), plain)
    np.testing.assert_allclose(clipwise.jax.report(state).norm, clipwise.jax.report(own).norm, rtol=1e-5)
    check(found, expected, rtol=1e-4, atol=1e-5)

if os.environ.get("CLIPWISE_TESTS") == "all":
    on_a_mesh(jax.sharding.Mesh(devices, ("data", "model")), [GLOBAL, EVERY])
else:
    on_a_mesh(jax.sharding.Mesh(devices, ("data", "model")), [GLOBAL])
on_a_mesh(jax.make_mesh((4, 2), ("data", "model"), axis_types=(explicit,) * 2), [GLOBAL, EVERY])
in_shard_map(clipwise.chain(AGC, ADAGC, GLOBAL))
"""


def test_on_eight_devices():
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(clipwise.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
