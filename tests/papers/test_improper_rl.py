"""Mixtures of controllers, arXiv 2207.09090, against enumeration over tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import tabular
from jaxrl.families.exact import expected_return
from jaxrl.papers.on_policy import improper_rl
from jaxrl.papers.on_policy.improper_rl import PAPER, ImproperRL
from jaxrl.rollout import begin, rollout

pytestmark = pytest.mark.equation("improper_rl")

P, R, RHO, END = tabular.queues(**tabular.TABLE["queues"][1])
GAMMA, S = 0.9, len(R)


def solve(p):
    """J, V, d and Ã [S, M] of the mixture that plays action m with probability p[m]."""
    chain = np.einsum("a,sap->sp", p, P)
    inverse = np.linalg.inv(np.eye(S) - GAMMA * chain)
    V = inverse @ (R @ p)
    return RHO @ V, V, (1 - GAMMA) * RHO @ inverse, R + GAMMA * P @ V - V[:, None]


def gradient(p):
    """The docstring's ∇J."""
    _, _, d, A = solve(p)
    return p * (d @ A) / (1 - GAMMA)


def softmax(theta):
    p = np.exp(theta - np.max(theta))
    return p / p.sum()


def test_the_gradient_is_that_of_j():
    theta = np.array([0.3, -0.5])
    for m in range(2):
        h = 1e-5 * np.eye(2)[m]
        slope = (solve(softmax(theta + h))[0] - solve(softmax(theta - h))[0]) / 2e-5
        np.testing.assert_allclose(gradient(softmax(theta))[m], slope, rtol=1e-6)
    world = envs.make("tabular/random")
    mdp = world.tables
    J = lambda th: expected_return(mdp, jnp.tensordot(jax.nn.softmax(th), mdp.controllers, 1), 0.9)
    assert np.abs(jax.grad(J)(jnp.zeros(3))).max() > 0.01  # of controllers that are no actions too


def test_the_natural_step_is_the_fisher_inverse_up_to_a_constant():
    p = np.array([0.2, 0.3, 0.5])
    g = np.array([0.4, -0.1, -0.3])  # sums to 0, as ∇J does
    F = np.diag(p) - np.outer(p, p)
    params = dict(theta=jnp.log(p), critic=jnp.zeros(2))
    grads = dict(theta=jnp.asarray(g), critic=jnp.ones(2))
    for natural, want in ((True, np.linalg.pinv(F) @ g), (False, g)):
        opt = improper_rl.steps(ImproperRL(lr=0.7, natural=natural))
        step = -np.asarray(opt.update(grads, opt.init(params), params)[0]["theta"])
        centred = lambda x: x - x.mean()
        np.testing.assert_allclose(centred(step), 0.7 * centred(want), rtol=1e-5)


def test_the_exact_gradient_closes_the_gap_as_one_over_t():
    theta, gaps = np.zeros(2), []
    most = max(solve(np.array([x, 1 - x]))[0] for x in np.linspace(0, 1, 1001))
    for _ in range(400):
        p = softmax(theta)
        gaps.append(most - solve(p)[0])
        theta = theta + 0.02 * gradient(p)
    t = np.arange(1, 401)
    assert (np.array(gaps) * t < 60).all() and gaps[-1] < 0.01 * abs(most)


def test_samples_estimate_the_exact_gradient():
    """Of a batch of whole episodes, by the true V in place of the critic's."""
    p = np.array([0.4, 0.6])
    V, want = solve(p)[1], gradient(p)
    world = envs.make("tabular/queues")
    policy = improper_rl.mixture(world.tables.controllers)
    params = dict(theta=jnp.log(jnp.asarray(p)), critic=jnp.asarray(V, jnp.float32))
    hp = ImproperRL(gamma=GAMMA, num_envs=4000)

    @jax.jit
    def estimate(key):
        stage = begin(policy, key, hp, world)
        b = rollout(policy, params, stage, key, hp, world, hp.num_steps)[1]
        b = improper_rl.discounted(None, b, 0, hp, world)

        def loss(theta):
            w = policy.judge(dict(params, theta=theta), params, b, key)
            return (w.log_prob * b.advantage).mean()

        return jax.grad(loss)(params["theta"])

    got = np.asarray(estimate(jax.random.key(0)))
    np.testing.assert_allclose(got, want, atol=0.1 * np.abs(want).max())


def test_by_the_mode_they_take_turns_in_proportion():
    world = envs.make("tabular/queues")
    policy = improper_rl.mixture(world.tables.controllers)
    params = dict(theta=jnp.log(jnp.array([0.7, 0.3])), critic=jnp.zeros(S))
    obs, start, owed = jnp.eye(S)[:1], jnp.zeros(1, bool), policy.memory(1)
    played = []
    for _ in range(20):
        action, _, _, owed = policy.act(params, obs, start, owed, None)
        played.append(int(action[0]))
    assert played.count(0) == 14 and sum(played[:10]) == 3


def test_the_claims_numbers_are_those_of_brute_force():
    values = [solve(np.array([x, 1 - x]))[0] for x in np.linspace(0, 1, 1001)]
    threshold = float(PAPER["check"]["says"][0].split()[-1])
    assert abs(threshold / 1.01 - max(values)) < 0.01
    assert threshold > max(values[0], values[-1]) + 1
