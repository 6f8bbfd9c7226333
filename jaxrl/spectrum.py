"""The top of a Hessian's spectrum, by Hessian-vector products alone.

On flat vectors [n] (`jax.flatten_util.ravel_pytree`), so that a basis of a subspace is a matrix
[k, n]. Counts are static, nothing branches on a traced value: all of it works under vmap.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

TINY, ROUNDING = 1e-30, 1e-5


def hessian(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> Callable:
    """v -> ∇²f(x) v. The backward pass is linearised once; a product costs about a gradient."""
    return jax.linearize(jax.grad(f), x)[1]


def top_eigenvectors(
    A: Callable[[jax.Array], jax.Array], n: int, k: int, steps: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The k largest eigenvalues (not the largest in size) of a symmetric A, and their vectors.

    Lanczos: the Rayleigh-Ritz pairs of A on the Krylov space of a random vector, whose orthonormal
    basis grows by A v made orthogonal to all of it, twice (Golub and Van Loan, "Matrix
    Computations", section 10.3). It starts in the range of A: what A does not see (the critic's
    parameters, for an actor's loss) stays out of the space.

    Args:
      A: v [n] -> A v [n].
      steps: dimension of the Krylov space, at most n of it; 2 k and more for the vectors to be
        good where the eigenvalues are apart.

    Returns:
      Eigenvalues [k], the largest first, and orthonormal rows [k, n]; 0 and a row of zeros for
      each that the range of A, or the Krylov space, has too few dimensions for.
    """
    steps = min(max(steps, k), n)

    def unit(w):
        return w / jnp.maximum(jnp.linalg.norm(w), TINY)

    def grow(carry, i):
        V, w = carry
        new = unit(w)
        for _ in range(2):
            new = new - (V @ new) @ V
        v = jnp.where(jnp.linalg.norm(new) > ROUNDING, unit(new), 0.0)
        Av = A(v)
        return (V.at[i].set(v), Av), Av

    start = A(jax.random.normal(key, (n,)))
    (V, _), AV = jax.lax.scan(grow, (jnp.zeros((steps, n)), start), jnp.arange(steps))
    T = V @ AV.T
    values, Y = jnp.linalg.eigh((T + T.T) / 2)
    return values[::-1][:k], (Y.T @ V)[::-1][:k]


def fraction(V: jax.Array, g: jax.Array) -> jax.Array:
    """‖V g‖² / ‖g‖²: how much of a vector [n] lies in the span of orthonormal rows [k, n]."""
    return jnp.square(V @ g).sum() / jnp.maximum(jnp.square(g).sum(), TINY)


def overlap(U: jax.Array, V: jax.Array) -> jax.Array:
    """Σᵢ ‖U vᵢ‖² / k of two orthonormal bases [k, n]: 1 for one subspace, 0 for orthogonal ones."""
    return jnp.square(U @ V.T).sum() / len(V)
