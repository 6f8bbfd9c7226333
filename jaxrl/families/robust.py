"""What learners share in a game against the physics (`envs/robust.py`).

The agent's numbers come first in the one array of actions, the adversary's follow. An algorithm
that is `graded` also measures "worst": the least mean return under physics that stand still.
Robust MDPs that are tables are in `jaxrl/robust.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.robust import changed, grid, inside
from envs.spaces import Box
from jaxrl.core import Algo
from jaxrl.errors import InputError
from jaxrl.families.off_policy import actions
from jaxrl.rollout import evaluate
from jaxrl.types import Key

POINTS, EPISODES, TIMES = 3, 4, 20  # of an axis of the grid; of each of its worlds; in a run


class Seat(NamedTuple):
    """All that a learner asks of a world, for one of the players."""

    name: str
    action_space: Box


def seats(world: Any) -> tuple[Seat, Seat]:
    """The agent's and the adversary's. InputError where no adversary plays."""
    try:
        game: Any = inside(world, "moves")
    except InputError:
        game = None
    if getattr(game, "moves", None) != "adversary":
        raise InputError(f"env: {world.name} has no adversary; robust/pendulum has one")
    both, d = actions(world), game.begin.shape[1]
    seat = lambda n: Seat(world.name, Box(-1.0, 1.0, (n,)))
    return seat(both - d), seat(d)


def worst(act: Any, world: Any, key: Key) -> jax.Array:
    """The least mean return of `act`, as in `evaluate`, over a grid of ψ that stands still."""
    still = grid(changed(world, "moves", lambda env: "still"), POINTS)
    play = lambda w: evaluate(act, (), w, key, EPISODES)["return"].mean()
    return jax.vmap(play)(still).min()


def graded(algo: Algo) -> Algo:
    """It, whose metrics have "worst" so many times in a run (and else a NaN), by its modes."""

    def step(s, t, hp, world):
        s, metrics = algo.step(s, t, hp, world)
        act = lambda obs, memory, key: algo.act(s, obs, memory, None, hp)
        due = (t + 1) % jnp.ceil(hp.horizon / TIMES) == 0
        measure = lambda: worst(act, world, jax.random.fold_in(s.key, TIMES))
        return s, metrics | dict(worst=jax.lax.cond(due, measure, lambda: jnp.nan))

    return algo._replace(step=step)
