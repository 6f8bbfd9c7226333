"""LPG's network, loss and evolution, arXiv 2007.08794, against loops by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import View
from jaxrl.families import meta
from jaxrl.families.meta import Rule, evolution, uniform
from jaxrl.families.on_policy import on_policy
from jaxrl.hyper import cast
from jaxrl.papers.meta import lpg
from jaxrl.papers.meta.lpg import LPG, UNITS, WIDTH
from jaxrl.papers.on_policy import a2c
from jaxrl.policies import Network, policy_for
from jaxrl.types import Batch
from tests.papers.by_hand import KEY, close, quick

pytestmark = pytest.mark.equation("lpg")

T, N = 5, 3
LINEAR = Network(hidden=())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer(p, x):
    return x @ np.asarray(p["kernel"], float) + (np.asarray(p["bias"], float) if "bias" in p else 0)


def test_the_targets_come_from_an_lstm_that_reads_backwards():
    rng = np.random.default_rng(0)
    eta = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), lpg.init(KEY))
    r, log_prob = rng.normal(size=(T, N)), -rng.uniform(0.1, 2, (T, N))
    done = rng.random((T, N)) < 0.3
    assert done[:-1].any() and not done.all()
    y, ahead = rng.normal(size=(2, T, N, WIDTH))
    b = Batch(None, None, None, jnp.zeros(0, bool), value=y, next_value=ahead, reward=r, done=done)
    b = jax.tree.map(jnp.asarray, b.replace(old=dict(log_prob=log_prob)))
    got = quick(lambda eta, b: lpg.targets(eta, b, LPG(gamma=0.9)))(eta, b)

    p = eta["params"]
    cell, dense = p["LSTMCell_0"], [p[f"Dense_{i}"] for i in range(4)]
    embed = lambda z: layer(dense[1], np.maximum(layer(dense[0], softmax(z)), 0))[0]
    for n in range(N):
        c = h = np.zeros(UNITS)
        for t in reversed(range(T)):
            if done[t, n]:
                c = h = np.zeros(UNITS)
            nothing = 0.0 if done[t, n] else embed(ahead[t, n])
            x = [r[t, n], done[t, n], 0.9, np.exp(log_prob[t, n]), embed(y[t, n]), nothing]
            i, f, g, o = (
                layer(cell[f"i{k}"], np.array(x, float)) + layer(cell[f"h{k}"], h) for k in "ifgo"
            )
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            out = np.maximum(h, 0)
            assert got.advantage[t, n] == pytest.approx(layer(dense[2], out)[0], rel=1e-3, abs=1e-4)
            np.testing.assert_allclose(
                np.exp(got.target[t, n]), softmax(layer(dense[3], out)), rtol=1e-3, atol=1e-5
            )


def test_its_loss_is_the_policy_gradient_and_the_divergence_of_predictions():
    rng = np.random.default_rng(1)
    value, target = rng.normal(size=(4, WIDTH)), np.log(softmax(rng.normal(size=(4, WIDTH))))
    pi_hat, log_prob = rng.normal(size=(2, 4))
    w = View(None, jnp.asarray(log_prob), jnp.asarray(value), *[None] * 4)  # type: ignore[arg-type]
    b: Any = Batch(
        None, None, None, None, advantage=jnp.asarray(pi_hat), target=jnp.asarray(target)
    )
    np.testing.assert_allclose(lpg.policy_gradient(w, b, None), -log_prob * pi_hat, rtol=1e-5)
    p = softmax(value)
    want = (p * (np.log(p) - target)).sum(-1)
    np.testing.assert_allclose(lpg.prediction_loss(w, b, None), want, rtol=1e-4)


def test_with_advantages_for_targets_a_policy_moves_as_a2c_s_does():
    """The rule's loss at π̂ = A, and no predictions, is the policy gradient."""
    world = envs.make("levels/grid")
    hp = cast(LPG(vf_coef=0.0, ent_coef=0.0, normalise_advantage=False, num_envs=2, num_steps=6))
    policy = policy_for(world, LINEAR)
    theirs = on_policy(policy, lpg.policy_gradient)
    ours = a2c.make(world, LINEAR)
    s = quick(lambda: ours.init(KEY, hp, world))()
    one, other = (quick(lambda a=a: a.step(s, 0, hp, world)[0].params)() for a in (theirs, ours))
    close(one, other)
    moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), one, s.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_a_generation_goes_where_the_better_of_each_pair_is(monkeypatch):
    """With a known return of φ, φ moves as Adam on Σ sign(F₊ - F₋) e / 2 n σ says; pairs share all
    but the sign, and the world's own policy is trained under the new rule."""
    place = jnp.asarray(np.random.default_rng(2).normal(size=3))
    lives = []

    def fake(algo, key, hp, world, n):
        lives.append(algo)
        gain = -jnp.square(algo - place).sum() + jax.random.uniform(key)
        return algo, dict(episode_return=jnp.full(n, gain), episodes=jnp.ones(n))

    monkeypatch.setattr(meta, "train", fake)
    monkeypatch.setattr(meta, "late", lambda m, n: m["episode_return"][-1])
    rule = Rule(lambda key: jax.random.normal(key, (3,)), lambda phi, world, network: phi)
    hp = cast(LPG(pairs=5, inner=4, sigma=0.5, meta_lr=0.1))
    world = envs.make("levels/grid")
    algo = evolution(rule, uniform(), LINEAR, world)
    phi = jnp.asarray([0.3, -0.2, 0.9])
    s = meta.State(phi, meta.optax.adam(0.1).init(phi), (), phi, KEY)
    s2, m = algo.step(s, 0, hp, world)
    e = np.asarray(jax.random.normal(jax.random.split(KEY, 6)[2], (5, 3)))
    F = [-((np.asarray(phi) + sign * 0.5 * e - place) ** 2).sum(1) for sign in (1, -1)]
    ascent = (np.sign(F[0] - F[1])[:, None] * e / 2).mean(0) / 0.5
    np.testing.assert_allclose(s2.phi - phi, 0.1 * ascent / (np.abs(ascent) + 1e-8), rtol=1e-3)
    np.testing.assert_allclose(s2.agent, s2.phi)
    assert float(m["fitness"]) == pytest.approx(float(m["fresh_fitness"]), rel=1e-5)


def test_late_returns_are_of_the_last_quarter_and_0_of_no_episode():
    m = dict(
        episode_return=jnp.array([9.0] * 6 + [1.0, 4.0]), episodes=jnp.array([1.0] * 6 + [1, 2])
    )
    assert float(meta.late(m, 8)) == pytest.approx(3.0)
    none = dict(episode_return=jnp.full(4, jnp.nan), episodes=jnp.zeros(4))
    assert float(meta.late(none, 4)) == 0.0
