"""Coverage: gains are those of a submodular function of the whole path."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import cover, registry
from envs.check import check
from jaxrl.core import Policy
from jaxrl.errors import InputError
from jaxrl.papers.on_policy.ppo import PPO
from jaxrl.rollout import begin, evaluate, rollout

KEY = jax.random.key(0)
UP, RIGHT, DOWN, LEFT, STAY = range(5)


@pytest.mark.parametrize("name", registry.OWN["cover"])
def test_it_keeps_the_protocol(name):
    assert check(f"cover/{name}", steps=120) == []


def test_names_and_parameters():
    assert envs.kind("cover/coverage") == "cover"
    world = envs.make("cover/coverage", size=4, max_steps=7)
    assert world.max_steps == 7 and world.observation_space["cell"].shape == (16,)
    with pytest.raises(InputError, match="did you mean radius"):
        envs.make("cover/coverage", radios=2.0)
    with pytest.raises(InputError, match="size: 1 is outside"):
        envs.make("cover/coverage", size=1)


def play(env, moves):
    """Cells after each move, rewards [T, 2] and the last step."""
    step = jax.jit(env.step)
    state, _ = env.reset(KEY)
    cells, rewards = [], []
    for m in moves:
        s = step(KEY, state, jnp.int32(m))
        state = s.state
        cells.append(tuple(np.asarray(state[0]).tolist()))
        rewards.append(np.asarray(s.reward))
    return cells, np.array(rewards), s


def union(env, cells):
    """The weight of the discs' union, as a share of all, by sets."""
    w, r = np.asarray(env.weight, float), float(env.radius)
    grid = itertools.product(range(env.size), repeat=2)
    near = lambda g: any((g[0] - x) ** 2 + (g[1] - y) ** 2 <= r**2 for x, y in cells)
    return sum(w[g] for g in grid if near(g)) / w.sum()


@pytest.mark.parametrize("name", registry.OWN["cover"])
@pytest.mark.parametrize("radius", [0.0, 1.0, 1.5])
def test_gains_are_differences_of_the_union_and_modular_ones_are_not(name, radius):
    env = envs.make_env(f"cover/{name}", size=5, radius=radius, reward=2.0)
    moves = np.random.default_rng(0).integers(0, 5, 20)
    cells, rewards, _ = play(env, moves)
    path = [(0, 0)]
    for cell, (gain, alone) in zip(cells, rewards):
        before = union(env, path)
        path.append(cell)
        np.testing.assert_allclose(gain, 2 * (union(env, path) - before), atol=1e-6)
        np.testing.assert_allclose(alone, 2 * union(env, [cell]), atol=1e-6)
    assert rewards[:, 0].sum() < 0.7 * rewards[:, 1].sum()


def test_moves_walls_and_ends():
    env = envs.make_env("cover/coverage", size=3, max_steps=6)
    cells, _, s = play(env, [UP, RIGHT, DOWN, LEFT, LEFT, STAY])
    assert cells == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 1), (0, 1)]
    assert s.terminated and not s.truncated
    _, _, s = play(env, [STAY] * 5)
    assert not s.terminated


def test_the_observation_is_cell_and_time_and_tells_nothing_of_the_path():
    env = envs.make_env("cover/coverage", size=3, max_steps=6)
    (a, _, s), (b, _, z) = play(env, [RIGHT, LEFT]), play(env, [DOWN, UP])
    assert a[-1] == b[-1] and a[0] != b[0]
    for k in ("cell", "time"):
        np.testing.assert_array_equal(s.obs[k], z.obs[k])
    np.testing.assert_array_equal(s.obs["cell"], np.eye(9)[0])
    np.testing.assert_array_equal(s.obs["time"], np.eye(6)[2])


def test_returns_go_by_the_objectives_names():
    """A rollout's metrics, and an evaluation, of a world that pays two rewards."""
    world = envs.make("cover/coverage", size=3, max_steps=4)
    still = lambda obs, memory, key: (jnp.full(len(obs["cell"]), STAY), memory)
    got = evaluate(still, (), world, KEY, 3)
    np.testing.assert_array_equal(got["return"], np.zeros(3))  # nothing new is ever covered
    covered = float(world.env.disc(jnp.array([0, 0])).mean())
    np.testing.assert_allclose(got["modular"], np.full(3, 4 * covered), rtol=1e-6)
    act = lambda params, obs, start, memory, key: (still(obs, (), key)[0], (), 0.0 * start, ())
    policy, hp = Policy(lambda *_: (), lambda n: (), act, lambda *_: None), PPO(num_envs=3)
    _, b, metrics = rollout(policy, (), begin(policy, KEY, hp, world), KEY, hp, world, 4)
    assert b.reward.shape == (4, 3, 2)
    assert metrics["episode_return"] == 0 and metrics["episodes"] == 3
    np.testing.assert_allclose(metrics["episode_modular"], 4 * covered, rtol=1e-6)


def test_slips_go_anywhere():
    env = envs.make_env("cover/coverage", size=3, slip=1.0)
    state = (jnp.array([1, 1]), jnp.zeros((3, 3), bool), jnp.int32(0))
    to = jax.jit(jax.vmap(lambda k: env.step(k, state, jnp.int32(UP)).state[0]))
    assert len(np.unique(np.asarray(to(jax.random.split(KEY, 100))), axis=0)) == 5


def test_hills_are_hills():
    w = cover.weights("cover/biodiversity", 20)
    x, y = np.unravel_index(w.argmax(), w.shape)
    assert abs(x / 20 - 0.25) < 0.06 and abs(y / 20 - 0.75) < 0.06
    assert w.min() > 0 and w.max() / np.median(w) > 5
    assert (cover.weights("cover/coverage", 4) == 1).all()
