"""The hyperboloid of curvature -1, as points [..., 1 + d], and layers from and to flat features.

H = { x : -x₀² + x₁² + ... + x_d² = -1, x₀ > 0 },   origin o = (1, 0, ..., 0)
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl.networks import dense, seen


def exp_origin(v: jax.Array) -> jax.Array:
    """exp_o(v) = (cosh ‖v‖, sinh ‖v‖ v / ‖v‖) of vectors [..., d]; a float32 holds ‖v‖ < 88."""
    square = jnp.square(v).sum(-1, keepdims=True)
    norm = jnp.sqrt(jnp.maximum(square, 1e-12))  # its gradient is a number at v = 0
    return jnp.concatenate([jnp.cosh(norm), jnp.sinh(norm) / norm * v], -1)


def inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """The Lorentzian product -x₀y₀ + x₁y₁ + ... + x_d y_d."""
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


def distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """The length of the geodesic between two points."""
    return jnp.arccosh(jnp.maximum(-inner(x, y), 1.0))


def hyperplane_logits(x: jax.Array, z: jax.Array, r: jax.Array) -> jax.Array:
    """‖z‖ times the signed distance of points [..., 1 + d] from hyperplanes, [..., k].

      v = ‖z‖ asinh( cosh(r) <x₁.., z>/‖z‖ - sinh(r) x₀ )

    See "Fully Hyperbolic Convolutional Neural Networks for Computer Vision" by Bdeir, Schwethelm
    and Landwehr (arXiv 2303.15919).

    Args:
      z: [d, k], each hyperplane's normal, at the origin.
      r: [k], how far along the normal it stands.
    """
    norm = jnp.sqrt(jnp.maximum(jnp.square(z).sum(0), 1e-12))
    return norm * jnp.arcsinh(jnp.cosh(r) * (x[..., 1:] @ (z / norm)) - jnp.sinh(r) * x[..., :1])


class HyperplaneLogits(nn.Module):
    """Points [..., 1 + d] -> logits [..., size], by a hyperplane for each."""

    size: int

    @nn.compact
    def __call__(self, x):
        d = x.shape[-1] - 1
        z = self.param("z", nn.initializers.normal(d**-0.5), (d, self.size))
        r = self.param("r", nn.initializers.zeros, (self.size,))
        return hyperplane_logits(x, z, r)


class Bounded(nn.Module):
    """Features [..., d] -> tangent vectors shorter than `radius`, however large the features.

    v = radius σ(gate(u)) u,   u = tanh(x / rms(x)) / √d,   ‖u‖ < 1
    """

    radius: float

    @nn.compact
    def __call__(self, x):
        rms = nn.RMSNorm(use_scale=False)
        u = jnp.tanh(rms(x)) / jnp.sqrt(x.shape[-1])
        return self.radius * nn.sigmoid(dense(1, 1.0)(u)) * u


class Hyperbolic(nn.Module):
    """As `networks.ActorCritic`, with a last layer of hyperplanes: (x [M, size], y [M, values]).

    A torso's features come onto the hyperboloid from within `radius`; inf: from anywhere.
    """

    size: int
    values: int
    torso: Callable[..., nn.Module]  # (name=) -> a module
    shared: bool = False
    radius: float = 1.8
    features: int = 32

    @nn.compact
    def __call__(self, obs):
        def embed(x):
            x = dense(self.features)(x)
            return exp_origin(
                nn.relu(x) if self.radius == float("inf") else Bounded(self.radius)(x)
            )

        x = embed(self.torso(name="actor")(seen(obs, critic=False)))
        y = x if self.shared else embed(self.torso(name="critic")(seen(obs, critic=True)))
        return HyperplaneLogits(self.size)(x), HyperplaneLogits(self.values)(y)
