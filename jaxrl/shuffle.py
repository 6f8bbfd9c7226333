"""A permutation for minibatches without a sort, which costs more than a large batch's gradients."""

import math

import jax
import jax.numpy as jnp

from jaxrl.types import Key, flat

ROUNDS = 6  # with 4, rows of one column meet in a minibatch measurably more often than by chance
FEW = 256  # so few are sorted sooner, and exactly uniformly


def shuffle(key: Key, n: int) -> jax.Array:
    """A pseudo-random permutation of 0 .. n-1, [n] int32.

    A generalised Feistel network (Black and Rogaway 2002): with n = a b the numbers are a table of
    a rows and b columns. A round moves each column by a random offset of its own, the next each
    row, and is a bijection whatever the offsets. Where n is small or has no two factors of a like
    size it is `jax.random.permutation`.
    """
    a = next(a for a in range(math.isqrt(n), 0, -1) if n % a == 0)
    b = n // a
    if n <= FEW or a < 16:
        return jax.random.permutation(key, n).astype(jnp.int32)
    row, column = jnp.divmod(jnp.arange(n, dtype=jnp.int32), b)
    # drawn at once: each call of the generator is a loop of its own to compile
    bits = flat(jax.random.bits, key, (ROUNDS // 2, a + b))
    for of_column, of_row in zip(bits[:, :b] % a, bits[:, b:] % b, strict=True):
        row = (row + of_column.astype(jnp.int32)[column]) % a
        column = (column + of_row.astype(jnp.int32)[row]) % b
    return row * b + column
