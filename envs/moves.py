"""Steps on a grid whose cells are (x, y)."""

import jax
import jax.numpy as jnp
import numpy as np

MOVES = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])  # up, right, down, left


def slipped(key_slip, key_move, action, slip, count: int = len(MOVES)) -> jax.Array:
    """The action, or with probability `slip` any of `count`."""
    other = jax.random.randint(key_move, (), 0, count)
    return jnp.where(jax.random.uniform(key_slip) < slip, other, action)
