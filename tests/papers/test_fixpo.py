"""FixPO's two phases, arXiv 2312.05405, against a loop, and what they promise."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast
from jaxrl.optim import adam
from jaxrl.papers.on_policy import fixpo
from jaxrl.papers.on_policy.fixpo import FixPO
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin, rollout
from jaxrl.run.battery import QUICK

pytestmark = pytest.mark.equation("fixpo")

WORLD = envs.make("probe/match")
POLICY = policy_for(WORLD, Network(hidden=()))
HP: Any = FixPO(num_envs=4, num_steps=4, minibatches=1, epochs=1, lr=0.5, max_grad_norm=jnp.inf)


@functools.cache
def start():
    """A batch with advantages, and the state that collected it."""
    k0, k1, k2 = jax.random.split(jax.random.key(0), 3)
    stage = begin(POLICY, k0, HP, WORLD)
    params = POLICY.init(k1, stage.obs)
    b = rollout(POLICY, params, stage, k2, HP, WORLD, HP.num_steps)[1]
    A = jax.random.normal(k0, b.reward.shape)
    return State(params, adam(HP).init(params), k1, stage, {}), b.replace(advantage=A, target=A)


@functools.partial(jax.jit, compiler_options=QUICK)
def apply(hp, s, b):
    part = fixpo.two_phase(POLICY)
    return part.apply(part.init(None, s, hp, WORLD), s, b, 0, hp, WORLD)


def update(hp):
    return apply(cast(hp), *start())


def logits(params, obs):
    """Of the linear policy, in NumPy."""
    layer = params["net"]["params"]["Dense_1"]
    x = np.asarray(obs, float).reshape(-1, 1)
    return x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def kl(old, new, obs):
    """KL(old || new) at each state."""
    p, q = softmax(logits(old, obs)), softmax(logits(new, obs))
    return (p * np.log(p / q)).sum(-1)


def adam_by_hand(grads, lr, eps, b1=0.9, b2=0.999):
    """The sum of Adam's steps, down the gradients in turn."""
    m = v = x = 0.0
    for i, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - lr * (m / (1 - b1**i)) / (np.sqrt(v / (1 - b2**i)) + eps)
    return x


def test_a_primary_step_is_adams_on_the_loss():
    """From θ_old, where the KL is flat: the policy gradient; β sees a KL of 0."""
    hp = HP.replace(fixup=False, beta_lr=0.3, ent_coef=0.0)
    s, b = start()
    (beta, _), (s2, stats) = update(hp)
    p = softmax(logits(s.params, b.obs))
    score = np.eye(2)[np.ravel(b.action)] - p
    g = -np.ravel(b.obs) @ (np.ravel(b.advantage)[:, None] * score) / len(p)
    before, after = (x.params["net"]["params"]["Dense_1"]["kernel"] for x in (s, s2))
    np.testing.assert_allclose(after - before, adam_by_hand([g[None]], hp.lr, 1e-5), rtol=1e-3)
    assert float(beta) == pytest.approx(1.0 + adam_by_hand([hp.eps_kl], 0.3, 1e-8), rel=1e-5)
    assert float(stats["max_kl"]) == pytest.approx(
        kl(s.params, s2.params, b.obs).max(), rel=1e-3, abs=1e-6
    )


def test_beta_follows_the_worst_state_over_two_steps():
    hp = HP.replace(fixup=False, beta_lr=0.3, ent_coef=0.0, epochs=2)
    s, b = start()
    (_, _), (once, _) = update(hp.replace(epochs=1))
    (beta, _), _ = update(hp)
    # the first step of both is the same but for the order of the rows
    worst = kl(s.params, once.params, b.obs).max()
    slopes = [hp.eps_kl, hp.eps_kl - hp.c_kl * worst]
    assert float(beta) == pytest.approx(1.0 + adam_by_hand(slopes, 0.3, 1e-8), rel=1e-3)


