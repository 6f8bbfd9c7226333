"""Programs that differ and are to give the same bits, always compiled as a person's are."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxrl.run.run import advance, build, compiled, over_rows, set_up, traced
from tests.run.test_run import digest, resolve

pytestmark = pytest.mark.usefixtures("wholly")


def after(s, program, go, ends):
    """The state when each of these iterations was the last of a call."""
    state, done = program.init(s.keys, s.hp, s.world), 0
    for end in ends:
        state, _ = go(state, jnp.int32(done), jnp.int32(end - done), s.hp, s.world)
        done = end
    return state


def test_twenty_iterations_are_ten_and_ten_and_twenty_times_one():
    s = set_up(resolve())
    program, i = build(s), jnp.int32(0)
    state = jax.eval_shape(over_rows(s.algo.init, s), s.keys, s.hp, s.world)
    step = over_rows(partial(advance, s.algo, 20), s)
    whole = compiled(traced(step, state, i, i, s.hp, s.world))
    assert program.chunk == 1
    ways = (whole, [20]), (whole, [10, 20]), (program.advance, range(1, 21))
    assert len({digest(after(s, program, *way)) for way in ways}) == 1


@pytest.mark.slow
def test_mapped_seeds_are_bitwise_their_single_runs():
    def final(**run):
        s = set_up(resolve(run=run | dict(seed_mode="map")))
        program = build(s)
        return after(s, program, program.advance, range(1, 21))

    together = final(seeds=2, seed=5)
    alone = final(seeds=1, seed=6)
    second = jax.tree.map(lambda x: x[1:], together)
    assert digest(second) == digest(alone)
