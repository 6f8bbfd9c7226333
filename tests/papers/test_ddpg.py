"""DDPG's algorithm 1, arXiv 1509.02971, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl.hyper import cast
from jaxrl.papers.off_policy import ddpg
from jaxrl.papers.off_policy.ddpg import DDPG
from jaxrl.policies import Network
from tests.papers.by_hand import (
    KEY,
    adam_step,
    box,
    close,
    differences,
    forward,
    gradient,
    moved,
    quick,
    same,
    shaken,
    transitions,
)

pytestmark = pytest.mark.equation("ddpg")

M, D = 7, 2
LEARNER = ddpg.learner(box(D), Network(hidden=(4,)))
HP = cast(DDPG(lr=0.05, tau=0.2))
update = quick(LEARNER.update)


def mu(p, obs):
    return np.tanh(forward(p, obs))


def Q(p, obs, a):
    return forward(p, np.concatenate([np.asarray(obs, float), np.asarray(a, float)], 1))[:, 0]


@functools.cache
def one_update():
    """(parameters before, batch, parameters after, gradients by entry, stats)."""
    rng = np.random.default_rng(0)
    b = transitions(rng, M, 3, jnp.asarray(rng.uniform(-1, 1, (M, D)), jnp.float32))
    params = shaken(rng, jax.jit(LEARNER.init)(KEY, b.obs, HP))
    new, opt, said = update(params, LEARNER.opt(params, HP), b, KEY, 0, 0, HP)
    return params, b, new, {k: gradient(opt[k], params[k]) for k in opt}, said


def test_the_critic_learns_from_the_targets_alone():
    params, b, new, grads, said = one_update()
    y, old = np.zeros(M), params["target"]
    for m in range(M):
        ahead = b.next_obs[m][None]
        y[m] = b.reward[m] + b.discount[m] * Q(old["critic"], ahead, mu(old["actor"], ahead))[0]
    loss = lambda p: np.mean((y - Q(p, b.obs, b.action)) ** 2)
    close(grads["critic"], differences(loss, params["critic"]), atol=1e-5)
    np.testing.assert_allclose(said["critic_loss"], loss(params["critic"]), rtol=1e-5)
    change = jax.tree.map(lambda x, y: x - y, new["critic"], params["critic"])
    close(change, adam_step(grads["critic"], 0.05), atol=1e-6)


def test_the_actor_follows_the_chain_rule():
    """Eq. 6, with the critic as it is after its own step: E[∇_a Q(s, a)|_{a=μ(s)} ∇μ(s)]."""
    params, b, new, grads, said = one_update()

    def ascent(critic):
        a = mu(params["actor"], b.obs)
        slope = differences(lambda a: Q(critic, b.obs, a).sum(), a)  # of each row its own
        return differences(lambda p: (slope * mu(p, b.obs)).sum() / M, params["actor"])

    want, before = (jax.tree.map(np.negative, ascent(p["critic"])) for p in (new, params))
    close(grads["actor"], want, atol=1e-5)
    assert not np.allclose(before["params"]["Dense_0"]["bias"], want["params"]["Dense_0"]["bias"])
    change = jax.tree.map(lambda x, y: x - y, new["actor"], params["actor"])
    close(change, adam_step(grads["actor"], 0.05), atol=1e-6)
    value = Q(new["critic"], b.obs, mu(params["actor"], b.obs)).mean()
    np.testing.assert_allclose(said["actor_loss"], -value, rtol=1e-4)


def test_both_targets_move_a_part_of_the_way():
    params, _, new, _, _ = one_update()
    assert set(new["target"]) == {"actor", "critic"}
    for name, old in params["target"].items():
        close(new["target"][name], moved(old, new[name], 0.2))
    first = jax.jit(LEARNER.init)(KEY, one_update()[1].obs, HP)
    assert all(same(first["target"][k], first[k]) for k in ("actor", "critic"))


def test_exploration_is_an_ornstein_uhlenbeck_process():
    """x' = x - θ x + σ N: after k steps N(0, σ² (1 - (1-θ)²ᵏ) / (1 - (1-θ)²)), with a correlation
    of neighbours that tends to 1 - θ."""
    params, _, _, _, _ = one_update()
    n, steps, theta, sigma = 4000, 12, 0.3, 0.15
    hp = cast(DDPG(theta=theta, sigma=sigma))
    obs = jnp.asarray(np.random.default_rng(1).normal(size=(n, 3)), jnp.float32)

    def one(memory, key):
        action, memory = LEARNER.act(params, obs, memory, key, 0, hp)
        return memory, (memory, action)

    run = quick(lambda: jax.lax.scan(one, LEARNER.memory(n), jax.random.split(KEY, steps))[1])
    x, action = map(np.asarray, run())
    np.testing.assert_allclose(
        action, np.clip(mu(params["actor"], obs) + x, -1, 1), rtol=1e-5, atol=1e-6
    )
    assert 0.01 < (np.abs(action) == 1).mean() < 0.7
    for k in (1, 2, steps):
        scale = sigma * np.sqrt((1 - (1 - theta) ** (2 * k)) / (1 - (1 - theta) ** 2))
        assert stats.kstest(x[k - 1].ravel() / scale, "norm").pvalue > 1e-4, k
    noise = 4 / np.sqrt(n)
    pairs = [(x[-1, :, 0], x[-2, :, 0]), (x[-1, :, 0], x[-1, :, 1])]  # a step apart; two numbers
    for (u, v), want in zip(pairs, (1 - theta, 0.0)):
        assert abs(np.corrcoef(u, v)[0, 1] - want) < noise
    mode, memory = LEARNER.act(params, obs, x[-1], None, 0, hp)
    np.testing.assert_allclose(mode, mu(params["actor"], obs), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(memory, x[-1])
