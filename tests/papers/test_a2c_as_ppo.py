"""A2C is a special case of PPO, arXiv 2205.09123: whole runs of both give the same parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import View, train
from jaxrl.hyper import cast
from jaxrl.papers.on_policy import a2c, ppo
from jaxrl.papers.on_policy.a2c import A2C
from jaxrl.papers.studies import a2c_as_ppo
from jaxrl.papers.studies.a2c_as_ppo import A2CAsPPO
from jaxrl.policies import Network
from jaxrl.run.battery import QUICK
from jaxrl.surrogate import policy_gradient
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("a2c_as_ppo")

SIZE: dict[str, Any] = dict(num_envs=4, lr=0.01)


def run(make, hp):
    world = envs.make("CartPole-v1")
    algo = make(world, Network(hidden=(8,)))
    go = jax.jit(lambda k: train(algo, k, cast(hp), world, 20), compiler_options=QUICK)
    s, m = go(jax.random.key(0))
    return jax.tree.leaves(s.params), m


def test_twenty_iterations_are_a2cs():
    ours, m = run(a2c_as_ppo.make, A2CAsPPO(**SIZE))
    theirs, _ = run(a2c.make, A2C(**SIZE))
    first, _ = run(a2c.make, A2C(num_envs=4, lr=0.0))
    for x, y, start in zip(ours, theirs, first):
        np.testing.assert_allclose(x, y, atol=1e-6)
        assert np.abs(x - start).max() > 1e-3  # both have moved
    assert m["gap"].max() < 1e-6


def test_a_second_epoch_is_another_method():
    _, m = run(a2c_as_ppo.make, A2CAsPPO(epochs=2, **SIZE))
    assert m["gap"][-1] > 1e-3


def test_the_gradients_are_equal_only_where_the_ratio_is_one():
    def grads(x, A):
        def loss(x, surrogate):
            view = View(x, x, A, lambda: x, lambda: x, lambda: x, None)
            return surrogate(view, Batch(0, 0, 0, jnp.bool_(False), advantage=A), ppo.PPO(eps=0.2))

        return [jax.grad(loss)(x, f) for f in (ppo.clip, policy_gradient)]

    for A in (-1.5, 0.7):
        clip, gradient = grads(jnp.float32(0.0), jnp.float32(A))
        assert clip == gradient == pytest.approx(-A)
        clip, gradient = grads(jnp.float32(0.1), jnp.float32(A))
        assert clip != pytest.approx(gradient)
