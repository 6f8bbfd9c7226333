"""LPO's drift network and its evolution, arXiv 2210.05639."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.hyper import cast
from jaxrl.papers.meta import lpo
from jaxrl.papers.meta.lpo import LPO, XI
from jaxrl.policies import Network
from jaxrl.surrogate import clipped

pytestmark = pytest.mark.equation("lpo")

R = np.array([0.05, 0.4, 0.79, 0.99, 1.0, 1.01, 1.3, 1.9])
A = np.array([-3.0, -0.2, 0.5, 2.5])
PHI = np.random.default_rng(0).normal(size=(9, 5))


def by_hand(phi, r, a, eps):
    """The docstring's f, of one sample."""
    y = np.array([np.log(r), np.log(r) ** 2, 1 - r, (1 - r) ** 2])
    network = sum(
        np.tanh(np.concatenate([y, a * y]) @ phi[:8, j]) * phi[8, j] for j in range(phi.shape[1])
    )
    return max(max((r - np.clip(r, 1 - eps, 1 + eps)) * a, 0.0) + network - XI, 0.0)


@pytest.mark.parametrize("eps", [0.2, np.inf])
def test_the_drift_is_the_formula(eps):
    r, a = (x.ravel() for x in np.meshgrid(R, A))
    want = [by_hand(PHI, *x, eps) for x in zip(r, a)]
    got = lpo.drift(jnp.asarray(PHI), jnp.log(r), jnp.asarray(a), LPO(eps=eps))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_it_is_a_drift_whatever_the_network_and_ppos_without_one():
    f = jax.vmap(jax.value_and_grad(lambda x, a: lpo.drift(jnp.asarray(PHI), x, a, LPO())))
    for x in f(jnp.zeros(len(A)), jnp.asarray(A)):
        assert not x.any()
    none = jnp.asarray(PHI).at[-1].set(0)
    r, a = (jnp.asarray(x.ravel()) for x in np.meshgrid(R, A))
    loss = lpo.drift(none, jnp.log(r), a, LPO(eps=0.2)) - r * a
    np.testing.assert_allclose(loss, -clipped(r, a, 0.2), atol=2 * XI)


def test_ranks_are_centred_and_ties_share_theirs():
    got = lpo.centred_ranks(jnp.array([3.0, 1.0, 1.0, 7.0]))
    np.testing.assert_allclose(got, [0.125, -0.25, -0.25, 0.375])
    assert not lpo.centred_ranks(jnp.full(4, jnp.nan)).any()


def test_a_generation_steps_along_the_ranked_noise(monkeypatch):
    """With fitness a known function of a member, φ moves as Adam on Σ rank e / (n σ) says."""
    hp = cast(LPO(pairs=3, inner=4, hidden=2, sigma=0.5, meta_lr=0.1, num_envs=2, num_steps=4))
    world = envs.make("probe/match")
    algo = lpo.make(world, Network(hidden=(2,)))
    s = algo.init(jax.random.key(0), hp, world)
    members = []

    real = lpo.on_policy

    def told(policy, surrogate, **more):
        members.append(surrogate.args[0])
        return real(policy, surrogate, **more)

    def fake(agent, key, hp, world, n):
        fitness = members[-1].sum()
        m = dict(episode_return=jnp.full(n, fitness), episode_length=jnp.ones(n))
        return agent.init(key, hp, world), m | dict(episodes=jnp.ones(n))

    monkeypatch.setattr(lpo, "on_policy", told)
    monkeypatch.setattr(lpo, "train", fake)
    s2, m = algo.step(s, 0, hp, world)
    e = jax.random.normal(jax.random.split(s.key, 3)[1], (3, 9, 2))
    e = np.concatenate([e, -e])
    F = (np.asarray(s.phi) + 0.5 * e).sum((1, 2))
    rank = np.argsort(np.argsort(F)) / 6 - 5 / 12
    ascent = (rank[:, None, None] * e).sum(0) / (6 * 0.5)
    step = 0.1 * ascent / (np.abs(ascent) + 1e-8)  # Adam's first
    np.testing.assert_allclose(s2.phi - s.phi, step, rtol=1e-3)
    assert float(m["fitness"]) == pytest.approx(F.mean(), rel=1e-4)
