"""JAX with flax and optax: `attach` makes an optax optimizer that clips and leaves out steps with NaN or
Inf.

The whole step is compiled. `report` reads what the last step did out of the optimizer's state.

    python examples/jax/flax_optax.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

import clipwise


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.gelu(nn.Dense(64)(x))
        x = nn.gelu(nn.Dense(64)(x))
        return nn.Dense(1)(x)


@jax.jit
def train_step(state: TrainState, x: jax.Array, y: jax.Array) -> tuple[TrainState, jax.Array]:
    def loss_of(params: dict) -> jax.Array:
        return jnp.mean((state.apply_fn(params, x) - y) ** 2)

    loss, grads = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=grads), loss


key, init_key = jax.random.split(jax.random.key(0))
model = MLP()
params = model.init(init_key, jnp.zeros((1, 16)))
optimizer = clipwise.jax.attach(optax.adam(3e-3), clipwise.autoclip(50))
state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)

for step in range(201):
    x = jax.random.normal(jax.random.fold_in(key, step), (64, 16))
    y = (x[:, :4] ** 2).sum(1, keepdims=True)
    if step == 150:
        y = y.at[0].set(jnp.nan)  # a bad batch
    state, loss = train_step(state, x, y)
    if step % 50 == 0:
        print(f"step {step:3}  loss {loss:.3f}  {clipwise.jax.report(state.opt_state)}")

print(f"loss {loss:.3f}, skipped {state.opt_state.skipped_steps} of {step + 1} steps")
