"""CPL against loops over its formula, DPO, and the soft-optimal policy of a maze."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import core
from jaxrl.families.preference import Said
from jaxrl.hyper import cast
from jaxrl.papers.preference import cpl, dpo
from jaxrl.papers.preference import segment_sft as sft
from jaxrl.papers.preference.cpl import CPL
from jaxrl.policies import Network
from tests.papers.preferences_by_hand import said

pytestmark = pytest.mark.equation("cpl")

rng = np.random.default_rng(0)
B, T = 5, 3
POLICY, REF = rng.normal(size=(B, 2, T)) - 1, rng.normal(size=(B, 2, T)) - 1


def steps(policy, ref=REF):
    """`Said` of log-probabilities of steps [B, 2, T]."""
    each = Said(*(jnp.asarray(x, jnp.float32) for x in (policy, ref, policy)))
    return Said(*(x.sum(-1) for x in each[:3]), each)


def by_hand(policy, alpha, gamma, bias):
    """-log [exp S⁺ / (exp S⁺ + exp λS⁻)] of each pair, and its gradient in log π."""
    values, grads = [], np.zeros((B, 2, T))
    for i in range(B):
        S = [sum(gamma**t * alpha * policy[i, k, t] for t in range(T)) for k in (0, 1)]
        p = math.exp(S[0]) / (math.exp(S[0]) + math.exp(bias * S[1]))
        values.append(-math.log(p))
        for t in range(T):
            grads[i, 0, t] = -(1 - p) * alpha * gamma**t
            grads[i, 1, t] = (1 - p) * bias * alpha * gamma**t
    return values, grads


@pytest.mark.parametrize("reference", [False, True])
def test_the_loss_by_hand(reference):
    numbers = dict(alpha=0.7, gamma=0.8, bias=0.4)
    hp = CPL(**numbers, reference=reference)
    values, grads = by_hand(POLICY - REF if reference else POLICY, **numbers)
    np.testing.assert_allclose(cpl.loss(steps(POLICY), None, hp), values, rtol=1e-5)
    of = lambda p: cpl.loss(steps(p), None, hp).sum()
    np.testing.assert_allclose(jax.grad(of)(jnp.asarray(POLICY)), grads, rtol=1e-4, atol=1e-7)


def test_conservative_bias_wants_both_segments_likely():
    """Of two policies that tell the segments apart equally well the likelier one is better."""
    likely, unlikely = steps(POLICY), steps(POLICY - 1)
    apart = lambda bias: (
        cpl.loss(unlikely, None, CPL(bias=bias)) - cpl.loss(likely, None, CPL(bias=bias))
    )
    np.testing.assert_allclose(apart(1.0), 0, atol=1e-6)
    assert (apart(0.5) > 1e-3).all()


def test_segments_of_length_1_from_one_state_are_dpo():
    one, uniform = POLICY[..., :1], np.full((B, 2), -math.log(4))
    hp = CPL(alpha=0.3, bias=1.0, gamma=0.5)
    mine = lambda p: cpl.loss(steps(p, REF[..., :1]), None, hp)
    theirs = lambda p: dpo.loss(said(p[..., 0], uniform, uniform), None, dpo.DPO(beta=0.3))
    at = jnp.asarray(one, jnp.float32)
    np.testing.assert_allclose(mine(at), theirs(at), rtol=1e-6)
    grad = lambda f: jax.grad(lambda p: f(p).sum())(at)
    np.testing.assert_allclose(grad(mine), grad(theirs), rtol=1e-5)
    assert np.abs(mine(at) - math.log(2)).max() > 0.05
    # and with the cloned policy for a reference
    hp = hp.replace(reference=True)
    theirs = dpo.loss(said(one[..., 0], REF[..., 0]), None, dpo.DPO(beta=0.3))
    np.testing.assert_allclose(mine(at), theirs, rtol=1e-5)


@pytest.mark.equation("segment_sft")
def test_cloning_is_the_likelihood_of_what_was_preferred():
    values = [-sum(POLICY[i, 0, t] for t in range(T)) for i in range(B)]
    np.testing.assert_allclose(sft.loss(steps(POLICY), None, sft.SFT()), values, rtol=1e-5)


# ---- the maze --------------------------------------------------------------------------------

GAMMA, ALPHA, SHARP = 0.9, 0.03, 0.6
TABLE = Network(hidden=())  # of a row of zeros with a one
HP = CPL(alpha=SHARP, gamma=GAMMA, bias=1.0, pretrain=0.0, normalise_obs=False)


@functools.cache
def world():
    """Pairs of which the probabilities are known."""
    labels = dict(gamma=GAMMA, alpha=ALPHA, sharp=SHARP, asked=0)
    return envs.make("segments/maze", pairs=4096, length=4, **labels)


@functools.cache
def optimum():
    """log π* [S, A] of the maze, by sweeps of the soft Bellman equation in loops."""
    mdp = world().tables
    P, r, end = (np.asarray(x, float) for x in (mdp.P, mdp.r, mdp.end))
    V = np.zeros(len(r))
    for _ in range(120):
        Q = [[r[s, a] + GAMMA * sum(P[s, a] * V) for a in range(4)] for s in range(len(r))]
        soft = lambda q: max(q) + ALPHA * math.log(sum(math.exp((x - max(q)) / ALPHA) for x in q))
        V = np.array([0.0 if end[s] else soft(Q[s]) for s in range(len(r))])
    return (np.array(Q) - V[:, None]) / ALPHA


def covered():
    """Which states the data are of."""
    pairs = world().pairs
    obs, mask = np.asarray(pairs.obs), np.asarray(pairs.mask)
    return obs[mask > 0].sum(0) > 0


def gradient_at(log_p, **changes):
    """The norm of the expected loss's gradient at a policy [S, A]."""
    hp = cast(HP.replace(updates=1, minibatch=4096, lr=0.0, **changes))
    algo = cpl.make(world(), TABLE)

    @jax.jit
    def run(log_p, world):
        s = algo.init(jax.random.key(0), hp, world)
        net = s.params["net"]["params"]
        layer = dict(kernel=log_p, bias=jnp.zeros(4))
        s = s.replace(params=dict(s.params, net=dict(params=dict(net, Dense_1=layer))))
        return core.resume(algo, s, 0, hp, world, 1)[1]["grad_norm"][0]

    return float(run(jnp.asarray(log_p, jnp.float32), world()))


def test_the_soft_optimal_policy_has_no_gradient():
    ended = np.asarray(world().tables.end)
    best = np.where(ended[:, None], -math.log(4), optimum())
    np.testing.assert_allclose(np.exp(best).sum(1), 1, rtol=1e-5)
    assert gradient_at(best) < 1e-5
    assert gradient_at(np.zeros((36, 4))) > 1e-3
    assert gradient_at(best, bias=0.5) > 1e-3  # whose minimum is another


def test_it_comes_to_the_soft_optimal_policy():
    algo = cpl.make(world(), TABLE)
    hp = cast(HP.replace(lr=0.05, updates=50, minibatch=256))
    state, _ = jax.jit(lambda w: core.train(algo, jax.random.key(0), hp, w, 20))(world())
    net = state.params["net"]["params"]["Dense_1"]
    got = np.asarray(jax.nn.softmax(net["kernel"] + net["bias"]))
    gap = lambda p: 0.5 * np.abs(p - np.exp(optimum())).sum(1)[covered()]
    assert covered().sum() == 27  # all but the walls and the end
    assert gap(np.full((36, 4), 0.25)).mean() > 0.1 and gap(got).max() < 0.02
