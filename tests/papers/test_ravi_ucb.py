"""RAVI-UCB, arXiv 2302.14004, against its formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.hyper import cast
from jaxrl.papers.theory import ravi_ucb
from jaxrl.papers.theory.ravi_ucb import RaviUCB

pytestmark = pytest.mark.equation("ravi_ucb")


@pytest.mark.parametrize("eta", [0.7, np.inf])
def test_an_epoch_is_a_step_of_optimistic_regularised_iteration(eta):
    mdp = envs.make("tabular/riverswim", length=4).tables
    S, A, rng = 4, 2, np.random.default_rng(0)
    before, came = rng.integers(0, 9, (2, S, A, S)).astype(float)
    V, pi = 12 * rng.random(S), rng.dirichlet(np.ones(A), S)
    beta, ridge, gamma, N = 3.0, 0.5, 0.9, before + came
    new_V, new_pi, clipped = np.zeros(S), np.zeros((S, A)), 0
    for s in range(S):
        Q = np.zeros(A)
        for a in range(A):
            n = ridge + N[s, a].sum()
            q = float(mdp.r[s, a]) + beta / (1 - gamma) / np.sqrt(n) + gamma * N[s, a] @ V / n
            Q[a], clipped = np.clip(q, 0, 1 / (1 - gamma)), clipped + (q > 1 / (1 - gamma))
        if eta == np.inf:
            new_V[s], new_pi[s] = Q.max(), np.arange(A) == Q.argmax()
        else:
            w = pi[s] * np.exp(eta * Q)
            new_V[s], new_pi[s] = np.log(w.sum()) / eta, w / w.sum()
    assert 0 < clipped < S * A
    hp = cast(RaviUCB(eta=eta, beta=beta, ridge=ridge, gamma=gamma, epsilon=0.2))
    params = dict(N=jnp.asarray(before), V=jnp.asarray(V), log_pi=jnp.log(jnp.asarray(pi)))
    mdp = mdp.replace(r=mdp.r / mdp.r.max())
    new = ravi_ucb.learn(params, jnp.asarray(came), None, mdp, 0, hp)
    np.testing.assert_allclose(new["V"], new_V, rtol=1e-4)
    np.testing.assert_allclose(jnp.exp(new["log_pi"]), new_pi, atol=1e-4)
    np.testing.assert_array_equal(new["N"], N)
    played = ravi_ucb.policy(new, mdp, hp)
    np.testing.assert_allclose(played, 0.8 * new_pi + 0.1, atol=1e-4)


def test_the_value_is_what_the_best_policy_near_the_last_one_is_worth():
    """V = max_p ⟨p, Q⟩ - KL(p || π) / η, and π' is where it is attained."""
    rng = np.random.default_rng(1)
    Q, pi, eta = rng.random((3, 4)), rng.dirichlet(np.ones(4), 3), 2.5
    V, log_p = ravi_ucb.regularised(jnp.asarray(Q), jnp.log(jnp.asarray(pi)), jnp.float32(eta))
    worth = lambda p: (p * Q).sum(-1) - (p * np.log(p / pi)).sum(-1) / eta
    np.testing.assert_allclose(worth(np.exp(np.asarray(log_p))), V, rtol=1e-4)
    for p in rng.dirichlet(np.ones(4), 200):
        assert (worth(p) <= np.asarray(V) + 1e-5).all()


def test_optimism_stays_until_the_counts_are_there():
    """A pair that never came has only its bonus; with the rest of the clip it is the most."""
    mdp = envs.make("tabular/riverswim", length=3).tables
    hp = cast(RaviUCB(eta=np.inf, beta=1.0, gamma=0.9))
    params = ravi_ucb.start(jax.random.key(0), mdp, hp)
    came = jnp.zeros((3, 2, 3)).at[0, 0, 0].set(400.0)
    new = ravi_ucb.learn(params, came, None, mdp, 0, hp)
    assert jnp.exp(new["log_pi"])[0].argmax() == 1 and np.isclose(new["V"][1], 10.0)
