"""What observations and actions look like: shapes and bounds, known before anything is traced."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Discrete(NamedTuple):
    """Integers 0 .. n-1, int32 of shape ()."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def sample(self, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, self.n)

    def contains(self, x) -> bool:
        x = np.asarray(x)
        return np.issubdtype(x.dtype, np.integer) and bool(((x >= 0) & (x < self.n)).all())

    def __str__(self) -> str:
        return f"Discrete({self.n})"


class MultiDiscrete(NamedTuple):
    """Several integers, the i-th in 0 .. n[i]-1: int32 of shape (len(n),)."""

    n: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.n),)

    def sample(self, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (len(self.n),), 0, jnp.array(self.n))

    def contains(self, x) -> bool:
        x = np.asarray(x)
        return np.issubdtype(x.dtype, np.integer) and bool(((x >= 0) & (x < self.n)).all())

    def __str__(self) -> str:
        return f"MultiDiscrete{self.n}"


class Box(NamedTuple):
    """Arrays of one shape between low and high (floats, or nested tuples of that shape)."""

    low: float | tuple
    high: float | tuple
    shape: tuple[int, ...]
    dtype: str = "float32"

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform where both bounds are finite, standard normal elsewhere; bits are fair coins."""
        if self.dtype == "bool":
            return jax.random.bernoulli(key, shape=self.shape)
        low, high = jnp.asarray(self.low, jnp.float32), jnp.asarray(self.high, jnp.float32)
        finite = jnp.isfinite(low) & jnp.isfinite(high)
        u = jax.random.uniform(key, self.shape)
        x = jnp.where(
            finite, low + u * jnp.where(finite, high - low, 1.0), jax.random.normal(key, self.shape)
        )
        return x.astype(self.dtype)

    def contains(self, x) -> bool:
        x, low, high = np.asarray(x), np.asarray(self.low), np.asarray(self.high)
        slack = 1e-5 * np.maximum(1.0, np.where(np.isfinite(high), np.abs(high), 1.0))
        shaped = x.shape[x.ndim - len(self.shape) :] == self.shape
        return shaped and bool(((x >= low - slack) & (x <= high + slack)).all())

    def __str__(self) -> str:
        return f"Box{self.shape}"


Space = Discrete | MultiDiscrete | Box | dict  # a dictionary of spaces: a dictionary of arrays
