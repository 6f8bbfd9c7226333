"""PPO-Lagrangian: its price and its gradient, from the formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.families import safe
from jaxrl.hyper import cast
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.papers.safe import ppo_lagrangian
from jaxrl.papers.safe.ppo_lagrangian import PPOLagrangian
from jaxrl.policies import Network
from jaxrl.run.battery import QUICK

pytestmark = pytest.mark.equation("ppo_lagrangian")

WORLD = envs.make("tabular/tolls", max_steps=8)
HP = PPOLagrangian(num_envs=4, num_steps=8, minibatches=1, epochs=1, budget=2.0, lr=0.03)


@functools.cache
def run():
    algo = ppo_lagrangian.make(WORLD, Network(hidden=()))
    hp = cast(HP.replace(price=0.3, dual_lr=0.1))
    return jax.jit(lambda k: train(algo, k, hp, WORLD, 12)[1], compiler_options=QUICK)(
        jax.random.key(0)
    )


def test_each_price_is_what_it_was_and_the_excess_of_this_very_rollout():
    m, price = run(), 0.3
    for cost, got in zip(m["episode_cost"], m["price_cost"]):
        price = max(price + 0.1 * (float(cost) - 2.0), 0.0)
        np.testing.assert_allclose(got, price, rtol=1e-4, atol=1e-5)
    assert price > 0


def test_every_constraint_has_its_own():
    lam, budget = jnp.array([0.5, 0.1, 0.0]), jnp.array([4.0, 4.0, 1.0])
    got, price = ppo_lagrangian.rule(lam, jnp.array([6.0, 0.0, 2.0]), budget, HP)
    np.testing.assert_allclose(got, [0.5 + 0.05 * 2, 0.0, 0.05], rtol=1e-5)
    np.testing.assert_array_equal(got, price)
    np.testing.assert_array_equal(ppo_lagrangian.begin(3, HP.replace(price=2.0)), [2.0] * 3)


def test_the_gradient_is_the_lagrangian_s_over_one_and_the_prices():
    """At π_old: (g_r - Σ λ_k g_k) / (1 + Σ λ_k), with each g from its own advantage."""
    policy = safe.critics(WORLD, Network(hidden=()))
    key = jax.random.key(1)
    s = ppo_lagrangian.make(WORLD, Network(hidden=())).init(key, HP, WORLD)
    hp = HP.replace(normalise_advantage=False)
    b = safe.counted(policy, ("cost",)).apply(s.slots["sampler"], s, None, 0, hp, WORLD)[1][1]
    b = b.replace(dual=b.dual.replace(price=jnp.array([0.7])))
    A = safe.separate(s, b, 0, hp, WORLD).advantage

    def loss(params, A):
        w = policy.judge(params, s.params, b, key)
        return clip(w, b.replace(advantage=A), hp).mean()

    grad = lambda A: jax.tree.leaves(jax.grad(loss)(s.params, A))
    mixed = grad(safe.mixed(s, b, 0, hp, WORLD).advantage)
    for got, r, c in zip(mixed, grad(A[..., 0]), grad(A[..., 1])):
        np.testing.assert_allclose(got, (r - 0.7 * c) / 1.7, rtol=1e-4, atol=1e-6)
    assert max(np.abs(x).max() for x in mixed) > 1e-3
