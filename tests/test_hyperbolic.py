"""The hyperboloid: points lie on it, logits are distances, and long vectors need bounding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import hyperbolic
from jaxrl.hyperbolic import Bounded
from jaxrl.run.battery import QUICK

quick = functools.partial(jax.jit, compiler_options=QUICK)
distance, exp_origin = quick(hyperbolic.distance), quick(hyperbolic.exp_origin)
hyperplane_logits, inner = quick(hyperbolic.hyperplane_logits), quick(hyperbolic.inner)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_exponential_lands_on_the_hyperboloid_at_the_vectors_length():
    v = normal(0, 50, 4)
    x = exp_origin(v)
    np.testing.assert_allclose(inner(x, x), -1.0, atol=2e-3 * float(np.square(x).max()) / 100)
    origin = exp_origin(jnp.zeros(4))
    np.testing.assert_allclose(origin, [1, 0, 0, 0, 0], atol=1e-6)
    norm = np.linalg.norm(v, axis=-1)
    np.testing.assert_allclose(distance(x, origin), norm, rtol=1e-4)
    np.testing.assert_allclose(x[:, 1:] / np.sinh(norm)[:, None], v / norm[:, None], rtol=1e-4)
    np.testing.assert_allclose(
        quick(jax.jacobian(hyperbolic.exp_origin))(jnp.zeros(4))[1:], np.eye(4), atol=1e-6
    )


def test_the_distance_is_that_of_the_poincare_ball():
    """arcosh(1 + 2 ‖p - q‖² / ((1 - ‖p‖²)(1 - ‖q‖²))) of the projections x₁.. / (1 + x₀)."""
    x, y = exp_origin(normal(1, 30, 3)), exp_origin(normal(2, 30, 3))
    p, q = (np.asarray(a[:, 1:] / (1 + a[:, :1]), float) for a in (x, y))
    gap = ((p - q) ** 2).sum(-1) / ((1 - (p**2).sum(-1)) * (1 - (q**2).sum(-1)))
    np.testing.assert_allclose(distance(x, y), np.arccosh(1 + 2 * gap), rtol=2e-3)


def test_a_logit_is_the_distance_from_its_hyperplane():
    """The hyperplane through exp_o(r z/‖z‖), along its normal: the nearest of many points."""
    x = np.asarray(exp_origin(normal(3, 5, 2)))
    for r in (0.0, 0.7):
        z = np.array([[0.6], [-0.8]])  # of length 1
        s = np.linspace(-4.0, 4.0, 8001)[:, None]
        foot = np.array([np.cosh(r), 0.6 * np.sinh(r), -0.8 * np.sinh(r)])
        line = np.cosh(s) * foot + np.sinh(s) * np.array([0.0, 0.8, 0.6])  # a geodesic
        want = np.min(distance(x[:, None], line), 1)
        side = np.sign(np.cosh(r) * (x[:, 1:] @ z)[:, 0] - np.sinh(r) * x[:, 0])
        got = hyperplane_logits(x, z, np.array([r]))[:, 0]
        np.testing.assert_allclose(got, side * want, rtol=5e-3, atol=5e-3)
        np.testing.assert_allclose(  # a longer normal is a steeper logit for the same hyperplane
            hyperplane_logits(x, 3 * z, np.array([r]))[:, 0], 3 * got, rtol=1e-4, atol=1e-5
        )


def test_at_the_origin_a_logit_is_linear():
    v, z = 1e-3 * normal(4, 6, 3), normal(5, 3, 2)
    np.testing.assert_allclose(
        hyperplane_logits(exp_origin(v), z, np.zeros(2)), v @ z, rtol=1e-3, atol=1e-6
    )


def test_long_vectors_have_gradients_only_if_bounded():
    x, z, r = normal(6, 1, 32), normal(7, 32, 3), np.full(3, 0.1, np.float32)
    x *= 100 / np.linalg.norm(x)
    bounded = Bounded(1.83)
    params = dict(params=dict(Dense_0=dict(kernel=normal(8, 32, 1), bias=np.ones(1))))

    @quick
    def look(x):
        logits = lambda v: hyperbolic.hyperplane_logits(hyperbolic.exp_origin(v), z, r).sum()
        inside = lambda x: bounded.apply(params, x)
        return jax.grad(logits)(x), jax.grad(lambda x: logits(inside(x)))(x), inside(x)

    long, g, _ = look(x)
    assert not np.isfinite(long).any()
    assert np.isfinite(g).all() and 0 < np.abs(g).max() < 1.0
    for scale in (1e-3, 1.0, 1e3, 1e6):
        assert np.linalg.norm(look(scale * x)[2]) < 1.83


def test_bounded_is_its_formula():
    x, kernel = normal(8, 4, 6), np.ones((6, 1))
    params = dict(params=dict(Dense_0=dict(kernel=kernel, bias=np.ones(1))))
    want = []
    for row in x.astype(float):
        u = np.tanh(row / np.sqrt((row**2).mean() + 1e-6)) / np.sqrt(6)
        want.append(2.0 / (1 + np.exp(-(u.sum() + 1.0))) * u)
    np.testing.assert_allclose(Bounded(2.0).apply(params, x), want, rtol=1e-4)
