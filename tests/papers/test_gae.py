"""GAE, arXiv 1506.02438: the estimator by its sum, its two ends, bias and variance; the critic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import returns
from jaxrl.families import exact
from jaxrl.families.on_policy import State
from jaxrl.papers.on_policy import gae
from jaxrl.papers.on_policy.gae import GAE
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin, rollout
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("gae")

T, N, GAMMA = 7, 3, 0.9


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    terminated = rng.random((T, N)) < 0.15
    done = terminated | (rng.random((T, N)) < 0.15)
    reward, value, ahead = rng.normal(size=(3, T, N)).astype(np.float32)
    ahead[:-1] = np.where(done[:-1], ahead[:-1], value[1:])  # the next state, where it is the same
    reward, value, ahead = (jnp.asarray(x) for x in (reward, value, ahead))
    flags = dict(terminated=jnp.asarray(terminated), done=jnp.asarray(done))
    start = jnp.zeros((T, N), bool)
    return Batch(0, 0, 0, start, value=value, next_value=ahead, reward=reward, **flags)


def estimate(b, lam):
    return returns.gae(b.reward, b.value, b.next_value, b.terminated, b.done, GAMMA, lam)


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_the_estimator_is_the_sum_of_equation_16(lam):
    b = batch()
    r, V, W, end, done = (
        np.asarray(x) for x in (b.reward, b.value, b.next_value, b.terminated, b.done)
    )
    delta = r + GAMMA * np.where(end, 0, W) - V
    want = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            for k in range(t, T):
                want[t, n] += (GAMMA * lam) ** (k - t) * delta[k, n]
                if done[k, n]:
                    break
    np.testing.assert_allclose(estimate(b, lam), want, rtol=1e-4, atol=1e-5)


def test_its_ends_are_the_td_error_and_the_return_less_the_value():
    b = batch()
    delta = b.reward + GAMMA * jnp.where(b.terminated, 0, b.next_value) - b.value
    np.testing.assert_allclose(estimate(b, 0.0), delta, rtol=1e-5)
    filled = gae.monte_carlo_target(
        None, b, 0, GAE(gamma=GAMMA, lam=1.0, normalise_advantage=False), None
    )
    np.testing.assert_allclose(filled.advantage, filled.target - b.value, rtol=1e-4, atol=1e-5)


def test_bias_falls_and_variance_grows_with_lambda():
    """Of the advantage of the first step, with a critic that knows nothing (V = 0)."""
    world = envs.make("tabular/random", max_steps=60)
    policy = policy_for(world, Network(hidden=()))
    hp = GAE(num_envs=4096, num_steps=60)
    k0, k1 = jax.random.split(jax.random.key(0))
    stage = begin(policy, k0, hp, world)
    zero = jax.tree.map(jnp.zeros_like, policy.init(k0, stage.obs))  # uniform, and V = 0
    b = jax.jit(lambda k: rollout(policy, zero, stage, k, hp, world, 60)[1])(k1)
    pi = jnp.full((8, 3), 1 / 3)
    V = exact.value(world.tables, pi, GAMMA)
    Q = exact.action_value(world.tables, V, GAMMA)
    s, a = b.obs[0].argmax(-1), b.action[0]
    want = np.asarray(Q[s, a])  # less the critic's 0
    bias, variance = [], []
    for lam in (0.0, 0.5, 0.9, 1.0):
        error = np.asarray(estimate(b, lam)[0]) - want
        cell = np.asarray(s * 3 + a)
        groups = [error[cell == c] for c in range(24)]
        bias.append(np.mean([abs(g.mean()) for g in groups]))
        variance.append(np.mean([g.var() for g in groups]))
    assert (np.diff(bias) < 0).all() and bias[-1] < 0.05 * bias[0]
    assert (np.diff(variance) > 0).all()


@pytest.mark.parametrize("vf_eps", [1e-3, 1e3])
def test_the_critics_step_is_the_damped_gauss_newton_step_within_its_bound(vf_eps):
    world = envs.make("tabular/chain", length=3)
    policy = policy_for(world, Network(hidden=()))
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(4, 2, 3)).astype(np.float32)
    target = rng.normal(size=(4, 2)).astype(np.float32)
    params = policy.init(jax.random.key(0), jnp.asarray(obs[0]))
    start = jnp.zeros((4, 2), bool)
    _, record, _, _ = policy.act(params, jnp.asarray(obs), start, (), jax.random.key(1))
    b = Batch(jnp.asarray(obs), 0, record, start, old=record, target=jnp.asarray(target))
    hp = GAE(vf_eps=vf_eps, damping=0.1, cg_iters=10)
    s, stats = gae.critic_step(policy).apply(
        (), State(params, (), jax.random.key(2), None, {}), b, 0, hp, world
    )[1]

    phi = np.concatenate([obs.reshape(8, 3), np.ones((8, 1))], 1).astype(float)
    weights = lambda p: np.append(
        np.ravel(p["net"]["params"]["Dense_0"]["kernel"]), p["net"]["params"]["Dense_0"]["bias"]
    )
    w = weights(params).astype(float)
    error = phi @ w - target.ravel()
    x = np.linalg.solve(phi.T @ phi / 8 + 0.1 * np.eye(4), phi.T @ error / 8)
    bound = np.sqrt(vf_eps * 2 * (error**2).mean() / ((phi @ x) ** 2).mean())
    want = w - min(1.0, bound) * x
    np.testing.assert_allclose(weights(s.params), want, rtol=1e-3, atol=1e-4)
    change = ((phi @ (want - w)) ** 2).mean() / (2 * (error**2).mean())
    assert float(stats["vf_change"]) == pytest.approx(change, rel=1e-3)
    assert change <= vf_eps * 1.001
