"""The recursions of N-VR-PG, arXiv 2306.01854, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.families.on_policy import State
from jaxrl.papers.on_policy import n_vr_pg
from jaxrl.papers.on_policy.n_vr_pg import NVRPG
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin, rollout
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("n_vr_pg")

WORLD = envs.make("tabular/chain", length=3)
POLICY = policy_for(WORLD, Network(hidden=()))
T, N, GAMMA, ETA = 5, 2, 0.8, 0.3
HP = NVRPG(gamma=GAMMA, eta=ETA, lr=0.05, num_envs=N, num_steps=T)


def table(params):
    """Logits [S, A] of the linear policy: kernel and bias."""
    layer = params["net"]["params"]["Dense_1"]
    return np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def g(logits, states, actions, r):
    """∇ over the kernel [S, A] and the bias [A]: Σ ∇log π Σ_{h≥t} γʰ r(s_h), in the mean."""
    out = np.zeros_like(logits)
    p = softmax(logits)
    for n in range(N):
        for t in range(T):
            to_go = sum(GAMMA**h * r[states[h, n]] for h in range(t, T))
            s, a = states[t, n], actions[t, n]
            out[s] += (np.eye(2)[a] - p[s]) * to_go / N
    return out


def rollout_of(params, seed):
    key = jax.random.key(seed)
    stage = begin(POLICY, key, HP, WORLD)
    return rollout(POLICY, params, stage, key, HP, WORLD, T)[1]


def test_two_steps_are_the_recursion():
    obs = jnp.eye(3)[:N]
    params = POLICY.init(jax.random.key(5), obs)
    kernel = np.array([[0.4, -0.2], [0.1, 0.3], [-0.5, 0.2]], np.float32)
    params["net"]["params"]["Dense_1"] = dict(kernel=jnp.asarray(kernel), bias=jnp.zeros(2))
    part = n_vr_pg.variance_reduced(POLICY)
    s = State(params, (), jax.random.key(0), None, {})
    slot = part.init(None, s, HP, WORLD)
    step = jax.jit(lambda slot, s, b: part.apply(slot, s, b, 0, HP, WORLD))

    occ, last_r = np.full(3, 1 / 3), np.zeros(3)
    d, theta, last = np.zeros((3, 2)), table(params), table(params)
    for seed in range(3):
        b = rollout_of(s.params, seed)
        slot, (s, stats) = step(slot, s, b)

        states, actions = np.argmax(b.obs, -1), np.asarray(b.action)
        r = np.where(occ > 1e-3, -np.log(np.maximum(occ, 1e-3)) - 1, 0.0)
        seen = np.zeros(3)
        ratio = np.ones(N)
        for n in range(N):
            for t in range(T):
                seen[states[t, n]] += (1 - GAMMA) * GAMMA**t / N
                at = states[t, n], actions[t, n]
                ratio[n] *= softmax(last)[at] / softmax(theta)[at]
        w = ratio.mean()
        occ = ETA * seen + (1 - ETA) * (occ + (1 - w) * seen)
        new, old = g(theta, states, actions, r), g(last, states, actions, last_r)
        d = ETA * new + (1 - ETA) * (d + new - w * old)
        # the bias shares the gradient, summed over states, and its part of the norm
        norm = np.sqrt((d**2).sum() + (d.sum(0) ** 2).sum())
        last, last_r = theta, r
        theta = theta + HP.lr * (d + d.sum(0)) / norm
        np.testing.assert_allclose(stats["weight"], w, rtol=1e-4)
        np.testing.assert_allclose(slot[0], occ, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(table(s.params), theta, rtol=1e-4, atol=1e-5)


def test_a_linear_utility_is_the_gradient_of_the_return():
    """∇F constant and η = 1: REINFORCE's estimate of the discounted return's gradient."""
    r = jnp.array([0.2, -1.0, 3.0])
    part = n_vr_pg.variance_reduced(POLICY, utility=lambda occ: occ @ r)
    params = POLICY.init(jax.random.key(1), jnp.eye(3)[:N])
    s = State(params, (), jax.random.key(0), None, {})
    hp = HP.replace(eta=1.0)
    b: Batch = rollout_of(params, 7)
    _, (s2, _) = part.apply(part.init(None, s, hp, WORLD), s, b, 0, hp, WORLD)
    moved = table(s2.params) - table(params)
    want = g(table(params), np.argmax(b.obs, -1), np.asarray(b.action), np.asarray(r))
    want = want + want.sum(0)
    cosine = (moved * want).sum() / np.linalg.norm(moved) / np.linalg.norm(want)
    assert cosine > 0.9999


def test_the_entropy_is_greatest_where_all_is_seen_alike():
    at = lambda x: float(n_vr_pg.entropy(jnp.asarray(x)))
    assert at([0.25] * 4) == pytest.approx(np.log(4), rel=1e-6)
    assert at([0.7, 0.1, 0.1, 0.1]) < np.log(4)
