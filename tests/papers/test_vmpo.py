"""V-MPO's three losses, arXiv 1909.12238, against NumPy, and what their minima are."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import View
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast
from jaxrl.optim import adam
from jaxrl.papers.on_policy import vmpo
from jaxrl.papers.on_policy.vmpo import VMPO
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin, rollout
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("vmpo")

A = np.random.default_rng(0).normal(size=11)
HALF = np.argsort(-A)[:6]  # the median is one of eleven, and of the better half


def test_the_weights_are_a_softmax_over_the_better_half():
    want = np.zeros(11)
    want[HALF] = np.exp(A[HALF] / 0.7) / np.exp(A[HALF] / 0.7).sum()
    np.testing.assert_allclose(vmpo.weights(jnp.asarray(A), 0.7), want, rtol=1e-5)


def test_the_temperatures_loss_is_the_formula_and_its_minimum_the_bound():
    loss = lambda eta: vmpo.temperature_loss(jnp.asarray(A), eta, VMPO(eps_eta=0.1))
    want = lambda eta: eta * 0.1 + eta * np.log(np.exp(A[HALF] / eta).mean())
    for eta in (0.3, 1.0, 4.0):
        assert float(loss(eta)) == pytest.approx(want(eta), rel=1e-5)
    grid = np.linspace(0.2, 5, 2000)
    best = grid[np.argmin([want(x) for x in grid])]
    assert abs(float(jax.grad(loss)(jnp.float32(best)))) < 1e-3
    psi = np.asarray(vmpo.weights(jnp.asarray(A), best))[HALF]
    assert (psi * np.log(psi * 6)).sum() == pytest.approx(0.1, rel=0.02)  # KL(ψ || uniform)


def test_the_policys_loss_is_weighted_likelihood_and_the_price_of_the_kl():
    log_prob, kl = jnp.linspace(-2.0, -0.5, 11), jnp.linspace(0.0, 0.1, 11)
    view = View(log_prob, log_prob, log_prob, lambda: kl, lambda: kl, lambda: 9 * kl, None)
    b = Batch(
        0, 0, 0, jnp.bool_(False), advantage=jnp.asarray(A, jnp.float32), dual=jnp.array([0.7, 5.0])
    )
    psi = np.exp(A[HALF] / 0.7) / np.exp(A[HALF] / 0.7).sum()
    want = -(psi * np.asarray(log_prob)[HALF]).sum() + 5.0 * float(kl.mean())
    assert float(vmpo.imitation(view, b, VMPO()).mean()) == pytest.approx(want, rel=1e-5)


def test_the_solution_is_the_tilted_policy():
    """Of a bandit whose every action is in the batch once, without a bound: π = ψ."""
    view = lambda logits: View(
        *[jax.nn.log_softmax(logits)] * 3, *[lambda: jnp.zeros(11)] * 3, None
    )
    b = Batch(
        0, 0, 0, jnp.bool_(False), advantage=jnp.asarray(A, jnp.float32), dual=jnp.array([0.7, 0.0])
    )
    psi = vmpo.weights(b.advantage, 0.7)
    loss = lambda logits: vmpo.imitation(view(logits), b, VMPO()).mean()
    grad = jax.grad(loss)(jnp.log(jnp.maximum(psi, 1e-9)))
    np.testing.assert_allclose(grad, 0, atol=1e-5)
    assert np.abs(jax.grad(loss)(jnp.zeros(11))).max() > 0.01


WORLD = envs.make("probe/match")
LINEAR = policy_for(WORLD, Network(hidden=()))
HP: Any = VMPO(
    num_envs=4, num_steps=4, minibatches=1, epochs=3, lr=0.3, dual_lr=0.2, max_grad_norm=jnp.inf
)


@functools.partial(jax.jit, compiler_options=QUICK)
def collected(hp):
    """A batch with advantages, and the state that collected it."""
    k0, k1, k2 = jax.random.split(jax.random.key(0), 3)
    stage = begin(LINEAR, k0, hp, WORLD)
    params = LINEAR.init(k1, stage.obs)
    b = rollout(LINEAR, params, stage, k2, hp, WORLD, hp.num_steps)[1]
    advantage = jax.random.normal(k0, b.reward.shape)
    s = State(params, adam(hp).init(params), k1, stage, {})
    return s, b.replace(advantage=advantage, target=advantage)


@functools.partial(jax.jit, compiler_options=QUICK)
def updated(hp, s, b):
    part = vmpo.maximum_a_posteriori(LINEAR)
    return part.apply(part.init(None, s, hp, WORLD), s, b, 0, hp, WORLD)


def actor_of(params):
    layer = params["net"]["params"]["Dense_1"]
    return np.concatenate([layer["kernel"], layer["bias"][None]]).astype(float)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def adam_steps(lr, eps, b1=0.9, b2=0.999):
    """A function gradient -> Adam's change, which remembers."""
    m, v, i = 0.0, 0.0, 0

    def step(g):
        nonlocal m, v, i
        m, v, i = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2, i + 1
        return -lr * (m / (1 - b1**i)) / (np.sqrt(v / (1 - b2**i)) + eps)

    return step


# a bound that is kept, so that α falls, and one that is not, so that it rises again
@pytest.mark.parametrize(("eps_alpha", "rises"), [(10.0, False), (0.001, True)])
def test_an_update_moves_the_policy_and_both_multipliers(eps_alpha, rises):
    hp = HP.replace(eps_alpha=eps_alpha)
    s, b = collected(cast(hp))
    theta, A = actor_of(s.params), np.ravel(b.advantage).astype(float)
    x = np.stack([np.ravel(b.obs), np.ones(A.size)], 1)
    p, taken = softmax(x @ theta), np.eye(2)[np.ravel(b.action)]
    half = np.argsort(-A)[: A.size // 2]
    move, move_duals = adam_steps(hp.lr, 1e-5), adam_steps(hp.dual_lr, 1e-8)
    duals, alphas = np.log([hp.eta, hp.alpha]), []
    for _ in range(hp.epochs):
        eta, alpha = np.exp(duals)
        q = softmax(x @ theta)
        kl = (p * np.log(p / q)).sum(-1).mean()
        psi = np.zeros(A.size)
        psi[half] = np.exp(A[half] / eta) / np.exp(A[half] / eta).sum()
        g = -psi[:, None] * (taken - q) + alpha * (q - p) / A.size  # by the logits
        # ∂L_η / ∂log η, for ∂(η log mean exp(A/η)) / ∂η = log mean exp(A/η) - Σ ψ A / η
        slope = hp.eps_eta + np.log(np.exp(A[half] / eta).mean()) - (psi * A).sum() / eta
        duals = duals + move_duals(np.array([eta * slope, alpha * (eps_alpha - kl)]))
        theta = theta + move(x.T @ g)
        alphas.append(alpha)
    assert (np.exp(duals[1]) > alphas[-1]) == rises
    _, (out, stats) = updated(cast(hp), s, b)
    np.testing.assert_allclose(actor_of(out.params), theta, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose([stats["eta"], stats["alpha"]], np.exp(duals), rtol=2e-3)
