"""Loops over steps and over pieces, and what of each they bring back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


class Numbers(struct.PyTreeNode):
    """Numbers by their names, as one array [..., K]: what a loop writes at a step is one thing to
    compile and to run, not K."""

    values: jax.Array
    names: tuple[str, ...] = struct.field(pytree_node=False)


def averaged(step: Callable, carry: Any, xs: Any) -> tuple[Any, dict[str, jax.Array]]:
    """The last carry of step(carry, x) -> (carry, numbers by their names), and each one's mean."""

    def one(carry, x):
        carry, said = step(carry, x)
        return carry, Numbers(jnp.stack(list(said.values())), tuple(said))

    carry, said = jax.lax.scan(one, carry, xs)
    return carry, dict(zip(said.names, said.values.mean(0)))


def summed(f: Callable, pieces: Any) -> tuple[Any, Any]:
    """The sum of x, and every y [n, ...], of f(piece) = (x, y) for pieces [n, ...], one after the
    other: of what f needs on the way to a gradient, memory holds a piece's at a time."""
    shapes = jax.eval_shape(f, jax.tree.map(lambda x: x[0], pieces))[0]
    none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total, piece):
        x, y = f(piece)
        return jax.tree.map(jnp.add, total, x), y

    return jax.lax.scan(add, none, pieces)
