"""PDPPO, arXiv 2504.05150: two critics, two returns, the larger advantage; against a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.errors import InputError
from jaxrl.families.on_policy import State, sgd
from jaxrl.hyper import cast, check, replace
from jaxrl.optim import adam
from jaxrl.papers.on_policy import pdppo
from jaxrl.papers.on_policy.pdppo import PDPPO
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin, rollout
from jaxrl.run.battery import QUICK

pytestmark = pytest.mark.equation("pdppo")

WORLD = envs.make("factory/lot-sizing", max_steps=3)
POLICY = pdppo.dual(policy_for(WORLD, Network(hidden=())))  # linear critics
HP = PDPPO(num_envs=2, num_steps=6, minibatches=1, epochs=1, normalise_advantage=False, gamma=0.9)
CHANGE = 2.0


@functools.cache
def collected():
    """A state with two different critics, and six steps of two factories: four plans."""
    stage = begin(POLICY, jax.random.key(0), HP, WORLD)
    params = POLICY.init(jax.random.key(1), stage.obs)
    run = jax.jit(
        lambda p: rollout(POLICY, p, stage, jax.random.key(2), HP, WORLD, 6)[1],
        compiler_options=QUICK,
    )
    return State(params, adam(HP).init(params), jax.random.key(3), stage, {}), run(params)


def linear(params, obs):
    """A linear critic on the observation's entries in the order of their names."""
    layer = params["net"]["params"]["Dense_0"]
    x = np.concatenate([np.ravel(obs[k]) for k in ("setup", "stock", "time")])
    return float(x @ np.asarray(layer["kernel"])[:, 0] + np.asarray(layer["bias"])[0])


def decide(obs, action):
    """The factory's half of a step that is certain, written out."""
    obs = jax.tree.map(np.array, obs)
    rate, room, cost = np.array([[9, 6, 3], [3, 6, 9]]), 40, 0.0
    for m, a in enumerate(action):
        if a > 0:
            changed = obs["setup"][m, a] == 0
            cost += CHANGE * changed
            obs["stock"][a - 1] += (rate[m, a - 1] - changed) / room
        obs["setup"][m] = np.eye(4)[a]
    return obs, -cost


def want(post):
    """Values, returns and advantages [T, N, ...] by loops."""
    s, b = collected()
    V, r = np.zeros((6, 2, 2)), np.zeros((6, 2, 2))
    for t in range(6):
        for i in range(2):
            obs = jax.tree.map(lambda x: np.asarray(x[t, i]), b.obs)  # noqa: B023
            after, known = decide(obs, np.asarray(b.action[t, i]))
            V[t, i] = linear(s.params, obs), linear(s.params["post"], after if post else obs)
            r[t, i] = (b.reward[t, i] - known, known) if post else (b.reward[t, i],) * 2
    R = np.zeros_like(r)
    for i in range(2):
        later = np.zeros(2)
        for t in reversed(range(6)):
            later = R[t, i] = r[t, i] + (0 if b.done[t, i] else 0.9) * later
    return V, R, np.maximum(R[..., 0] - V[..., 0], R[..., 1] - V[..., 1])


@functools.partial(jax.jit, compiler_options=QUICK, static_argnums=2)
def advantage(s, b, hp):
    return pdppo.dual_advantage(POLICY).apply((), s, b, 0, hp, WORLD)[1]


@pytest.mark.parametrize("post", [True, False])
def test_the_advantage_is_the_larger_of_two(post):
    s, b = collected()
    assert np.asarray(b.done)[[2, 5]].all()
    got, (V, R, A) = advantage(s, b, replace(HP, post=post)), want(post)
    for x, y in ((got.value, V), (got.target, R), (got.advantage, A)):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    post_is_larger = R[..., 1] - V[..., 1] > R[..., 0] - V[..., 0]
    assert 0 < post_is_larger.mean() < 1  # or the maximum would not show
    if not post:  # twins: a return less the smaller value
        np.testing.assert_allclose(A, R[..., 0] - V.min(-1))


def test_both_critics_learn_their_own_return():
    s, b = collected()
    b = advantage(s, b, HP)
    hp = cast(replace(HP, ent_coef=0.0, max_grad_norm=jnp.inf))
    part = sgd(POLICY, clip, value_loss=pdppo.dual_value)
    update = jax.jit(lambda s: part.apply((), s, b, 0, hp, WORLD)[1], compiler_options=QUICK)
    new, stats = update(s)
    V, R, _ = want(True)
    np.testing.assert_allclose(stats["value_loss"], 0.5 * ((V - R) ** 2).sum(-1).mean(), rtol=1e-4)
    for k, at in ((0, lambda p: p), (1, lambda p: p["post"])):
        old, now = (at(p)["net"]["params"]["Dense_0"]["bias"] for p in (s.params, new.params))
        # Adam's first step is lr in size, towards the mean return
        np.testing.assert_allclose(now - old, hp.lr * np.sign((R - V)[..., k].mean()), rtol=1e-2)


def test_what_it_cannot_do_is_said():
    with pytest.raises(InputError, match="CartPole-v1 does not say"):
        pdppo.decision(envs.make("CartPole-v1"))
    with pytest.raises(InputError, match="normalise_obs"):
        check(PDPPO(normalise_obs=True))
    with pytest.raises(InputError, match="memory: 4"):
        pdppo.make(WORLD, Network(memory=4))
