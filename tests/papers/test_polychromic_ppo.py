"""Polychromic PPO, arXiv 2509.25424: sets, their advantage, and the vines that it is for."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import rooms
from jaxrl.errors import InputError
from jaxrl.families.on_policy import State, gae
from jaxrl.hyper import check, replace
from jaxrl.optim import adam
from jaxrl.papers.exploration import polychromic_ppo as poly
from jaxrl.papers.exploration.polychromic_ppo import PolychromicPPO
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin
from jaxrl.run.battery import QUICK

pytestmark = pytest.mark.equation("polychromic_ppo")
quick = functools.partial(jax.jit, compiler_options=QUICK)

N, n = 6, 3
R = np.array([1.0, 1.0, 0.0, 1.0, 0.5, 1.0])
GOALS = np.eye(4)[[0, 0, 0, 1, 2, 3]] * (R > 0)[:, None]  # the third reaches none


def f(members):
    """The mean return of a set times its diversity: distinct goals, by the size of the set."""
    reached = {int(GOALS[i].argmax()) for i in members if R[i] > 0}
    return np.mean([R[i] for i in members]) * len(reached) / n


@functools.partial(jax.vmap, in_axes=(0,))
def advantages(key):
    return poly.set_advantage(key, jnp.asarray(R), jnp.asarray(GOALS), n)


def test_a_set_shares_its_advantage_and_a_member_of_several_has_their_mean():
    keys = jax.random.split(jax.random.key(0), 40)
    order = np.asarray(jax.vmap(lambda k: jax.random.uniform(k, (N, N)).argsort(-1))(keys))
    for got, sets in zip(np.asarray(quick(advantages)(keys)), order):
        drawn = [np.flatnonzero(row < n) for row in sets]
        assert all(len(members) == n for members in drawn)
        value = np.array([f(members) for members in drawn])
        for i in range(N):
            mine = [v - value.mean() for v, members in zip(value, drawn) if i in members]
            np.testing.assert_allclose(got[i], np.mean(mine) if mine else 0.0, atol=1e-6)


def test_over_all_sets_it_is_what_a_member_adds():
    """E[f | i in the set] - E[f]: the rare goal's is the largest, though all returns are alike."""
    every = list(itertools.combinations(range(N), n))
    mean = np.mean([f(members) for members in every])
    want = [np.mean([f(members) for members in every if i in members]) - mean for i in range(N)]
    got = quick(advantages)(jax.random.split(jax.random.key(1), 6000)).mean(0)
    np.testing.assert_allclose(got, want, atol=0.015)
    assert min(got[3], got[5]) > got[0] + 0.05 and R[0] == R[3] == R[5]


WORLD = envs.make("rooms/four", max_steps=24)
POLICY = policy_for(WORLD, Network(hidden=()))
HP = PolychromicPPO(num_envs=16, num_steps=30, group=8, minibatches=1)


@functools.cache
def collected():
    stage = begin(POLICY, jax.random.key(0), HP, WORLD)
    params = POLICY.init(jax.random.key(1), stage.obs)
    s = State(params, adam(HP).init(params), jax.random.key(5), stage, {})

    @quick
    def both(s):
        s, b, metrics = poly.vines(POLICY).apply((), s, None, 0, HP, WORLD)[1]
        advantage = lambda hp: poly.polychromic(jax.random.key(3), s, b, 0, hp, WORLD)[1].advantage
        hps = [HP, replace(HP, normalise_advantage=False), replace(HP, objective="return")]
        return b, metrics, [advantage(hp) for hp in hps], gae(s, b, 0, HP, WORLD).advantage

    return jax.tree.map(np.asarray, both(s))


def first_episodes():
    """The end, return and goal (or None) of the first episode of each environment, by a loop."""
    b = collected()[0]
    for i in range(16):
        end = int(b.done[:, i].argmax())
        cell = divmod(int(b.obs[end, i].argmax()), rooms.SIZE)
        goal = [k for k, g in enumerate(rooms.GOALS.tolist()) if tuple(g) == cell]
        yield end, b.reward[: end + 1, i].sum(), goal[0] if goal and b.reward[end, i] else None


def test_a_group_continues_one_start():
    b, metrics, *_ = collected()
    assert all((b.obs[0, g : g + 8] == b.obs[0, g]).all() for g in (0, 8))
    assert (b.obs[0, 0] != b.obs[0, 8]).any() and b.start[0].all()
    assert len(np.unique(b.obs[3, :8], axis=0)) > 1  # and then they part
    ends, returns, goals = zip(*first_episodes())
    assert 0 < sum(g is not None for g in goals) == sum(returns) < 16
    want = np.mean([len({g for g in goals[i : i + 8] if g is not None}) / 4 for i in (0, 8)])
    np.testing.assert_allclose(metrics["coverage"], want)
    np.testing.assert_allclose(metrics["success"], np.mean(returns))


def test_every_step_of_a_continuation_has_its_advantage_and_nothing_after_it_has():
    (A, plain, ppo), its_gae = collected()[2:]
    ends, returns, goals = zip(*first_episodes())
    keys = jax.random.split(jax.random.split(jax.random.key(3))[1], 2)
    reached = np.array([np.eye(4)[g] if g is not None else np.zeros(4) for g in goals])
    want = np.concatenate(
        [
            poly.set_advantage(k, jnp.array(returns[i : i + 8]), jnp.asarray(reached[i : i + 8]), 4)
            for k, i in zip(keys, (0, 8))
        ]
    )
    assert np.abs(want).max() > 0.01
    steps = [(np.arange(30) <= end) for end in ends]
    np.testing.assert_allclose(plain, np.stack([w * x for w, x in zip(want, steps)], 1), atol=1e-6)
    own = np.stack(steps, 1)
    np.testing.assert_allclose(A, plain / np.sqrt((plain[own] ** 2).mean()), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(ppo, its_gae, rtol=1e-5)


def test_what_does_not_fit_is_said():
    with pytest.raises(InputError, match="group: 3"):
        check(PolychromicPPO(group=3))
    with pytest.raises(InputError, match="CartPole-v1 does not say which goals"):
        poly.attempts(collected()[0], HP, envs.make("CartPole-v1"))
