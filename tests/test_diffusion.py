"""Flows and diffusions: where a velocity carries noise, and what denoising is by Bayes' rule."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.spaces import Box
from jaxrl.core import Algo
from jaxrl.errors import InputError
from jaxrl.families import diffusion
from jaxrl.families.diffusion import FineTuned, cloned, flow, sight
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast
from jaxrl.papers.diffusion import bc_ppo
from jaxrl.policies import Network

KEY = jax.random.key(0)
PLANE: Any = SimpleNamespace(name="plane", action_space=Box(-1.0, 1.0, (2,)))


def test_a_field_carries_noise_as_its_equation_says():
    """dx/dt = -x + t has the solution (x_0 + 1) e^-t + t - 1."""
    x = jnp.array([[0.5, -2.0]])
    v = lambda x, t: -x + t[..., None]
    exact = (np.asarray(x) + 1) * np.exp(-1.0)
    by_hand, h = np.asarray(x, float), 1 / 8
    for k in range(8):
        by_hand = by_hand + h * (-by_hand + k * h)
    np.testing.assert_allclose(diffusion.euler(v, x, 8), by_hand, rtol=1e-6)
    errors = [np.abs(diffusion.midpoint(v, x, n) - exact).max() for n in (4, 8)]
    assert errors[1] < errors[0] / 3.5  # of second order
    assert errors[1] < np.abs(by_hand - exact).max() / 10


def test_a_denoising_step_is_what_bayes_rule_says():
    """p(x_{k-1} | x_k, a) ∝ N(x_k; √(1-β) x_{k-1}, β) N(x_{k-1}; √ᾱ' a, 1 - ᾱ')."""
    K, a, eps = 6, 0.3, 0.8
    beta, bar = (np.asarray(x, float) for x in diffusion.cosine(K))
    assert beta[0] == 0 and bar[0] == 1 and (np.diff(bar) < 0).all() and bar[-1] < 0.01
    for k in range(2, K + 1):
        at = jnp.full((1,), k)
        x = diffusion.noised(jnp.array([[a]]), jnp.array([[eps]]), at, K)
        np.testing.assert_allclose(x, np.sqrt(bar[k]) * a + np.sqrt(1 - bar[k]) * eps, rtol=1e-4)
        mean, std = diffusion.posterior(x, jnp.array([[eps]]), at, K)
        y = np.linspace(-8, 8, 40001)
        log = -((float(x[0, 0]) - np.sqrt(1 - beta[k]) * y) ** 2) / (2 * beta[k])
        log -= (y - np.sqrt(bar[k - 1]) * a) ** 2 / (2 * (1 - bar[k - 1]))
        p = np.exp(log - log.max())
        p /= p.sum()
        want = (p * y).sum()
        np.testing.assert_allclose(mean[0, 0], want, atol=2e-3)
        np.testing.assert_allclose(std[0], np.sqrt((p * (y - want) ** 2).sum()), rtol=2e-3)
    _, std = diffusion.posterior(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.ones(1, int), K)
    assert std[0] == 0  # the last step has no noise of its own


def test_what_a_field_sees():
    obs = dict(a=jnp.ones((2, 3, 2)), privileged=jnp.zeros((2, 3, 1)))
    start = jnp.ones((2, 3), bool)
    assert sight(obs, start).shape == (2, 3, 2)
    assert sight(obs, start, critic=True).shape == (2, 3, 3)
    nets = flow(PLANE, Network(hidden=(4,)))
    rows = jax.tree.map(lambda x: x[0], obs)
    params = nets.init(KEY, rows)
    x, t = jax.random.normal(KEY, (2, 3, 5, 2)), jnp.full((2, 3, 5), 0.3)
    s = jnp.broadcast_to(sight(obs, start)[..., None, :], (2, 3, 5, 2))
    v = nets.field(params, s, x, t)
    assert v.shape == x.shape
    alone = nets.field(params, s[1, 2, 3], x[1, 2, 3], t[1, 2, 3])
    np.testing.assert_allclose(v[1, 2, 3], alone, rtol=1e-5, atol=1e-7)
    later = nets.field(params, s, x, t + 0.1)
    assert not np.allclose(v, later, rtol=1e-3)
    assert nets.value(params, obs, start).shape == (2, 3)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Network(torso="cnn"), "torso: 'cnn'; a flow's network has 'mlp'"),
        (Network(memory=4), "memory: 4"),
        (Network(shared=True), "shared: True"),
        (Network(head="squashed"), "head: 'squashed'"),
    ],
)
def test_what_a_flow_cannot_be(network, said):
    with pytest.raises(InputError, match=said):
        flow(PLANE, network)
    with pytest.raises(InputError, match="Discrete"):
        flow(envs.make("CartPole-v1"), Network())


def test_cloning_is_gradient_steps_before_the_first_iteration_alone():
    world = envs.make("random/Pendulum-v1", rows=24, max_steps=8)
    init = lambda key, hp, world: State(dict(a=jnp.zeros(())), (), key, stage, {})
    stage: Any = None
    algo = Algo(init, lambda s, t, hp, world: (s, {}), lambda *_: None)
    loss = lambda params, b, key, hp: ((params["a"] - b.action) ** 2).mean()
    double = lambda params: params | dict(twice=2 * params["a"])
    hp: Any = cast(FineTuned(clone_steps=300, clone_lr=0.02, clone_batch=24))
    go = lambda n: cloned(algo, loss, double).step(init(KEY, hp, world), n, hp, world)[0]
    with pytest.raises(TypeError):  # a cond's two sides differ: what is trained on is all there is
        go(0)
    s = cloned(algo, loss).step(init(KEY, hp, world), jnp.int32(0), hp, world)[0]
    mean = float(jnp.asarray(world.data.action).mean())
    assert float(s.params["a"]) == pytest.approx(mean, abs=0.05)
    s = cloned(algo, loss).step(init(KEY, hp, world), jnp.int32(1), hp, world)[0]
    assert float(s.params["a"]) == 0.0


def test_a_world_without_data_cannot_be_cloned():
    world = envs.make("Pendulum-v1")
    algo = bc_ppo.make(world, Network(hidden=(4,)))
    hp: Any = cast(bc_ppo.BCPPO(num_envs=2, num_steps=4, minibatches=1))
    state = jax.eval_shape(algo.init, KEY, hp, world)
    with pytest.raises(InputError, match="no recorded data"):
        jax.eval_shape(algo.step, state, 0, hp, world)
    jax.eval_shape(algo.step, state, 0, hp.replace(clone_steps=0), world)  # nor need it be
