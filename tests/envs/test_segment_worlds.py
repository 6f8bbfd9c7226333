"""Worlds with pairs of segments: they play, their regrets are right, their labels follow them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import registry, segments
from envs.check import check
from jaxrl.errors import InputError

NAMES = [f"segments/{x}" for x in registry.OWN["segments"]]
GAMMA, ALPHA = 0.9, 0.05


@functools.cache
def world(name, **params):
    return envs.make(name, pairs=400, length=6, gamma=GAMMA, alpha=ALPHA, **params)


def arrays(world):
    return [np.asarray(x) for x in jax.tree.leaves(world.pairs)]


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_protocol(name):
    assert check(name, steps=60) == []
    assert envs.kind(name) == "segments" and envs.make(name, pairs=2, max_steps=7).max_steps == 7


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_of_the_worlds_own_steps(name):
    w = world(name)
    obs, action, mask, score, win = arrays(w)
    like = jax.eval_shape(lambda key: w.reset(key, 1)[1], jax.random.key(0))
    assert obs.shape == (400, 2, 6, *w.observation_space.shape) and obs.dtype == like.dtype
    assert mask.shape == action.shape[:3] == (400, 2, 6) and score.shape == win.shape == (400, 2)
    assert w.observation_space.contains(obs) and w.action_space.contains(action)
    np.testing.assert_allclose(win.sum(1), 1, rtol=1e-6)
    assert set(np.unique(win)) == {0.0, 1.0} and 0.1 < win[:, 0].mean() < 0.9


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_says_what_is_sampled(name):
    one, again, other = (envs.make(name, pairs=4, length=3, seed=i) for i in (0, 0, 1))
    assert all((x == y).all() for x, y in zip(arrays(one), arrays(again)))
    assert not np.array_equal(arrays(one)[0], arrays(other)[0])


@functools.cache
def advantages():
    """A* of the maze, by loops over its tables."""
    mdp = world("segments/maze").tables
    P, r, end = (np.asarray(x, float) for x in (mdp.P, mdp.r, mdp.end))
    V = np.zeros(len(r))
    for _ in range(150):
        Q = np.array([[r[s, a] + GAMMA * P[s, a] @ V for a in range(4)] for s in range(len(r))])
        V = np.where(end > 0, 0, ALPHA * np.log(np.exp(Q / ALPHA).sum(1)))
    return Q - V[:, None], end


def test_scores_of_the_maze_are_its_exact_regrets():
    A, end = advantages()
    obs, action, mask, score, _ = arrays(world("segments/maze"))
    cells, short = obs.argmax(-1), 0
    for i in range(400):
        for k in range(2):
            total, over = 0.0, False
            for t in range(6):
                over = over or end[cells[i, k, t]] > 0
                assert mask[i, k, t] == (not over)
                total += 0 if over else GAMMA**t * A[cells[i, k, t], action[i, k, t]] / ALPHA
            short += over
            np.testing.assert_allclose(score[i, k], total, atol=2e-3)
    assert short > 0  # some ended


def test_segments_of_the_pendulum_can_be_played_again():
    w = world("segments/pendulum")
    obs, action, mask, *_ = (x.reshape(800, *x.shape[2:]) for x in arrays(w))
    key, start = jax.random.key(0), w.env.reset(jax.random.key(0))[0]

    @jax.jit
    @jax.vmap
    def play(first, action):
        s = start.replace(theta=jnp.arctan2(first[1], first[0]), theta_dot=first[2])
        step = lambda s, a: (lambda x: (x.state, x.obs))(w.env.step(key, s, a))
        return jax.lax.scan(step, s, action)[1]

    assert mask.min() == 1
    np.testing.assert_allclose(play(obs[:, 0], action)[:, :-1], obs[:, 1:], atol=2e-3)


@functools.cache
def pendulum():
    return segments.pendulum(np.random.default_rng(0), 0.95, 1.0)


def test_advantages_of_the_pendulum_are_those_of_a_density_between_the_grids_points_too():
    """∫ exp(A*(s, a) / α) da = 1 over actions in [-1, 1]."""
    m = pendulum()[1]
    np.testing.assert_allclose(2 / 15 * np.exp(m.A).sum(1), 1, rtol=1e-2)
    s = np.repeat(m.begin(400), 15, 0)
    A = m.step(s, np.tile(np.arange(15), 400))[2].reshape(400, 15)
    off = np.log(2 / 15 * np.exp(A).sum(1))
    assert A.std() > 1.5 and abs(np.median(off)) < 0.1 and np.abs(off).mean() < 0.35


def test_who_regrets_nothing_swings_the_pendulum_up():
    w, m = pendulum()
    rng = np.random.default_rng(0)
    s, paid = rng.uniform([-np.pi, -1], [np.pi, 1], (100, 2)), 0.0
    for _ in range(200):
        paid -= ((s[:, 0] + np.pi) % (2 * np.pi) - np.pi) ** 2 + 0.1 * s[:, 1] ** 2
        s = np.asarray(m.step(s, m.A[m.cell(s)].argmax(1))[0], float)
    assert paid.mean() > -200  # a random policy has -1195


@pytest.mark.parametrize("name", NAMES)
def test_labels_follow_the_regret(name):
    params = dict(pairs=400, length=6)
    score, chance = arrays(envs.make(name, sharp=0.3, asked=0, **params))[3:]
    expected = 1 / (1 + np.exp(-0.3 * (score[:, 0] - score[:, 1]).astype(float)))
    np.testing.assert_allclose(chance[:, 0], expected, atol=1e-5)

    score, win = arrays(envs.make(name, sharp=1e9, **params))[3:]
    apart = np.abs(score[:, 0] - score[:, 1]) > 1e-4
    assert apart.mean() > 0.9 and (win.argmax(1) == score.argmax(1))[apart].all()

    win = arrays(envs.make(name, sharp=0.3, asked=100, **params))[4]
    doubt = (expected > 0.05) & (expected < 0.95)
    p = expected[doubt]
    error = (win[doubt, 0] - p) / np.sqrt(p * (1 - p) / 100)
    assert doubt.sum() > 50 and abs(error.mean()) < 0.5 and 0.7 < error.std() < 1.3


def test_better_behaviour_is_regretted_less():
    """Twice as much of what is best in the worst of habits."""
    mean = lambda q: float(np.mean(arrays(world("segments/maze", quality=q))[3]))
    assert mean(0.0) < mean(1.0) - 0.02 < mean(8.0) - 0.05


@pytest.mark.parametrize(
    ("params", "line"),
    [
        (dict(pairs=1), r"pairs: 1 is outside \[2, 262144\]"),
        (dict(length=0), r"length: 0 is outside \[1, 1000\]"),
        (dict(length=2.5), r"length: 2.5 is outside"),
        (dict(gamma=1.0), r"segments/maze parameter gamma: 1 is outside \[0, 0.99\]"),
        (dict(alpha=0.0), r"segments/maze parameter alpha: 0 is outside \[0.001, 100\]"),
        (dict(quality=-1.0), r"parameter quality: -1 is outside"),
        (dict(asked=-1), r"asked: -1 is outside"),
        (dict(sharp=math.nan), r"sharp: nan is not finite"),
        (dict(alfa=0.1), r"segments/maze parameter: .*did you mean alpha"),
        (dict(max_steps=0), r"max_steps: 0 is outside"),
    ],
)
def test_wrong_parameters_are_said_in_a_line(params, line):
    with pytest.raises(InputError, match=line) as e:
        envs.make("segments/maze", **params)
    assert "\n" not in str(e.value)
