"""POMO, arXiv 2010.16011: the shared baseline, the given starts, members that are one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.errors import InputError
from jaxrl.families import combinatorial as family
from jaxrl.papers.combinatorial import pomo, poppy
from jaxrl.policies import Network, policy_for
from jaxrl.run.battery import QUICK

pytestmark = pytest.mark.equation("pomo")
quick = functools.partial(jax.jit, compiler_options=QUICK)
R = np.random.default_rng(0).normal(size=(3, 2, 4))  # B, K, M


def test_the_baseline_is_the_mean_over_an_instances_starts():
    got = family.shared_baseline(jnp.asarray(R))
    for b in range(3):
        for k in range(2):
            want = [R[b, k, m] - sum(R[b, k]) / 4 for m in range(4)]
            np.testing.assert_allclose(got[b, k], want, rtol=1e-5, atol=1e-6)


def test_the_gap_is_the_bests_and_wins_are_shared_among_who_ties():
    R = jnp.array([[[-4.0, -5.0], [-4.4, -9.0]], [[1.0, 2.0], [2.0, 0.0]]])
    np.testing.assert_allclose(family.shortfall(R, jnp.array([-4.0, 2.5])), [0.0, 0.2], rtol=1e-5)
    np.testing.assert_allclose(family.least_wins(R), 0.25)  # the second ties once


WORLD = envs.make("combinatorial/tsp", size=5)
HP = pomo.POMO(num_envs=3, population=2, starts=3, horizon=4.0)


@functools.cache
def steps():
    """Of one state: what an iteration makes of it, with members one and each on its own."""
    out = []
    for paper, share in ((pomo, 1.0), (pomo, 0.0), (poppy, 0.0)):
        algo = paper.make(WORLD, Network(hidden=(8,), activation="relu"))
        hp = (pomo.POMO if paper is pomo else poppy.Poppy)(
            num_envs=3, population=2, starts=3, horizon=4.0, pretrain=share, lr=0.03
        )
        s = algo.init(jax.random.key(0), hp, WORLD)
        out.append((s, *quick(algo.step)(s, jnp.int32(0), hp, WORLD)))
    return out


def members(s):
    return [np.asarray(x) for x in jax.tree.leaves(s.params["decoders"])]


def test_members_are_one_while_they_are_pretrained_and_part_then():
    start, one, _ = steps()[0]
    assert all((x[0] == x[1]).all() for x in members(start) + members(one))
    assert any((x != y).any() for x, y in zip(members(start), members(one)))
    for _, apart, _ in steps()[1:]:
        assert any((x[0] != x[1]).any() for x in members(apart))


def test_solutions_begin_where_they_are_told_and_are_rated_as_the_world_does():
    """The metrics of a step against the environment, played by hand with random members."""
    _, _, metrics = steps()[0]
    assert metrics["episodes"] == 18 and 0 <= metrics["gap"] < 1
    assert metrics["best_return"] >= metrics["episode_return"]
    algo = pomo.make(WORLD, Network(hidden=(8,), activation="relu"))
    s = steps()[0][0]
    env, obs = WORLD.reset(jax.random.key(1), 12)
    memory, tours = algo.memory(12), []
    for _ in range(5):
        assert obs["action_mask"].any(1).all()
        action, memory = algo.act(s, obs, memory, None, HP)
        tours.append(np.asarray(action))
        env, tr = WORLD.step(jax.random.key(2), env, action)
        obs = tr.obs
    assert tr.terminated.all()
    np.testing.assert_array_equal(tours[0], np.arange(12) // 2 % 5)
    assert (np.sort(np.array(tours), 0) == np.arange(5)[:, None]).all()


def test_what_does_not_fit_is_said():
    with pytest.raises(InputError, match="CartPole-v1 shows no items"):
        pomo.make(envs.make("CartPole-v1"), Network(hidden=(8,)))
    with pytest.raises(InputError, match="hidden"):
        pomo.make(WORLD, Network(hidden=(8, 16)))
    assert policy_for(WORLD, Network(hidden=(8,)))  # other families may play it, too