def test_the_fixup_brings_every_state_back():
    s, b = start()
    hp = HP.replace(lr=1.0, epochs=3, eps_kl=0.05)
    _, (out, stats) = update(hp.replace(fixup=False))
    assert kl(s.params, out.params, b.obs).max() > 0.05
    _, (out, stats) = update(hp)
    assert kl(s.params, out.params, b.obs).max() <= 0.05 * 1.001
    assert float(stats["fixup_share"]) > 0
    assert float(stats["max_kl"]) <= 0.05


def adam_steps(lr, eps, b1=0.9, b2=0.999):
    """A function gradient -> Adam's change, which remembers."""
    m, v, i = 0.0, 0.0, 0

    def step(g):
        nonlocal m, v, i
        m, v, i = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2, i + 1
        return -lr * (m / (1 - b1**i)) / (np.sqrt(v / (1 - b2**i)) + eps)

    return step


def by_hand(hp):
    """Both phases by a loop in NumPy: the actor [2, 2], β after each step, the fixup steps."""
    s, b = start()
    layer = s.params["net"]["params"]["Dense_1"]
    theta = np.concatenate([np.asarray(layer["kernel"]), np.asarray(layer["bias"])[None]]) * 1.0
    x = np.stack([np.ravel(b.obs), np.ones(b.start.size)], 1)
    p, taken = softmax(x @ theta), np.eye(2)[np.ravel(b.action)]
    move, move_beta = adam_steps(hp.lr, 1e-5), adam_steps(hp.beta_lr, 1e-8)
    betas, fixes = [hp.beta], 0

    def look():
        q = softmax(x @ theta)
        return q, (p * np.log(p / q)).sum(-1)

    def step(per_state):  # its derivative by the logits
        nonlocal theta
        worst = look()[1].max()
        theta = theta + move(x.T @ per_state / len(x))
        betas.append(max(0.0, betas[-1] + move_beta(hp.eps_kl - hp.c_kl * worst)))

    for _ in range(hp.epochs):
        q = look()[0]
        r = ((q / p) * taken).sum(-1, keepdims=True)
        step(-r * np.ravel(b.advantage)[:, None] * (taken - q) + betas[-1] * (q - p))
        while hp.fixup and look()[1].max() > hp.eps_kl:
            step(betas[-1] * (look()[0] - p))
            fixes += 1
    return theta, betas, fixes


# β at first; then one that falls to its floor and has to rise from there
@pytest.mark.parametrize("beta", [1.0, 0.2])
@pytest.mark.parametrize("fixup", [False, True])
def test_an_update_is_both_phases_written_out(fixup, beta):
    hp = HP.replace(
        fixup=fixup, epochs=3, lr=1.0, eps_kl=0.05, beta=beta, beta_lr=0.3, ent_coef=0.0
    )
    theta, betas, fixes = by_hand(hp)
    (got, _), (out, stats) = update(hp)
    layer = out.params["net"]["params"]["Dense_1"]
    actor = np.concatenate([layer["kernel"], layer["bias"][None]])
    np.testing.assert_allclose(actor, theta, rtol=2e-3, atol=2e-3)
    assert float(got) == pytest.approx(betas[-1], rel=2e-3, abs=1e-5)
    assert float(stats["beta"]) == float(got)
    assert float(stats["fixup_share"]) == pytest.approx(fixes / 3)  # of one step an epoch
    assert (fixes > 0) == fixup and (min(betas) == 0.0) == (beta == 0.2)


@pytest.mark.slow
def test_every_update_of_a_run_keeps_its_bound():
    world = envs.make("CartPole-v1")
    algo = fixpo.make(world, Network(hidden=(16,)))
    hp = cast(FixPO(num_envs=4, num_steps=16, lr=0.02, eps_kl=0.1))
    _, m = jax.jit(lambda k: train(algo, k, hp, world, 20))(jax.random.key(0))
    assert (np.asarray(m["max_kl"]) <= 0.1).all() and np.asarray(m["fixup_share"]).max() > 0
