"""A program on eight devices, forced on the host: in one process, or four in each of two.

``python -m tests.jax.on_devices [ADDRESS RANK]``; XLA_FLAGS says how many devices a process has.
"""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import clipwise
import clipwise.jax
from tests.depth import THOROUGH

SIZES = {"kernel": ((16, 8), P("data", "model")), "wide": ((8, 4), P(None, "model"))}
SIZES |= {"back": ((16, 8), P("model", "data")), "bias": ((8,), P("data")), "shift": ((8,), P())}
EXPLICIT = jax.sharding.AxisType.Explicit
GLOBAL, CUBIC = clipwise.clip_by_global_norm(0.5), clipwise.Clip(0.5, per="unit", norm=3.0)
AGC, ADAGC = clipwise.adaptive_grad_clip(0.1), clipwise.adagc(warmup=1)
EVERY = clipwise.chain(clipwise.clip_by_value(1.0), CUBIC, AGC, ADAGC, clipwise.clip_by_block_rms(0.1))


def arrays():
    rng = np.random.default_rng(0)
    plain = {k: jnp.asarray(rng.normal(size=shape), jnp.float32) for k, (shape, _) in SIZES.items()}
    return plain, jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)


def check(found, expected, rtol=1e-6, atol=1e-7):
    """What this process has of each array, against the whole of it."""
    for k in expected:
        for shard in found[k].addressable_shards:
            whole = np.asarray(expected[k])
            np.testing.assert_allclose(shard.data, whole[shard.index], rtol=rtol, atol=atol, err_msg=k)


def on_a_mesh(mesh, clips):
    """Sharded gradients give what whole ones do on one device, and stay where they are."""
    plain, _ = arrays()
    placed = {k: jax.device_put(v, NamedSharding(mesh, SIZES[k][1])) for k, v in plain.items()}
    for clip in clips:
        tx = clipwise.jax.attach(optax.sgd(0.1, momentum=0.9), clip)
        update = jax.jit(tx.update)
        expected, own = update(plain, tx.init(plain), plain)
        found, state = update(placed, tx.init(placed), placed)
        check(found, expected)
        again, own = update(plain, own, plain)  # what a memory says that holds something
        after, state = update(placed, state, placed)
        check(after, again)
        norms = clipwise.jax.report(own).norms()
        np.testing.assert_allclose(
            [*clipwise.jax.report(state).norms().values()], [*norms.values()], rtol=1e-6
        )
        outcome = clipwise.jax.clip(clip, placed, None, placed)[0]
        check(outcome, clipwise.jax.clip(clip, plain, None, plain)[0])
        # On automatic axes the compiler may spread what is whole on every device, as "shift" is.
        for k in placed if EXPLICIT in mesh.axis_types else placed.keys() - {"shift"}:
            for out in (outcome[k], after[k]):
                assert out.sharding.is_equivalent_to(placed[k].sharding, out.ndim), (clip, k, out.sharding)


def collectives(transformation, placed):
    """How often the devices wait for one another in a compiled step in which no square is lost."""
    state = transformation.init(placed)
    text = jax.jit(transformation.update).lower(placed, state, placed).compile().as_text()
    step = text[text.index("ENTRY") :]
    names = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    found = {name: len(re.findall(rf"\b{name}(?:-start)?\(", step)) for name in names}
    return {name: count for name, count in found.items() if count}


def few_collectives(mesh):
    """A clip by global norm waits no more often than optax' does, and gathers nothing."""
    plain, _ = arrays()
    placed = {k: jax.device_put(v, NamedSharding(mesh, SIZES[k][1])) for k, v in plain.items()}
    theirs = collectives(optax.with_extra_args_support(optax.clip_by_global_norm(0.5)), placed)
    assert theirs == {"all-reduce": 3}, theirs  # sums over one axis, the other, and both
    for ours in (clipwise.jax.transform(GLOBAL), clipwise.jax.transform(clipwise.autoclip(10))):
        assert collectives(ours, placed) == theirs


def loss(w, x):
    return ((x @ w["kernel"] @ w["wide"]) ** 2).mean() + (w["bias"] ** 2).sum()


def in_shard_map(clip):
    """Gradients that are the same on all devices are clipped inside."""
    line = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    plain, x = arrays()
    tx = clipwise.jax.attach(optax.adam(0.1), clip)

    def step(w, state, x):
        grads = jax.lax.pmean(jax.grad(loss)(jax.lax.pcast(w, "data", to="varying"), x), "data")
        return tx.update(grads, state, w)

    spread = jax.jit(jax.shard_map(step, mesh=line, in_specs=(P(), P(), P("data")), out_specs=(P(), P())))
    found, state = spread(plain, tx.init(plain), x)
    expected, own = jax.jit(tx.update)(jax.grad(loss)(plain, x), tx.init(plain), plain)
    np.testing.assert_allclose(clipwise.jax.report(state).norm, clipwise.jax.report(own).norm, rtol=1e-5)
    check(found, expected, rtol=1e-4, atol=1e-5)


def around_shard_map(clip):
    """Gradients that are shards inside are clipped outside, where they are whole: in the same program."""
    line = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    plain, x = arrays()
    tx = clipwise.jax.attach(optax.adam(0.1), clip)

    def gradients(w, x):
        def own(w):
            whole = {k: jax.lax.all_gather(v, "data", tiled=True) for k, v in w.items()}
            return loss(whole, x) / 8  # the gradient of a gathered array is summed over the devices

        return jax.grad(own)(w)

    over = {"mesh": line, "in_specs": (P("data"), P("data"))}
    shards = jax.shard_map(gradients, out_specs=P("data"), **over)
    found, state = jax.jit(lambda w, state, x: tx.update(shards(w, x), state, w))(plain, tx.init(plain), x)
    expected, own = jax.jit(tx.update)(jax.grad(loss)(plain, x), tx.init(plain), plain)
    np.testing.assert_allclose(clipwise.jax.report(state).norm, clipwise.jax.report(own).norm, rtol=1e-5)
    check(found, expected, rtol=1e-4, atol=1e-5)

    # Inside, the norm would be that of one shard. JAX itself refuses a state that differs over the devices.
    def inside(w, x):
        return tx.update(gradients(w, x), tx.init(w), w)

    with pytest.raises(ValueError, match="data"):
        jax.eval_shape(jax.shard_map(inside, out_specs=(P("data"), P()), **over), plain, x)


def main(address=None, rank=None):
    if address:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, num_processes=2, process_id=int(rank))
        assert jax.process_count() == 2
    assert len(jax.devices()) == 8
    devices = np.array(jax.devices()).reshape(4, 2)
    automatic = jax.sharding.Mesh(devices, ("data", "model"))
    on_a_mesh(automatic, [GLOBAL, EVERY] if THOROUGH else [GLOBAL])
    few_collectives(automatic)
    if address:
        return
    on_a_mesh(jax.make_mesh((4, 2), ("data", "model"), axis_types=(EXPLICIT,) * 2), [GLOBAL, EVERY])
    in_shard_map(clipwise.chain(AGC, ADAGC, GLOBAL))
    around_shard_map(clipwise.chain(AGC, ADAGC, GLOBAL) if THOROUGH else GLOBAL)
    if THOROUGH:
        from tests.keras import on_devices

        on_devices.check()


if __name__ == "__main__":
    main(*sys.argv[1:])
