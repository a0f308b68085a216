"""What is pickled or copied does as the original does: transformations, states, reports, functions."""

import copy
import pickle

import cloudpickle
import jax.numpy as jnp
import optax
import pytest

import clipwise
import clipwise.jax

from .trees import same

WAYS = {
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "cloudpickle": lambda one: pickle.loads(cloudpickle.dumps(one)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
PARAMS = {"w": jnp.zeros(2), "b": jnp.ones((2, 2))}
GRADS = {"w": jnp.array([3.0, 4.0]), "b": jnp.zeros((2, 2))}
CLIP = clipwise.autoclip(10, window=3)


def stepped(optimizer, state):
    return optimizer.update(GRADS, state, PARAMS)


@pytest.mark.parametrize("name", WAYS)
def test_what_is_public(name):
    way = WAYS[name]
    clip, weights = clipwise.jax.transform(CLIP), clipwise.jax.clip_weights("clip_by_value(0.5)")
    made = {"transform": clip, "weights": weights, "attach": clipwise.jax.attach(clip, CLIP)}
    if name != "pickle":  # which cannot hold optax' own optimizers
        made["optimizer"] = clipwise.jax.attach(optax.sgd(1.0), CLIP, weights="clip_by_value(0.5)")
    for original in made.values():
        again = way(original)
        assert type(again) is type(original)
        updates, state = stepped(original, original.init(PARAMS))
        same(stepped(again, again.init(PARAMS)), (updates, state))
        same(stepped(original, way(state)), stepped(original, state))
        same(way(state.report), state.report)
        assert str(way(state.report)) == str(state.report)
    out, state, report = clipwise.jax.clip(CLIP, GRADS)
    same(way((out, state, report)), (out, state, report))
    for public in clipwise.jax.__all__:
        assert way(getattr(clipwise.jax, public)) is getattr(clipwise.jax, public)
