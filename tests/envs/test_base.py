"""The wrappers, on a walk that can be told in advance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from tiny import Walk, play, walk

from envs.base import AutoReset, Randomise, RescaleAction, TimeLimit
from envs.spaces import Box

KEY = jax.random.key(0)


def test_termination_gives_the_last_observation_and_begins_again():
    """brax#641, playground#305, #350, #351, jumanji#223: the last observation was lost; brax#167,
    #275, playground#179: a copy began every episode in one state."""
    _, tr = play(AutoReset(walk()), KEY, 5, 12)
    done = np.asarray(tr.terminated)
    assert done.any() and not tr.truncated.any()
    assert (np.asarray(tr.final_obs)[done] > 3.0).all()
    assert (np.asarray(tr.obs)[done] < 1.0).all()
    np.testing.assert_array_equal(np.asarray(tr.obs)[~done], np.asarray(tr.final_obs)[~done])
    assert len(np.unique(np.asarray(tr.obs)[done])) == done.sum()  # a fresh start each


def test_time_limit_truncates_and_does_not_terminate():
    """gymnax#108, Stoix#147, jaxnasium#6: one flag for both."""
    world = AutoReset(TimeLimit(walk(0.0), 4))
    assert world.max_steps == 4
    _, tr = play(world, KEY, 2, 12)
    assert not tr.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(tr.truncated[:, 0]), [3, 7, 11])


def test_terminated_wins_where_the_limit_falls_on_the_end():
    start, tr = play(AutoReset(TimeLimit(walk(5.0), 1)), KEY, 3, 3)
    assert tr.terminated.all() and not tr.truncated.any()


def test_time_limit_keeps_a_shorter_limit_inside():
    assert TimeLimit(TimeLimit(walk(), 3), 10).max_steps == 3


def test_few_resets_are_shared_out_in_turn():
    """Copies cut at once take distinct starts while there are enough, and share them beyond."""
    every = play(AutoReset(TimeLimit(walk(0.0), 1), resets=4), KEY, 4, 3)[1].obs
    assert all(len(np.unique(x)) == 4 for x in every)
    shared = play(AutoReset(TimeLimit(walk(0.0), 1), resets=2), KEY, 4, 3)[1].obs
    assert all(len(np.unique(x)) == 2 for x in shared)


def test_few_resets_are_enough_for_the_few_that_are_cut():
    """2 of 8 are cut (they alone move), 2 starts are drawn: both are used."""
    world = AutoReset(TimeLimit(walk(1.0), 100), resets=2)

    def one(key):
        state, _ = world.reset(key, 8)
        inner, count = state
        inner = jnp.zeros((8, 1)).at[jnp.array([1, 6])].set(2.5)
        return world.step(key, (inner, count), jnp.zeros(8, jnp.int32))[1]

    tr = jax.jit(one)(KEY)
    np.testing.assert_array_equal(np.flatnonzero(tr.terminated), [1, 6])
    assert tr.obs[1] != tr.obs[6]
    np.testing.assert_array_equal(tr.obs[jnp.array([0, 2])], [[1.0], [1.0]])


@pytest.mark.parametrize("block, n", [(2, 8), (8, 8), (3, 8)])
def test_copies_step_alike_in_blocks(block, n):
    """Blocks that do not divide the copies are not made."""
    whole, parts = (play(AutoReset(walk(), block=b), KEY, n, 12)[1] for b in (0, block))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    f = jax.make_jaxpr(lambda w, x: w.each(lambda y: y + 1, x))
    turns = "scan" in str(f(AutoReset(walk(), block=block), jnp.zeros(n)))
    assert turns == (block == 2)


@struct.dataclass
class Throw(Walk):
    """The reward is the action, which lies in [1, 5]."""

    @property
    def action_space(self):
        return Box(1.0, 5.0, (1,))

    def step(self, key, state, action):
        return super().step(key, state, action)._replace(reward=action[0])


def test_rescaled_actions():
    env = RescaleAction(Throw(jnp.float32(0.0)))
    assert env.action_space == Box(-1.0, 1.0, (1,))
    state, _ = env.reset(KEY)
    for action, native in [(-1.0, 1.0), (0.0, 3.0), (1.0, 5.0), (7.0, 5.0), (-9.0, 1.0)]:
        assert env.step(KEY, state, jnp.array([action])).reward == native


def draw(key, env):
    return env.replace(stride=jax.random.uniform(key, minval=0.1, maxval=2.0))


def test_randomise_draws_once_an_episode():
    first, tr = play(AutoReset(TimeLimit(Randomise(walk(), draw), 3)), KEY, 2, 6)
    at = np.concatenate([first[None], tr.final_obs])[..., 0]
    stride = np.diff(at[:3], axis=0)
    np.testing.assert_allclose(stride[0], stride[1], rtol=1e-5)  # one physics within an episode
    assert abs(stride[0, 0] - stride[0, 1]) > 1e-3  # another in the next copy
    later = tr.final_obs[4, :, 0] - tr.final_obs[3, :, 0]
    assert (np.abs(later - stride[0]) > 1e-3).all()  # and in the next episode


def test_a_stack_of_physics_is_one_program():
    worlds = jax.tree.map(lambda *x: jnp.stack(x), AutoReset(walk(0.5)), AutoReset(walk(1.0)))
    state, obs = jax.vmap(lambda w: w.reset(KEY, 3))(worlds)
    _, tr = jax.vmap(lambda w, s: w.step(KEY, s, jnp.zeros(3, jnp.int32)))(worlds, state)
    np.testing.assert_allclose(
        tr.final_obs - obs, np.array([0.5, 1.0])[:, None, None] * np.ones((2, 3, 1))
    )


def test_bits_are_drawn_as_fair_coins():
    x = Box(0.0, 1.0, (1000,), "bool").sample(KEY)
    assert x.dtype == bool and 400 < x.sum() < 600
