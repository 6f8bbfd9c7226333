"""The multi-objective family against loops, and one small training whose front is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import hyper
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.families import multi_objective as family
from jaxrl.families.multi_objective import Archive, Discounted, MultiObjective
from jaxrl.hyper import cast, check
from jaxrl.papers.multi_objective import mo_ppo
from jaxrl.papers.multi_objective.mo_ppo import MOPPO
from jaxrl.policies import Network
from jaxrl.rollout import evaluate
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

KEY = jax.random.key(0)
SEA = envs.make("multi/deep-sea-treasure", max_steps=30)
HP = MOPPO(population=3, archive=8, num_envs=8, num_steps=32, lr=5e-3, gamma=0.98, ent_coef=0.05)


def test_advantages_are_weighed_and_then_standardised():
    T, N, K, gamma, lam = 5, 3, 2, 0.9, 0.8
    rng = np.random.default_rng(0)
    r, V, W = rng.normal(size=(3, T, N, K))
    end = rng.random((T, N)) < 0.2
    w = np.array([0.3, 2.0])
    A = np.zeros((T, N, K))
    for n in range(N):
        later = np.zeros(K)
        for t in reversed(range(T)):
            alive = 0.0 if end[t, n] else 1.0
            later = r[t, n] + gamma * alive * W[t, n] - V[t, n] + gamma * lam * alive * later
            A[t, n] = later
    total = (A * w).sum(-1)
    b = Batch(0, 0, 0, jnp.zeros((T, N), bool), V, W, r, jnp.asarray(end), jnp.asarray(end))
    for normalise, want in ((False, total), (True, (total - total.mean()) / total.std())):
        hp = MultiObjective(gamma=gamma, lam=lam, normalise_advantage=normalise)
        got = family.weighted(None, b.replace(dual=jnp.asarray(w)), jnp.int32(0), hp, None)
        np.testing.assert_allclose(got.advantage, want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.target, A + V, rtol=1e-4, atol=1e-5)


def archive_of(points, episodes):
    points = jnp.asarray(points, jnp.float32)
    n = len(points)
    return Archive(jnp.arange(n), points, jnp.asarray(episodes, jnp.float32), jnp.zeros(n, bool))


def test_the_archive_keeps_what_the_fewest_dominate_and_of_a_front_the_sparsest():
    old = archive_of([[1, 5], [2, 4], [3, 3], [0, 0], [9, 9]], [4, 4, 4, 4, 0])  # the last is empty
    new = [[4.0, 2.5], [2.0, 3.0], [jnp.nan, 9.0], [3.0, 3.0]]
    got = family.admit(old, 10 + jnp.arange(4), jnp.array(new), 2)
    # the front is (1, 5), (2, 4), (3, 3), (4, 2.5); its ends are the sparsest, then (2, 4) with
    # 2/3 + 2/2.5 against 2/3 + 1.5/2.5; then (2, 3), dominated by two, and the second (3, 3) by one
    assert got.players.tolist() == [0, 10, 1, 2, 13]
    assert got.episodes.tolist() == [4, 2, 4, 4, 2]
    assert family.front(got).tolist() == [True] * 4 + [False]
    few = family.admit(archive_of([[1, 1], [2, 2]], [0, 0]), jnp.array([10]), jnp.ones((1, 2)), 1)
    assert few.episodes.tolist() == [1, 0]  # what is empty stays empty, whatever stands there
    assert few.players[0] == 10 and family.front(few).tolist() == [True, False]


def test_a_point_is_the_mean_of_all_that_was_ever_seen():
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(6, 2))  # of policy 1
    archive = archive_of(np.stack([np.zeros(2), seen[0], np.ones(2)]), [0, 3, 30])
    for x in seen[1:]:
        i = family.seen_least(archive, 2)
        assert i[0] == 1  # 2 has been seen more, 0 is empty
        points = jnp.stack([jnp.asarray(x), jnp.ones(2)])
        archive = family.seen_again(archive, i, points, 3)
    np.testing.assert_allclose(archive.points[1], seen.mean(0), rtol=1e-5)
    assert archive.episodes.tolist() == [0, 18, 45]
    assert archive.points[2].tolist() == [1.0, 1.0]
    empty = family.seen_again(archive, jnp.array([0]), jnp.ones((1, 2)), 3)
    assert empty.episodes[0] == 0


def test_discounting_is_from_the_reset_on():
    world, gamma, left = Discounted(SEA, jnp.float32(0.9)), 0.9, 3
    act = lambda obs, memory, key: (jnp.full(len(obs), left), memory)
    got = evaluate(act, (), world, KEY, 2)  # against the rim, until the time is over
    np.testing.assert_allclose(got["time"], -(1 - gamma**30) / (1 - gamma), rtol=1e-5)
    assert (got["return"] == 0).all() and (got["length"] == 30).all()


@functools.cache
def trained():
    algo = mo_ppo.make(SEA, Network(hidden=(16,)))
    run = jax.jit(lambda k: train(algo, k, cast(HP), SEA, 40), compiler_options=QUICK)
    return algo, *run(KEY)


def test_policies_learn_what_their_weights_say():
    _, s, m = trained()
    assert s.points[0].tolist() == [np.float32(0.7), -1.0]  # w = (0, 1): the nearest
    front = np.asarray(family.known(SEA, "front")(HP.gamma))
    for i, w in enumerate(([0.5, 0.5], [1.0, 0.0]), 1):
        assert np.asarray(s.points[i]) @ w > 0.8 * (front @ w).max()
    for k in ("episode_return", "episode_time", "entropy", "value_loss"):
        assert np.isfinite(m[k]).all()


def test_metrics_are_those_of_the_archives_front():
    _, s, m = trained()
    points = np.asarray(s.archive.points)[np.asarray(family.front(s.archive))]
    points = points[np.argsort(points[:, 0])]
    assert len(points) == m["front_size"][-1] and len(points) > 3
    assert (np.diff(points[:, 0]) > 0).all() and (np.diff(points[:, 1]) < 0).all()
    steps = np.diff(np.append(0.0, points[:, 0]))  # 0 and -25 are the sea's reference
    hypervolume = (steps * np.maximum(points[:, 1] + 25, 0)).sum()
    assert m["hypervolume"][-1] == pytest.approx(hypervolume, rel=1e-5)
    w = np.linspace(0, 1, 101)
    utility = (np.outer(w, points[:, 0]) + np.outer(1 - w, points[:, 1])).max(1).mean()
    assert m["expected_utility"][-1] == pytest.approx(utility, rel=1e-5)
    sparsity = (np.diff(points, axis=0) ** 2).sum() / (len(points) - 1)
    assert m["sparsity"][-1] == pytest.approx(sparsity, rel=1e-5)
    true = np.asarray(family.known(SEA, "front")(HP.gamma))
    whole = (np.diff(np.append(0.0, true[:, 0])) * (true[:, 1] + 25)).sum()
    assert m["front_share"][-1] == pytest.approx(hypervolume / whole, rel=1e-5)
    assert (np.diff(m["hypervolume"]) >= 0).all()  # nothing is lost where chance has no part


def test_an_episode_is_played_by_the_best_for_its_preference():
    algo, s, _ = trained()
    memory = algo.memory(5)
    np.testing.assert_allclose(memory[0][:, 0], np.linspace(0, 1, 5))
    act = lambda obs, memory, key: algo.act(s, obs, memory, None, HP)
    world = Discounted(SEA, jnp.float32(HP.gamma))
    got = jax.jit(lambda: evaluate(act, memory, world, KEY, 5), compiler_options=QUICK)()
    w, points = np.asarray(memory[0]), np.asarray(s.archive.points)
    points = points[np.asarray(s.archive.episodes) > 0]
    gained = w[:, 0] * got["return"] + w[:, 1] * got["time"]
    np.testing.assert_allclose(gained, (w @ points.T).max(1), rtol=1e-5)
    assert len(np.unique(got["time"])) >= 3
    start = (jnp.zeros((5, 22)).at[:, jnp.array([0, 11])].set(1.0), memory)
    actions = [int(algo.act(s, *start, k, HP)[0][-1]) for k in jax.random.split(KEY, 20)]
    assert len(set(actions)) > 1  # with a key it explores


@pytest.mark.parametrize("memory", [0, 4])
def test_it_takes_memory_moments_and_worlds_that_know_no_front(memory):
    world = envs.make("cover/coverage", size=3, max_steps=4)
    algo = mo_ppo.make(world, Network(hidden=(4,), memory=memory))
    hp = hyper.replace(HP, normalise_obs=True, num_envs=4, minibatches=4)
    s = jax.eval_shape(algo.init, KEY, hp, world)
    after, metrics = jax.eval_shape(algo.step, s, 0, hp, world)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, s)
    assert "hypervolume" in metrics and "front_share" not in metrics
    assert {v.shape for v in metrics.values()} == {()}
    obs = world.reset(KEY, 7)[1]
    action, _ = jax.eval_shape(lambda *a: algo.act(*a, None, hp), s, obs, algo.memory(7))
    assert action.shape == (7,)


def test_what_does_not_fit_is_said():
    with pytest.raises(InputError, match="CartPole-v1 has one reward; this method needs several"):
        mo_ppo.make(envs.make("CartPole-v1"))
    with pytest.raises(InputError, match="normalise_reward: True"):
        check(MOPPO(normalise_reward=True))
    with pytest.raises(InputError, match="archive: 4 is less than population = 6"):
        check(MOPPO(archive=4))
    assert HP.steps_per_iteration == 3 * 8 * 32
