"""Grad-MPC's planners, arXiv 2312.17227, against loops by hand and plans whose best is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import dynamics, planning
from jaxrl.errors import InputError
from jaxrl.families import model_based
from jaxrl.hyper import cast, check, replace
from jaxrl.papers.model_based import grad_mpc
from jaxrl.papers.model_based.grad_mpc import GradMPC
from jaxrl.policies import Network
from tests.papers.by_hand import KEY, quick, same, shaken, transitions

pytestmark = pytest.mark.equation("grad_mpc")

M, D, C, H = 6, 4, 3, 5
WORLD = envs.make("distract/pendulum", count=1)
LEARNER = grad_mpc.learner(WORLD, Network(hidden=(4,)))
GOAL = jnp.asarray(np.random.default_rng(3).uniform(-0.8, 0.8, (H, 1)), jnp.float32)


def value(plans):
    return -jnp.square(plans - GOAL).sum((1, 2))


@functools.cache
def learned(**changes):
    rng = np.random.default_rng(0)
    hp = GradMPC(units=3, layers=1, members=2, length=H, candidates=C, rounds=4, elites=2)
    hp = cast(replace(hp, **changes))
    a = jnp.asarray(rng.uniform(-1, 1, (M, 1)), jnp.float32)
    b = transitions(rng, M, D, a)
    params = shaken(rng, jax.jit(LEARNER.init)(KEY, b.obs, hp))
    params["scale"] = dynamics.seen(dynamics.begin(KEY, b.obs, a, hp)[1], b)
    return hp, params, b


def act(params, obs, key, hp):
    return np.asarray(quick(lambda p, o: LEARNER.act(p, o, (), key, 0, hp)[0])(params, obs))


def test_a_plan_is_worth_its_rewards_by_the_members_mean():
    hp, params, b = learned()
    plans = np.random.default_rng(1).uniform(-1, 1, (C, H, 1))
    got = model_based.worth(params, b.obs[0], jnp.asarray(plans, jnp.float32), hp)
    for plan, x in zip(plans, got):
        s, alive, total = np.asarray(b.obs[:1]), 1.0, 0.0
        for a in plan:
            g = dynamics.guess(params["model"], params["scale"], s, a[None], hp)
            change = np.asarray(g.mean).mean(0)[0] * np.sqrt(params["scale"][1].var + 1e-8)
            change = change + params["scale"][1].mean
            total += alive * change[-1]
            alive *= 1 / (1 + np.exp(np.asarray(g.over).mean()))
            s = s + change[:-1]
        assert float(x) == pytest.approx(float(total), rel=1e-3, abs=1e-3)
    assert alive < 0.95


def test_the_gradient_s_plans_are_adams():
    start = np.random.default_rng(2).uniform(-1, 1, (C, H, 1))
    lr, p, m, v = 0.3, start.copy(), 0.0, 0.0
    for t in range(1, 5):
        down = 2 * (p - np.asarray(GOAL))
        m, v = 0.9 * m + 0.1 * down, 0.999 * v + 0.001 * down**2
        step = lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        p = np.clip(p - step, -1, 1)
    got = planning.gradient(value, jnp.asarray(start, jnp.float32), 4, lr)
    best = p[np.argmax(-((p - np.asarray(GOAL)) ** 2).sum((1, 2)))]
    np.testing.assert_allclose(got, best, atol=1e-4)
    there = planning.gradient(value, jnp.zeros((1, H, 1)), 300, 0.05)
    np.testing.assert_allclose(there, GOAL, atol=1e-2)


def test_cross_entropy_refits_its_elites():
    mean, std = np.zeros((H, 1)), np.full((H, 1), 0.7)
    for key in jax.random.split(KEY, 3):
        plans = np.clip(mean + std * np.asarray(jax.random.normal(key, (12, H, 1))), -1, 1)
        worth = -((plans - np.asarray(GOAL)) ** 2).sum((1, 2))
        best = plans[np.argsort(-worth)[:4]]
        mean, std = best.mean(0), best.std(0)
    got = planning.cross_entropy(KEY, value, jnp.zeros((H, 1)), 0.7, 3, 12, 4)
    np.testing.assert_allclose(got, mean, atol=1e-4)
    there = planning.cross_entropy(KEY, value, jnp.zeros((H, 1)), 0.7, 12, 200, 20)
    np.testing.assert_allclose(there, GOAL, atol=0.03)


def test_the_hybrid_begins_at_the_policy_and_does_not_get_worse_in_the_model():
    """Without rounds that move anything, nor noise, it is the policy; and refined, its plans are
    worth at least as much, since the best candidate is taken and one may stay where it was."""
    hp, params, b = learned(start="policy", plan_lr=0.0, spread=0.0)
    plain = act(params, b.obs, None, hp.replace(planner="none"))
    np.testing.assert_allclose(act(params, b.obs, None, hp), plain, atol=1e-6)
    zeros = act(params, b.obs, None, hp.replace(start="noise"))
    assert (zeros == 0).all() and np.abs(plain).max() > 0.1
    still = act(params, b.obs, None, hp.replace(spread=0.5))
    kept = np.isclose(still, plain, atol=1e-6).all(1)
    assert (~kept).sum() > 0
    moved = act(params, b.obs, None, hp.replace(plan_lr=0.2))
    assert not np.isclose(moved, plain, atol=1e-3).any()


def test_exploring_adds_noise_that_the_mode_has_not():
    hp, params, b = learned(sigma=0.05, plan_lr=0.0, spread=0.0)
    noise = np.concatenate([act(params, b.obs, jax.random.key(i), hp) for i in range(20)])
    assert 0.035 < noise.std() < 0.065
    other = hp.replace(planner="cem", spread=0.5)
    assert same(act(params, b.obs, None, other), act(params, b.obs, None, other))
    assert not np.allclose(act(params, b.obs, None, other), act(params, b.obs, None, hp))


@pytest.mark.parametrize("start, planner, learns", [("noise", "cem", 0), ("policy", "gradient", 1)])
def test_a_policy_is_learned_where_one_is_asked_for(start, planner, learns):
    hp, params, b = learned(start=start, planner=planner)
    new, _, said = quick(LEARNER.update)(params, LEARNER.opt(params, hp), b, KEY, 0, 0, hp)
    assert same(new["actor"], params["actor"]) != learns
    assert not same(new["model"], params["model"]) and "model_loss" in said


def test_cem_has_three_times_the_plans():
    with pytest.raises(InputError, match="elites: 7 is above 3 \\* candidates = 6"):
        check(GradMPC(candidates=2, elites=7))
