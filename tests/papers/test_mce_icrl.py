"""MCE-ICRL on tables, arXiv 2305.02857: soft values by NumPy, the dual's slope by differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import envs
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.families import exact
from jaxrl.papers.imitation import mce_icrl
from jaxrl.papers.imitation.mce_icrl import MCEICRL
from tests.papers.by_hand import quick

pytestmark = pytest.mark.equation("mce_icrl")

KEY = jax.random.key(0)
HP = MCEICRL(gamma=0.8, tau=0.4, sweeps=300)


@pytest.fixture(autouse=True)
def doubles():
    with jax.enable_x64(True):
        yield


def tables(**params):
    """In float64."""
    mdp = envs.make("tabular/forbidden", **params).tables
    mdp = jax.tree.map(lambda x: jnp.asarray(x, float) if x.dtype == jnp.float32 else x, mdp)
    return mdp.replace(P=mdp.P / mdp.P.sum(-1, keepdims=True))


def by_loops(mdp, r, causal):
    """V, pi and the dynamics, state by state."""
    P, S, A = np.asarray(mdp.P), *mdp.r.shape
    V = np.zeros(S)
    for _ in range(200):
        Q = np.array(
            [
                [
                    r[s, a]
                    + (
                        0.8 * P[s, a] @ V
                        if causal
                        else 0.4 * np.log(P[s, a] @ np.exp(0.8 * V / 0.4))
                    )
                    for a in range(A)
                ]
                for s in range(S)
            ]
        )
        V = np.where(mdp.end, 0.0, 0.4 * logsumexp(Q / 0.4, axis=1))
    pi = np.exp(Q / 0.4)
    tilted = P if causal else P * np.exp(0.8 * V / 0.4)
    return V, pi / pi.sum(1, keepdims=True), tilted / tilted.sum(-1, keepdims=True)


@pytest.mark.parametrize("causal", [True, False])
def test_soft_values_policy_and_dynamics(causal):
    mdp = tables()
    r = np.asarray(mdp.r) - np.random.default_rng(0).uniform(0, 2, mdp.r.shape)
    hp = HP.replace(causal=causal)
    got = quick(lambda r, V: mce_icrl.soft(mdp, r, V, hp))(r, jnp.zeros(25))
    for x, y in zip(got, by_loops(mdp, r, causal)):
        np.testing.assert_allclose(x, y, atol=1e-8)


def test_without_chance_causality_makes_no_difference():
    mdp = tables(slip=0.0)
    V, pi, _ = mce_icrl.soft(mdp, mdp.r, jnp.zeros(25), HP)
    V2, pi2, P2 = mce_icrl.soft(mdp, mdp.r, jnp.zeros(25), HP.replace(causal=False))
    np.testing.assert_allclose(V2, V, atol=1e-9)
    np.testing.assert_allclose(pi2, pi, atol=1e-9)
    np.testing.assert_allclose(P2, mdp.P, atol=1e-12)


def test_a_step_goes_along_the_slope_of_the_dual():
    """g(w) = (1 - γ) ρ V_w + w μ_E, convex, is least where the visits match: w goes down it."""
    mdp, rng = tables(), np.random.default_rng(1)
    w, mu = jnp.asarray(rng.uniform(0, 1, 25)), jnp.asarray(rng.dirichlet(np.ones(25)))
    hp = HP.replace(lr=0.01)
    x = dict(w=w, V=jnp.zeros(25), pi=None, mu=mu, cost=0.0)
    new, metrics = quick(lambda x: mce_icrl.ascent(x, mdp, 0, hp))(x)

    def dual(w):
        V = mce_icrl.soft(mdp, mdp.r - w[:, None], jnp.zeros(25), hp)[0]
        return (1 - hp.gamma) * mdp.rho @ V + w @ mu

    value, h = quick(dual), 1e-5
    slope = np.array([(value(w + h * e) - value(w - h * e)) / (2 * h) for e in np.eye(25)])
    inside = np.asarray(~mdp.end)  # the end has no value
    np.testing.assert_allclose(new["w"][inside], np.maximum(w - 0.01 * slope, 0)[inside], atol=1e-8)
    np.testing.assert_allclose(metrics["mismatch"], np.abs(slope).sum(), rtol=1e-4)


def test_prices_are_never_below_nothing():
    mdp = tables()
    x = dict(w=jnp.zeros(25), V=jnp.zeros(25), pi=None, mu=jnp.ones(25), cost=0.0)
    assert (mce_icrl.ascent(x, mdp, 0, HP)[0]["w"] == 0).all()


def test_visits_are_counted_as_they_are():
    mdp = tables()
    pi = mce_icrl.expert(mdp, HP)
    want = np.asarray(mce_icrl.visits(mdp, pi, mdp.P, HP))
    got = quick(lambda key: exact.counted(key, mdp, pi, HP.gamma, 4000, 100))(KEY)
    np.testing.assert_allclose(got, want, atol=0.004)
    assert want[24] == 0 and got[24] == 0 and want.sum() < 1


@functools.cache
def learned(causal):
    w = envs.make("tabular/forbidden")
    w = w.replace(env=tables())
    hp = MCEICRL(demos=0, lr=10.0, causal=causal)
    return quick(lambda: train(mce_icrl.make(w), KEY, hp, w, 600))()


def test_exact_visits_give_the_expert_s_policy_and_price_what_it_avoids():
    s, m = learned(True)
    mdp = tables()
    assert m["mismatch"][-1] < 1e-3 and abs(m["excess"][-1]) < 2e-3 and abs(m["gap"][-1]) < 5e-3
    often = np.asarray(s.params["mu"]) > 0.01
    want = np.asarray(mce_icrl.expert(mdp, MCEICRL()))
    np.testing.assert_allclose(np.asarray(s.pi)[often], want[often], atol=0.02)
    dear = np.argsort(-np.asarray(s.params["w"]))[:4]
    assert set(dear) & {21, 22, 23, 17} == set(dear)


def test_without_causality_chance_is_trusted_too_much():
    _, m = learned(False)
    assert m["excess"][-1] > 0.2 > learned(True)[1]["excess"][-1]


def test_the_reward_does_not_tell_of_the_costs():
    mdp = tables()
    assert (np.asarray(mdp.r)[~np.asarray(mdp.end)] == -1).all()
    assert set(np.flatnonzero(np.asarray(mdp.c)[0, :, 0])) == {17, 21, 22, 23}
    with pytest.raises(InputError, match="has 0 costs; mce_icrl needs one"):
        mce_icrl.expert(envs.make("tabular/cliff").tables, HP)
