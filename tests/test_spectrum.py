"""The top of a spectrum against dense linear algebra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import spectrum
from jaxrl.run.battery import QUICK

quick = functools.partial(jax.jit, compiler_options=QUICK)
KEY = jax.random.key(0)


def symmetric(values, seed=0):
    """A symmetric matrix with these eigenvalues, and its eigenvectors as rows."""
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return Q @ np.diag(values) @ Q.T, Q.T


def top_of(A, k, steps):
    return spectrum.top_eigenvectors(lambda v: A @ v, len(A), k, steps, KEY)


top = quick(top_of, static_argnums=(1, 2))


# a bulk around 0, some outliers above it, and one below that is the largest in size
VALUES = np.r_[-30.0, np.linspace(-1, 1, 34), 4.0, 5.0, 8.0, 12.0, 20.0]


@pytest.mark.parametrize("seed", [0, 1])
def test_they_are_the_largest_of_the_dense_matrix(seed):
    A, Q = symmetric(VALUES, seed)
    values, V = map(np.asarray, top(jnp.asarray(A, jnp.float32), 5, 25))
    np.testing.assert_allclose(values, VALUES[::-1][:5], rtol=1e-4)
    np.testing.assert_allclose(np.abs(V @ Q[::-1][:5].T), np.eye(5), atol=2e-3)
    np.testing.assert_allclose(V @ V.T, np.eye(5), atol=1e-5)


def test_all_steps_give_all_eigenvalues():
    A, _ = symmetric(VALUES)
    values, V = map(np.asarray, top(jnp.asarray(A, jnp.float32), 40, 99))
    np.testing.assert_allclose(values, VALUES[::-1], atol=1e-3)
    np.testing.assert_allclose(V @ V.T, np.eye(40), atol=1e-4)


def test_few_steps_are_rayleigh_ritz_on_the_krylov_space():
    A, _ = symmetric(VALUES)
    values, V = map(np.asarray, top(jnp.asarray(A, jnp.float32), 3, 6))
    r = A @ np.asarray(jax.random.normal(KEY, (40,)), float)
    K = np.linalg.qr(np.stack([np.linalg.matrix_power(A, i) @ r for i in range(6)], 1))[0]
    want, Y = np.linalg.eigh(K.T @ A @ K)
    np.testing.assert_allclose(values, want[::-1][:3], rtol=1e-3)
    np.testing.assert_allclose(np.abs((V @ K @ Y)[:, ::-1][:, :3]), np.eye(3), atol=1e-2)


def test_where_the_range_is_exhausted_there_are_rows_of_zeros():
    """Rank 4, exactly 0 elsewhere: more steps than there are directions in the range."""
    A = np.zeros((20, 20))
    A[:4, :4] = symmetric([-1.0, 1.0, 2.0, 3.0])[0]
    values, V = map(np.asarray, top(jnp.asarray(A, jnp.float32), 5, 10))
    np.testing.assert_allclose(values, [3, 2, 1, 0, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(V @ V.T, np.diag([1, 1, 1, 0, 0]), atol=1e-5)
    values, V = top(jnp.zeros((5, 5)), 2, 4)
    assert not np.asarray(values).any() and not np.asarray(V).any()


def test_rows_of_a_vmap_are_what_they_are_alone():
    A = jnp.stack([jnp.asarray(symmetric(VALUES, s)[0], jnp.float32) for s in range(3)])
    values, V = quick(jax.vmap(lambda A: top_of(A, 5, 25)))(A)
    for i in range(3):
        np.testing.assert_allclose(values[i], VALUES[::-1][:5], rtol=1e-4)
        np.testing.assert_allclose(spectrum.overlap(V[i], top(A[i], 5, 25)[1]), 1.0, rtol=1e-4)


def test_the_product_is_the_hessians():
    f = lambda x: jnp.sin(x[0] * x[1]) + x[2] ** 3 * x[0]
    x, v = jnp.array([0.3, -1.0, 0.7]), jnp.array([1.0, 2.0, -0.5])
    np.testing.assert_allclose(spectrum.hessian(f, x)(v), jax.hessian(f)(x) @ v, rtol=1e-5)


def test_fraction_and_overlap_of_what_is_known():
    V = jnp.eye(4)[:2]
    np.testing.assert_allclose(spectrum.fraction(V, jnp.array([1.0, 2.0, 3.0, 1.0])), 5 / 15)
    assert spectrum.fraction(V, jnp.zeros(4)) == 0.0
    c, s = np.cos(0.3), np.sin(0.3)
    U = jnp.array([[c, 0, s, 0], [0, 0, 0, 1.0]])  # one axis turned by 0.3, one of its own
    np.testing.assert_allclose(spectrum.overlap(V, V), 1.0)
    np.testing.assert_allclose(spectrum.overlap(V, U), c**2 / 2, rtol=1e-6)
