"""Running moments of observations and of returns, kept as state.

An observation may be a pytree. Leaves that are not floating point, and the entry "action_mask" of a
dictionary, have no moments and pass through. All else comes out as float32. One observation has no
batch axes, so a `Moments` never has an axis of environments; seeds are a vmap.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

EPS = 1e-8  # under the root, so that a constant is divided by 1e-4 and not by 0


class Moments(struct.PyTreeNode):
    """Mean and variance of everything seen; 0 and 1 while that is nothing."""

    mean: Any  # shaped as one observation; () for a leaf that passes through
    var: Any  # likewise; divided by count, not count - 1
    count: jax.Array  # samples seen, float32


def moments(example: Any) -> Moments:
    """Moments of nothing yet, for observations shaped as `example`, which has no batch axes."""

    def fill(value):
        def leaf(path, x):
            reserved = bool(path) and getattr(path[-1], "key", None) == "action_mask"
            if reserved or not jnp.issubdtype(jnp.result_type(x), jnp.floating):
                return ()
            return jnp.full(jnp.shape(x), value, jnp.float32)

        return jax.tree_util.tree_map_with_path(leaf, example)

    return Moments(fill(0.0), fill(1.0), jnp.zeros((), jnp.float32))


def update(m: Moments, batch: Any, axes: int = 1) -> Moments:
    """The moments of what `m` has seen and of `batch` together, w = n / (count + n) of it new.

      μ ← μ + w (μ' - μ),    σ² ← (1 - w) σ² + w σ'² + w (1 - w) (μ' - μ)²

    See "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" by Chan, Golub
    and LeVeque (1979), eq. 2.1, here with variances for sums of squares.

    Args:
      m: the moments so far.
      batch: observations with `axes` leading batch axes.
      axes: 2 for a rollout [T, N, ...].

    Raises:
      ValueError: what is left of a leaf's shape without the batch axes is not that of its moments.
    """
    n = math.prod(jax.tree.leaves(batch)[0].shape[:axes])
    w = n / (m.count + n)

    def merge(x, mean, var):
        if isinstance(mean, tuple):
            return (), ()
        if x.shape[axes:] != mean.shape:
            raise ValueError(f"batch: {x.shape} is not {axes} batch axes and then {mean.shape}")
        new_mean, new_var = two_pass(x.astype(jnp.float32), tuple(range(axes)))
        gap = new_mean - mean
        return mean + w * gap, (1 - w) * var + w * new_var + w * (1 - w) * gap**2

    def part(i):
        return jax.tree.map(lambda *leaf: merge(*leaf)[i], batch, m.mean, m.var)

    return Moments(part(0), part(1), m.count + n)


def two_pass(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and variance over `axes`, the rounding of a first mean corrected by a second pass."""
    rough = x.mean(axes)
    rest = x - rough
    shift = rest.mean(axes)
    return rough + shift, jnp.square(rest - shift).mean(axes)


def normalise(m: Moments, x: Any, clip: float = 10.0) -> Any:
    """(x - μ) / σ, clipped to ±clip (inf: off), with any batch axes. Before data, x clipped."""

    def leaf(x, mean, var):
        if isinstance(mean, tuple):
            return x
        return jnp.clip((x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + EPS), -clip, clip)

    return jax.tree.map(leaf, x, m.mean, m.var)


def scale(m: Moments, x: Any, clip: float = 10.0) -> Any:
    """x / σ, clipped likewise: for rewards, whose sign and zero must stay where they are."""
    return normalise(m.replace(mean=jax.tree.map(jnp.zeros_like, m.mean)), x, clip)


def discounted(
    reward: jax.Array, done: jax.Array, carry: jax.Array, gamma: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """The running discounted return, whose deviation is the scale of rewards.

      Rₜ = rₜ + γ (1 - doneₜ₋₁) Rₜ₋₁

    A done step's own return still counts; what follows it starts from nothing. See "Implementation
    Matters in Deep Policy Gradients" by Engstrom et al. (https://arxiv.org/abs/2005.12729).

    Args:
      reward: [T, N] or [T, N, K].
      done: [T, N], terminated | truncated.
      carry: (1 - done) R of the step before the first, [N] or [N, K]; zeros at the beginning.
      gamma: discount γ.

    Returns:
      The carry for the next rollout, and R, shaped as `reward`.
    """

    def step(before, now):
        r, end = now
        total = r + gamma * before
        return jnp.where(end, 0.0, total), total

    done = done.reshape(done.shape + (1,) * (reward.ndim - done.ndim))
    return jax.lax.scan(step, carry, (reward, done))
