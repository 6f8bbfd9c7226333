"""PPO's equations, arXiv 1707.06347, and its critic on problems whose values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import Policy, View, train
from jaxrl.families import on_policy as family
from jaxrl.families.on_policy import State
from jaxrl.papers.on_policy import ppo, ppo_kl
from jaxrl.papers.on_policy.ppo import PPO
from jaxrl.policies import Network, policy_for
from jaxrl.types import Batch


def views(log_ratio, **more):
    zero = jnp.zeros_like(jnp.asarray(log_ratio))
    thunks = dict.fromkeys(("entropy", "kl", "reverse_kl"), lambda: zero)
    fields = dict(log_prob=zero, value=zero, record=None) | thunks
    return View(jnp.asarray(log_ratio), **(fields | more))


@pytest.mark.equation("ppo")
def test_the_clip_is_equation_7_and_its_gradient_stops_where_it_should():
    hp = PPO(eps=0.2)
    ratios, advantages = np.meshgrid(
        [0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0], [-2.0, -0.5, 0.5, 2.0]
    )
    r, A = ratios.ravel(), advantages.ravel()
    b = Batch(0, 0, 0, 0, advantage=jnp.asarray(A))
    loss, grad = jax.vmap(
        jax.value_and_grad(lambda x, A: ppo.clip(views(x), Batch(0, 0, 0, 0, advantage=A), hp))
    )(jnp.log(r), b.advantage)
    want = [-min(x * a, max(0.8, min(1.2, x)) * a) for x, a in zip(r, A)]
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    outside = ((A > 0) & (r > 1.2)) | ((A < 0) & (r < 0.8))
    np.testing.assert_allclose(grad, np.where(outside, 0.0, -r * A), rtol=1e-5)


@pytest.mark.equation("ppo")
def test_the_clipped_value_loss_is_the_larger_error():
    v, old, target = (
        jnp.array([1.0, 3.0, -2.0]),
        jnp.array([0.0, 0.0, 0.0]),
        jnp.array([0.2, 4.0, -5.0]),
    )
    b = Batch(0, 0, 0, 0, value=old, target=target)
    got = ppo.clipped_value(views(v, value=v), b, PPO(vf_clip=0.5))
    near = np.clip(v, -0.5, 0.5)
    np.testing.assert_allclose(got, 0.5 * np.maximum((v - target) ** 2, (near - target) ** 2))
    off = ppo.clipped_value(views(v, value=v), b, PPO())
    np.testing.assert_allclose(off, 0.5 * (v - target) ** 2)


@pytest.mark.equation("ppo_kl")
def test_the_penalty_is_equation_8():
    kl = jnp.array([0.1, 0.3])
    b = Batch(0, 0, 0, 0, advantage=jnp.array([2.0, -1.0]), dual=jnp.float32(5.0))
    got = ppo_kl.penalty(views(jnp.log(jnp.array([1.5, 0.5])), kl=lambda: kl), b, ppo_kl.PPOKL())
    np.testing.assert_allclose(got, [-(1.5 * 2 - 5 * 0.1), -(0.5 * -1 - 5 * 0.3)], rtol=1e-5)


@pytest.mark.equation("ppo_kl")
@pytest.mark.parametrize(("d", "factor"), [(0.6, 0.5), (0.7, 1.0), (1.4, 1.0), (1.6, 2.0)])
def test_beta_follows_section_4(d, factor):
    """Halved below d_targ / 1.5, doubled above 1.5 d_targ; d is the KL from the old parameters."""
    asked = []

    def judge(params, old_params, b, key):
        asked.append((params, old_params))
        return views(jnp.zeros(3), kl=lambda: jnp.full(3, d * 0.01))

    start = State("old", (), jax.random.key(0), None, {})
    inner = family.stateless(lambda s, b, *_: (s.replace(params="new"), {}))
    part = ppo_kl.adaptive(Policy(None, None, None, judge), inner)
    beta, (_, stats) = part.apply(3.0, start, Batch(0, 0, 0, 0), 0, ppo_kl.PPOKL(), None)
    assert asked == [("new", "old")]
    np.testing.assert_allclose([beta, stats["kl"]], [3.0 * factor, d * 0.01], rtol=1e-6)


@pytest.mark.equation("ppo_kl")
@pytest.mark.parametrize(("d_targ", "factor"), [(1e3, 0.5), (1e-9, 2.0)])
def test_beta_is_kept_from_update_to_update(d_targ, factor):
    world = envs.make("probe/match")
    hp = ppo_kl.PPOKL(d_targ=d_targ, num_envs=4, num_steps=4, minibatches=1, epochs=2)
    algo = ppo_kl.make(world, Network(hidden=(4,)))
    s, m = jax.jit(lambda k: train(algo, k, hp, world, 3))(jax.random.key(0))
    np.testing.assert_allclose(m["beta"], [1.0, factor, factor**2])
    np.testing.assert_allclose(s.slots["update"], factor**3)


# name, observations to ask about, their exact values at gamma 0.9
PROBES = [
    ("one", [0.0], [1.0]),
    ("sign", [-1.0, 1.0], [-1.0, 1.0]),
    ("delay", [0.0, 1.0], [0.9, 1.0]),
    ("action", [0.0], [1.0]),
    ("match", [-1.0, 1.0], [1.0, 1.0]),
    ("constant", [0.0], [10.0]),  # RELIABILITY: 1 / (1 - gamma) though every episode is cut
    ("action-continuous", [0.0], [0.0]),
    ("match-continuous", [-0.8, 0.8], [0.0, 0.0]),
]


@pytest.mark.parametrize(("name", "ask", "values"), PROBES, ids=[p[0] for p in PROBES])
def test_the_critic_reaches_the_exact_values(name, ask, values):
    params = dict(max_steps=10) if name == "constant" else {}
    world = envs.make(f"probe/{name}", **params)
    network = Network(hidden=(16,))
    policy = policy_for(world, network)
    hp = PPO(gamma=0.9, lr=0.01, ent_coef=0.0, num_envs=8, num_steps=16, minibatches=2)
    seeds = jax.vmap(jax.random.key)(jnp.arange(3))
    f = jax.jit(jax.vmap(lambda k: train(ppo.make(world, network), k, hp, world, 250)[0].params))
    obs = jnp.array(ask)[:, None]
    got = jax.vmap(lambda p: policy.act(p, obs, jnp.zeros(len(ask), bool), (), None)[2])(f(seeds))
    slack = 0.05 * max(1.0, *np.abs(values))
    np.testing.assert_allclose(got, np.broadcast_to(values, got.shape), atol=slack)
