"""Eight devices, forced on the host, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import clipwise

SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
import clipwise, clipwise.jax

assert len(jax.devices()) == 8
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
rng = np.random.default_rng(0)
sizes = {"kernel": ((16, 8), P("data", "model")), "wide": ((8, 4), P(None, "model"))}
sizes["bias"] = ((8,), P("data"))
plain = {k: jnp.asarray(rng.normal(size=shape), jnp.float32) for k, (shape, _) in sizes.items()}
placed = {k: jax.device_put(v, NamedSharding(mesh, sizes[k][1])) for k, v in plain.items()}
CLIPS = [
    clipwise.clip_by_global_norm(0.5), clipwise.clip_by_norm(0.5), clipwise.clip_by_value(0.3),
    clipwise.Clip(0.5, per="unit"), clipwise.adaptive_grad_clip(0.1), clipwise.adagc(warmup=1),
    clipwise.clip_by_global_norm(1.0, float("inf")), clipwise.clip_by_block_rms(0.1), clipwise.auto(),
]

def check(found, expected):
    for k in expected:
        np.testing.assert_allclose(np.asarray(found[k]), np.asarray(expected[k]), rtol=1e-6, atol=1e-7)
"""

UNDER_JIT = """
for clip in CLIPS:
    tx = clipwise.jax.attach(optax.adam(0.1), clip)
    for call in (jax.jit(tx.update), tx.update):
        expected, _ = tx.update(plain, tx.init(plain), plain)
        state = tx.init(placed)
        found, state = call(placed, state, placed)
        check(found, expected)
    out, _, report = clipwise.jax.clip(clip, placed, None, placed)
    check(out, clipwise.jax.clip(clip, plain, None, plain)[0])
    for k in placed:
        assert out[k].sharding.is_equivalent_to(placed[k].sharding, out[k].ndim), (clip, k, out[k].sharding)
        assert found[k].sharding.is_equivalent_to(placed[k].sharding, found[k].ndim), (clip, k)
"""

IN_SHARD_MAP = """
line = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
x = jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)
for clip in CLIPS:
    tx = clipwise.jax.attach(optax.adam(0.1), clip)
    loss = lambda w, x: ((x @ w["kernel"] @ w["wide"]) ** 2).mean() + (w["bias"] ** 2).sum()

    def step(w, state, x):
        grads = jax.lax.pmean(jax.grad(loss)(jax.lax.pcast(w, "data", to="varying"), x), "data")
        return tx.update(grads, state, w)

    spread = jax.jit(jax.shard_map(step, mesh=line, in_specs=(P(), P(), P("data")), out_specs=(P(), P())))
    found, state = spread(plain, tx.init(plain), x)
    expected, own = tx.update(jax.grad(loss)(plain, x), tx.init(plain), plain)
    np.testing.assert_allclose(clipwise.jax.report(state).norm, clipwise.jax.report(own).norm, rtol=1e-5)
    for k in expected:
        np.testing.assert_allclose(np.asarray(found[k]), np.asarray(expected[k]), rtol=1e-4, atol=1e-5)
"""


@pytest.mark.parametrize("program", [UNDER_JIT, IN_SHARD_MAP], ids=["jit", "shard_map"])
def test_on_eight_devices(program):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(clipwise.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED + program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
