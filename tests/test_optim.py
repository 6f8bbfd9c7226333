"""The pieces of second-order steps against closed forms and dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.optim import conjugate_gradient, fisher_vector_product, line_search

RNG = np.random.default_rng(0)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_fisher_of_a_gaussian_is_its_closed_form():
    """F = diag(1/σ², 2) in (μ, log σ), whatever the mean."""
    old = dict(mu=jnp.array([0.3, -2.0]), log_std=jnp.array([-0.5, 0.7]))

    def kl(p):
        var, old_var = jnp.exp(2 * p["log_std"]), jnp.exp(2 * old["log_std"])
        gap = jnp.square(p["mu"] - old["mu"])
        return (p["log_std"] - old["log_std"] + (old_var + gap) / (2 * var) - 0.5).sum()

    v = dict(mu=jnp.array([1.0, -3.0]), log_std=jnp.array([0.4, 2.0]))
    got = fisher_vector_product(kl, old)(v)
    np.testing.assert_allclose(got["mu"], v["mu"] * np.exp([1.0, -1.4]), rtol=1e-5)
    np.testing.assert_allclose(got["log_std"], 2 * v["log_std"], rtol=1e-5)


@pytest.fixture(scope="module")
def system():
    """A x = b of 6 unknowns with A's eigenvalues from 0.5 to 20, x and b as pytrees."""
    Q = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    A = Q @ np.diag([0.5, 1.0, 2.0, 5.0, 10.0, 20.0]) @ Q.T
    b = dict(u=jnp.asarray(RNG.normal(size=(2, 2)), jnp.float32), w=jnp.array([1.0, -2.0]))

    def product(x):
        y = jnp.asarray(A, jnp.float32) @ jnp.concatenate([x["u"].ravel(), x["w"]])
        return dict(u=y[:4].reshape(2, 2), w=y[4:])

    return A, product, b


def test_conjugate_gradient_solves_the_system(system):
    A, product, b = system
    want = np.linalg.solve(A, flat(b))
    for iters in 6, 30:  # more steps than it takes do no harm
        got = conjugate_gradient(product, b, iters)
        np.testing.assert_allclose(flat(got), want, rtol=1e-3, atol=1e-4)
        assert got["u"].shape == (2, 2)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_k_steps_give_the_best_x_of_the_krylov_space(system, k):
    """The minimum of ½ xᵀAx - bᵀx over span(b, Ab, ..., Aᵏ⁻¹b)."""
    A, product, b = system
    K = np.stack([np.linalg.matrix_power(A, i) @ flat(b) for i in range(k)], 1)
    want = K @ np.linalg.solve(K.T @ A @ K, K.T @ flat(b))
    np.testing.assert_allclose(flat(conjugate_gradient(product, b, k)), want, rtol=1e-3, atol=1e-4)


def test_conjugate_gradient_vmaps_over_a_traced_damping_and_gives_zero_for_zero(system):
    A, product, b = system

    def solve(damping, scale):
        damped = lambda x: jax.tree.map(lambda y, z: y + damping * z, product(x), x)
        return conjugate_gradient(damped, jax.tree.map(lambda y: scale * y, b), 10)

    damping, scale = np.array([0.1, 1.0, 10.0]), np.array([1.0, 0.0, 1e6])
    got = jax.jit(jax.vmap(solve))(jnp.asarray(damping), jnp.asarray(scale))
    for i in range(3):
        want = np.linalg.solve(A + damping[i] * np.eye(6), scale[i] * flat(b))
        one = np.concatenate([np.ravel(x[i]) for x in jax.tree.leaves(got)])
        np.testing.assert_allclose(one, want, rtol=1e-3, atol=1e-4 * scale[i])


def test_line_search_takes_the_first_length_that_is_accepted():
    """By a loop over lengths, for a step that is too long by every factor up to 40; 8 tries."""
    x, step = dict(a=jnp.array([1.0, 2.0])), dict(a=jnp.array([3.0, -4.0]))  # a step of length 5
    bounds = np.array([5.1, 4.9, 2.6, 2.4, 0.5, 0.2, 0.06, 0.03, 0.0])

    def search(bound):
        return line_search(lambda p: jnp.linalg.norm(p["a"] - x["a"]) <= bound, x, step, 8)

    taken, alpha = jax.jit(jax.vmap(search))(jnp.asarray(bounds, jnp.float32))
    for i, bound in enumerate(bounds):
        want = next((0.5**k for k in range(8) if 5 * 0.5**k <= bound), 0.0)
        assert alpha[i] == want
        np.testing.assert_allclose(taken["a"][i], x["a"] + want * step["a"], rtol=1e-6)
    assert list(alpha[-2:]) == [0.0, 0.0]


def test_line_search_refuses_nan_and_then_leaves_every_bit_alone():
    x = jnp.array([0.1, -0.0, 3e-40])
    for step, accept in [
        (jnp.full(3, jnp.nan), lambda p: p.sum() < 1e9),
        (jnp.ones(3), lambda p: jnp.log(-jnp.abs(p)).sum() < 0.0),
        (jnp.ones(3), lambda p: jnp.bool_(False)),
    ]:
        taken, alpha = jax.jit(lambda x, s=step, f=accept: line_search(f, x, s, 5))(x)
        assert alpha == 0.0
        assert np.asarray(taken).tobytes() == np.asarray(x).tobytes()


def test_line_search_shrinks_by_what_it_is_told():
    for tries, want in (2, 0.0), (3, 0.64):
        _, alpha = line_search(lambda p: p < 0.7, jnp.float32(0.0), jnp.float32(1.0), tries, 0.8)
        np.testing.assert_allclose(alpha, want, rtol=1e-6)
