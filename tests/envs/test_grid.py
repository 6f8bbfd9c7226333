"""Fetch: what is seen is what is there, and it is enough to act on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import grid, registry
from envs.base import AutoReset
from envs.check import check
from jaxrl.errors import InputError

KEY = jax.random.key(0)
UP, RIGHT, DOWN, LEFT = range(4)
SEEN = 1 + 2 * grid.THINGS + 4  # categories that are not distractors


@pytest.mark.parametrize("name", ["grid/fetch", "grid/fetch-onehot"])
def test_fetch_keeps_the_protocol(name):
    assert check(name, steps=120) == []


def test_names_and_parameters():
    assert tuple(grid.TABLE) == registry.OWN["grid"]
    assert {envs.kind(f"grid/{g}") for g in registry.OWN["grid"]} == {"grid"}
    assert envs.make("grid/fetch", max_steps=7).max_steps == 7
    with pytest.raises(InputError, match="did you mean slip"):
        envs.make("grid/fetch", slips=0.1)


def room(agent, key, ball, box, mission):
    return jnp.array(agent), jnp.array([key, ball, box]), jnp.int32(mission)


def fetch(**params):
    return envs.make_env("grid/fetch", **params).env


def test_the_observation_is_what_lies_around():
    """Agent in the middle of the left wall; key above it, ball to its right, box far right below.

    Columns: mission; (left, level, right), (above, level, below) of each; up, right, down, left.
    """
    seen = fetch().observe(KEY, room((0, 2), (0, 1), (1, 2), (4, 4), 2))["categories"]
    np.testing.assert_array_equal(seen[:SEEN], [2, 1, 0, 2, 1, 2, 2, 2, 3, 0, 1])


def test_steps_walls_and_what_is_picked_up():
    env = fetch(reward=2.0, cost=0.25)
    state = room((0, 1), (0, 0), (1, 1), (4, 4), 1)
    step = jax.jit(env.step)
    for action, cell, reward, over in [
        (LEFT, (0, 1), -0.25, False),  # the wall
        (DOWN, (0, 2), -0.25, False),
        (UP, (0, 0), -0.25, True),  # the key, which nobody asked for
        (RIGHT, (1, 1), 1.75, True),
    ]:
        s = step(KEY, state, jnp.int32(action))
        np.testing.assert_array_equal(s.state[0], cell)
        assert (float(s.reward), bool(s.terminated), bool(s.truncated)) == (reward, over, False)
    slippery = fetch(slip=1.0)
    slips = jax.jit(jax.vmap(lambda k: slippery.step(k, state, jnp.int32(DOWN)).state[0]))
    cells = np.asarray(slips(jax.random.split(KEY, 100)))
    assert len(np.unique(cells, axis=0)) == 4  # wherever the action goes


def test_starts_are_distinct_cells_and_every_mission():
    env = fetch()
    agent, things, mission = jax.jit(jax.vmap(lambda k: env.reset(k)[0]))(
        jax.random.split(KEY, 500)
    )
    cells = np.concatenate([agent[:, None], things], 1)
    assert cells.min() == 0 and cells.max() == grid.SIZE - 1
    assert all(len(np.unique(c, axis=0)) == 4 for c in cells)
    np.testing.assert_allclose(np.bincount(mission) / 500, 1 / 3, atol=0.07)


def test_distractors_change_and_tell_nothing():
    env = fetch()
    state, _ = env.reset(KEY)
    obs = jax.jit(jax.vmap(lambda k: env.observe(k, state)))(jax.random.split(KEY, 400))
    seen, clutter = np.split(np.asarray(obs["categories"]), [SEEN], axis=1)
    assert (seen == seen[0]).all()
    rates = np.stack([np.bincount(c, minlength=5) for c in clutter.T]) / 400
    np.testing.assert_allclose(rates, 0.2, atol=0.08)
    np.testing.assert_allclose(np.mean(obs["numbers"], 0), 0.0, atol=0.12)


def test_the_twin_is_the_same_room_written_out():
    ids, ones = (envs.make_env(f"grid/{g}").env for g in registry.OWN["grid"])
    both = jax.jit(lambda k: (ids.reset(k), ones.reset(k)))
    for k in jax.random.split(KEY, 5):
        (s, a), (s1, b) = both(k)
        np.testing.assert_array_equal(jax.tree.leaves(s)[1], jax.tree.leaves(s1)[1])
        want = np.concatenate([np.eye(n)[c] for n, c in zip(grid.KINDS, a["categories"])])
        np.testing.assert_array_equal(b["categories"], want)
        np.testing.assert_array_equal(a["numbers"], b["numbers"])


def rule(c):
    """A table from what is seen to a move: towards the thing named, around the others."""
    c = np.asarray(c)
    mission, lies = c[0], c[1 + 2 * grid.THINGS : SEEN]
    dx, dy = c[1 + 2 * mission] - 1, c[2 + 2 * mission] - 1
    free = [lies[a] in (0, 2 + mission) for a in range(4)]
    towards = [a for a, d in [(UP, -dy), (DOWN, dy), (RIGHT, dx), (LEFT, -dx)] if d > 0]
    across = [a for a in range(4) if a not in towards and a ^ 2 not in towards]
    return next((a for a in [*towards, *across] if free[a]), UP)


def test_a_table_from_the_observation_fetches_nearly_everything():
    world = AutoReset(envs.make_env("grid/fetch"))
    step = jax.jit(world.step)
    state, obs = world.reset(KEY, 32)
    fetched = over = 0
    for t in range(40):
        action = jnp.array([rule(c) for c in obs["categories"]], jnp.int32)
        state, tr = step(jax.random.fold_in(KEY, t), state, action)
        fetched, over = fetched + int((tr.reward > 0).sum()), over + int(tr.terminated.sum())
        obs = tr.obs
    assert over > 200 and fetched > 0.98 * over  # now and then one is walled in by the others
