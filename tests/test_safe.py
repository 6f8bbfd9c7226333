"""The constrained family: what is counted, what is mixed, what is refused, and a problem solved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import returns
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.families import safe
from jaxrl.families.on_policy import State, on_policy
from jaxrl.families.safe import Account, Safe
from jaxrl.hyper import cast, check
from jaxrl.papers.safe import ppo_lagrangian
from jaxrl.papers.safe.ppo_lagrangian import PPOLagrangian
from jaxrl.policies import Network
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

KEY = jax.random.key(0)
TOLLS = envs.make("tabular/tolls", max_steps=5)
POINT = envs.make("safe/navigation")
T, N = 7, 3


def batch(k=2, seed=0):
    """Made up, with ends and cuts, of 1 + k objectives."""
    rng = np.random.default_rng(seed)
    terminated = rng.random((T, N)) < 0.15
    done = terminated | (rng.random((T, N)) < 0.2)
    reward, value, ahead = rng.normal(size=(3, T, N, 1 + k)).astype(np.float32)
    flags = dict(terminated=jnp.asarray(terminated), done=jnp.asarray(done))
    start = jnp.zeros((T, N), bool)
    rest = dict(value=jnp.asarray(value), next_value=jnp.asarray(ahead), reward=jnp.asarray(reward))
    return Batch(0, 0, 0, start, **rest, **flags)


def refuses(f, *args):
    with pytest.raises(InputError) as e:
        f(*args)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_what_has_no_costs_and_what_has_others_is_refused_in_one_line():
    assert "CartPole-v1 has no costs" in refuses(ppo_lagrangian.make, envs.make("CartPole-v1"))
    assert "3 for 2 costs" in refuses(safe.limits, Safe(budget=(1.0, 2.0, 3.0)), POINT)
    assert "normalise_reward: True" in refuses(check, Safe(normalise_reward=True))
    assert "budget: -1.0 is outside" in refuses(check, Safe(budget=(2.0, -1.0)))


def test_a_budget_is_for_all_costs_or_for_each():
    for budget, want in ((5.0, [5, 5]), ((5.0,), [5, 5]), ((5.0, 2.0), [5, 2])):
        np.testing.assert_array_equal(safe.limits(check(Safe(budget=budget)), POINT), want)
    assert Safe.for_env("safe").budget != Safe.for_env("brax").budget == Safe().budget
    assert Safe.for_env("safe").num_steps == POINT.max_steps  # each rollout has whole episodes


def test_every_objective_has_an_advantage_of_its_own():
    b, hp = batch(), Safe(gamma=0.9, lam=0.8, normalise_advantage=False)
    got = safe.separate(None, b, 0, hp, None)
    for i in range(3):
        one = [x[..., i] for x in (b.reward, b.value, b.next_value)]
        A = returns.gae(*one, b.terminated, b.done, 0.9, 0.8)
        np.testing.assert_allclose(got.advantage[..., i], A, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.target[..., i], A + b.value[..., i], rtol=1e-5, atol=1e-6)
    A = np.asarray(got.advantage, float)
    even = safe.separate(None, b, 0, hp.replace(normalise_advantage=True), None).advantage
    want = A - A.mean((0, 1))
    want[..., 0] /= A[..., 0].std()
    np.testing.assert_allclose(even, want, rtol=1e-4, atol=1e-5)


def test_prices_mix_them():
    b, price = batch(), jnp.array([0.5, 2.0])
    hp = Safe(normalise_advantage=False)
    b = b.replace(dual=Account(jnp.zeros(2), jnp.ones(()), price))
    A = np.asarray(safe.separate(None, b, 0, hp, None).advantage)
    got = safe.mixed(None, b, 0, hp, None).advantage
    want = (A[..., 0] - 0.5 * A[..., 1] - 2.0 * A[..., 2]) / 3.5
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    free = safe.mix(jnp.asarray(A), jnp.zeros(2))
    np.testing.assert_array_equal(free, A[..., 0])


def test_an_account_is_of_the_episodes_that_finished_and_is_kept_until_others_do():
    policy = safe.critics(TOLLS, Network(hidden=()))
    part, hp = safe.counted(policy, ("cost",)), Safe(num_envs=4, num_steps=3)
    algo = on_policy(policy, lambda w, b, hp: 0 * w.value[..., 0], sampler=part)
    s = algo.init(KEY, hp, TOLLS)
    apply = jax.jit(lambda slot, s: part.apply(slot, s, None, 0, hp, TOLLS), compiler_options=QUICK)
    slot, paid, seen = s.slots["sampler"], np.zeros(4), []
    np.testing.assert_array_equal(slot.cost, [0.0])
    for _ in range(4):  # twelve steps, episodes of five
        slot, (s, b, metrics) = apply(slot, s)
        ended = []
        for reward, done in zip(np.asarray(b.reward), np.asarray(b.done)):
            paid += reward[:, 1]
            ended += list(paid[done])
            paid[done] = 0.0
        if ended:
            np.testing.assert_allclose(slot.cost, [np.mean(ended)], rtol=1e-5)
            assert slot.length == 5.0
        elif seen:
            np.testing.assert_array_equal(slot.cost, seen[-1])
        np.testing.assert_array_equal(b.dual.cost, slot.cost)
        seen.append(np.asarray(slot.cost))
    assert seen[0] == [0.0] and len({float(x[0]) for x in seen}) == 3


def test_prices_come_from_the_excess_and_are_reported_by_name():
    begin, rule = lambda k, hp: jnp.zeros(k), lambda lam, J, d, hp: (lam + 1, lam + J - d)
    part, hp = safe.priced(begin, rule), Safe(budget=(5.0, 1.0))
    s = State((), (), KEY, None, {})
    slot = part.init(KEY, s, hp, POINT)
    b = batch().replace(dual=Account(jnp.array([7.0, 0.5]), jnp.float32(100.0)))
    slot, account = part.apply(slot, s, b, 0, hp, POINT)
    np.testing.assert_array_equal(slot, [1.0, 1.0])
    np.testing.assert_array_equal(account.price, [2.0, -0.5])
    got = safe.accounted(s, b.replace(dual=account), hp, POINT)
    want = dict(excess=2.0, overspent=2.0, price_hazard=2.0, price_speed=-0.5)
    assert {k: float(v) for k, v in got.items()} == want
    assert set(safe.accounted(s, b, hp, POINT)) == {"excess", "overspent"}  # no prices, no names


@functools.cache
def solved(budget):
    """Costs and returns at the end, by seed."""
    world = envs.make("tabular/tolls", max_steps=20)
    hp = PPOLagrangian(num_envs=16, num_steps=20, epochs=2, minibatches=2, lr=0.02, ent_coef=0.0)
    hp = cast(hp.replace(budget=budget, dual_lr=0.1))
    algo = ppo_lagrangian.make(world, Network(hidden=()))
    run = jax.jit(jax.vmap(lambda k: train(algo, k, hp, world, 150)[1]), compiler_options=QUICK)
    m = run(jax.vmap(jax.random.key)(jnp.arange(3)))
    return {k: np.asarray(v)[:, -50:].mean(1) for k, v in m.items()}


def test_it_spends_its_budget_and_earns_by_it():
    poor, rich = solved(3.0), solved(6.0)
    np.testing.assert_allclose(poor["episode_cost"], 3.0, atol=0.4)
    np.testing.assert_allclose(rich["episode_cost"], 6.0, atol=0.6)
    assert (rich["episode_return"] > poor["episode_return"] + 1).all()
    assert (poor["price_cost"] > rich["price_cost"]).all()
    np.testing.assert_allclose(poor["excess"], poor["episode_cost"] - 3.0, atol=1e-4)


def test_a_memory_and_a_squashed_head_are_no_matter():
    world = envs.make("safe/circle", max_steps=4)
    algo = ppo_lagrangian.make(world, Network(hidden=(4,), memory=4, head="squashed"))
    hp = cast(PPOLagrangian(num_envs=4, num_steps=4, epochs=1, minibatches=2))
    m = jax.jit(lambda k: train(algo, k, hp, world, 2)[1], compiler_options=QUICK)(KEY)
    assert np.isfinite(np.asarray(m["value_loss"])).all() and np.isfinite(m["price_cost"]).all()
