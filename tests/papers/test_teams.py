"""IPPO (arXiv 2011.09533), MAPPO (2103.01955) and DPO (2211.03032) against NumPy and PPO."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.base import Wrapper
from jaxrl import normalise
from jaxrl.core import train
from jaxrl.families.multi_agent import separate
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast, replace
from jaxrl.optim import adam
from jaxrl.papers.multi_agent import decentralized_po, ippo, mappo
from jaxrl.papers.multi_agent.decentralized_po import DPO
from jaxrl.papers.multi_agent.ippo import IPPO
from jaxrl.papers.multi_agent.mappo import MAPPO
from jaxrl.papers.on_policy import ppo
from jaxrl.policies import Network
from jaxrl.rollout import begin, rollout
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch
from tests.papers.test_ppo import views

KEY = jax.random.key(0)
WORLD = envs.make("agents/spread", max_steps=4)
A = 3
SMALL = dict(num_envs=2, num_steps=6, minibatches=2, epochs=2, lr=0.01)
quick = functools.partial(jax.jit, compiler_options=QUICK)


class Blind(Wrapper):
    """The same world without a state for critics."""

    @property
    def agents(self):
        return self.env.agents

    @property
    def observation_space(self):
        return {k: x for k, x in self.env.observation_space.items() if k != "privileged"}

    def reset(self, key, n):
        state, obs = self.env.reset(key, n)
        return state, {k: x for k, x in obs.items() if k != "privileged"}

    def draw(self, key, steps, n):
        return self.env.draw(key, steps, n)

    def step(self, key, state, action):
        state, s = self.env.step(key, state, action)
        hide = lambda obs: {k: x for k, x in obs.items() if k != "privileged"}
        return state, s._replace(obs=hide(s.obs), final_obs=hide(s.final_obs))


@pytest.mark.equation("ippo")
def test_it_is_ppo_of_what_each_agent_sees():
    blind: Any = Blind(WORLD)
    hp = cast(replace(IPPO(), **SMALL))
    run = lambda make, world: quick(lambda k: train(make(world), k, hp, world, 3))(KEY)
    (one, said), (other, same) = run(ippo.make, WORLD), run(ppo.make, blind)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert said["policy_loss"].shape == (3,) and (said["policy_loss"] == same["policy_loss"]).all()
    plain = run(ppo.make, WORLD)[0].params  # whose critic sees the state of all
    assert jax.tree.map(jnp.shape, plain) != jax.tree.map(jnp.shape, one.params)


@pytest.mark.equation("mappo")
def test_the_critic_s_loss_is_huber_s_of_the_worse_of_it_and_its_clip():
    rng = np.random.default_rng(0)
    v, old, target = rng.normal(size=(3, 200)) * 2
    hp: Any = MAPPO(eps=0.2, delta=1.5)
    b = Batch(0, 0, 0, 0, value=jnp.asarray(old), target=jnp.asarray(target))
    got = mappo.value_loss(views(jnp.asarray(v), value=jnp.asarray(v)), b, hp)

    def h(e):
        return e**2 / 2 if abs(e) <= 1.5 else 1.5 * (abs(e) - 0.75)

    near = old + np.clip(v - old, -0.2, 0.2)
    want = [max(h(x - y), h(z - y)) for x, y, z in zip(v, target, near)]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.equation("mappo")
def test_advantages_are_of_real_values_and_targets_are_normalised():
    """V = μ + σ v of what the critic says; then δ, A and the target by a loop, and its moments."""
    rng, T, N = np.random.default_rng(1), 5, 3
    v, ahead, reward = rng.normal(size=(3, T, N))
    terminated = rng.random((T, N)) < 0.2
    done = terminated | (rng.random((T, N)) < 0.2)
    ahead = np.where(terminated, 0.0, ahead)
    hp: Any = MAPPO(gamma=0.9, lam=0.8, normalise_advantage=False)
    m = normalise.moments(jnp.zeros(())).replace(
        mean=jnp.float32(-20.0), var=jnp.float32(9.0), count=jnp.float32(30.0)
    )
    flags = dict(terminated=jnp.asarray(terminated), done=jnp.asarray(done))
    b = Batch(0, 0, 0, 0, jnp.asarray(v), jnp.asarray(ahead), jnp.asarray(reward), **flags)
    after, out = mappo.normalised_gae(m, None, b, 0, hp, None)
    V, V_ahead = -20 + 3 * v, -20 + 3 * ahead
    advantage, last = np.zeros((T, N)), np.zeros(N)
    for t in reversed(range(T)):
        delta = reward[t] + 0.9 * np.where(terminated[t], 0, V_ahead[t]) - V[t]
        last = delta + 0.9 * 0.8 * np.where(done[t], 0, last)
        advantage[t] = last
    np.testing.assert_allclose(out.advantage, advantage, rtol=1e-4, atol=1e-4)
    target, n = advantage + V, T * N
    mean = (30 * -20 + target.sum()) / (30 + n)
    square = (30 * (9 + 400) + (target**2).sum()) / (30 + n)
    np.testing.assert_allclose([after.mean, after.var], [mean, square - mean**2], rtol=1e-4)
    np.testing.assert_allclose(out.target, (target - mean) / np.sqrt(after.var), rtol=1e-3)
    assert out.value is b.value
    raw, plain = mappo.normalised_gae(m, None, b, 0, hp.replace(value_norm=False), None)
    assert raw is m and not np.allclose(plain.advantage, out.advantage)


def test_the_tests_of_dpo_have_agents_whose_penalties_differ():
    beta, cost = updated()[2:]
    assert len({*np.round(np.asarray(cost[1]), 8)}) == A and beta.shape == (2, A)


@pytest.mark.equation("decentralized_po")
def test_the_penalties_are_each_agent_s_own():
    """r A less β₁ᵢ √KL and β₂ᵢ KL, of the agent whose step it is."""
    rng = np.random.default_rng(2)
    log_ratio, advantage = rng.normal(size=(2, 9)) / 2
    kl = np.abs(rng.normal(size=9))
    beta, who = np.array([[1.0, 2.0, 3.0], [0.5, 0.1, 4.0]]), rng.permutation(9) % A
    b = Batch(dict(agent=jnp.eye(A)[who]), 0, 0, 0, advantage=jnp.asarray(advantage))
    b = b.replace(dual=jnp.asarray(beta))
    w = views(jnp.asarray(log_ratio), kl=lambda: jnp.asarray(kl))
    want = [
        beta[0, i] * k**0.5 + beta[1, i] * k - np.exp(x) * a
        for i, k, x, a in zip(who, kl, log_ratio, advantage)
    ]
    np.testing.assert_allclose(decentralized_po.penalties(w, b, DPO()), want, rtol=1e-4)
    slope = jax.grad(lambda k: decentralized_po.root(k).sum())(jnp.zeros(3))
    assert np.isfinite(slope).all()


@functools.cache
def updated():
    """(hp, weights before, after, what each agent's update cost: [√KL, KL] by NumPy)."""
    hp = cast(replace(DPO(), **SMALL | dict(d_targ=1e-3, lr=0.01)))
    policy = separate(WORLD, Network(hidden=(4,)))
    part = decentralized_po.adaptive(policy, A)

    @quick
    def run(key):
        stage = begin(policy, key, hp, WORLD)
        params = policy.init(key, stage.obs)
        b = rollout(policy, params, stage, key, hp, WORLD, hp.num_steps)[1]
        advantage = jax.random.normal(key, b.reward.shape) * (1 + 3 * b.obs["agent"].argmax(-1))
        b = b.replace(advantage=advantage, target=b.value)
        s = State(params, adam(hp).init(params), key, stage, {})
        beta = part.init(key, s, hp, WORLD)
        beta, (new, _) = part.apply(beta, s, b, 0, hp, WORLD)
        look = lambda p: policy.act(p, b.obs, b.start, (), None)[1]["out"]
        return part.init(key, s, hp, WORLD), beta, look(params), look(new.params), b.obs["agent"]

    first, beta, old, new, who = jax.tree.map(np.asarray, run(KEY))
    log = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    kl = (np.exp(log(old)) * (log(old) - log(new))).sum(-1)
    each = [kl[who.argmax(-1) == i] for i in range(A)]
    cost = np.array([[np.sqrt(np.maximum(x, 0)).mean() for x in each], [x.mean() for x in each]])
    return hp, first, beta, cost


@pytest.mark.equation("decentralized_po")
def test_each_weight_follows_what_its_agent_s_update_cost():
    hp, first, beta, cost = updated()
    np.testing.assert_allclose(first, 1.0)
    goal = np.array([[float(hp.d_targ) ** 0.5], [float(hp.d_targ)]])
    want = np.where(cost > 1.5 * goal, 2.0, np.where(cost < goal / 1.5, 0.5, 1.0))
    np.testing.assert_array_equal(beta, want)
    assert len(np.unique(want)) > 1
