"""A learned model of the dynamics: an ensemble of small networks, learned from transitions.

A member reads (s, a) and gives a Gaussian over what a step changes, s' - s, and over r, and the
logit of a terminal. Inputs and outputs are normalised by the moments of what it was trained on.
See "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models" by Chua
et al. 2018, arXiv 1805.12114; here deviations are clipped to [e⁻⁵, e] of the data's instead of
softly bounded, and members differ by their start and by weights of rows that are drawn at each fit.

Observations are vectors [M, D]; of members results are [members, M, ...].
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from envs.spaces import Box
from jaxrl import normalise
from jaxrl.critics import ensemble
from jaxrl.errors import InputError
from jaxrl.hyper import arg, hyper
from jaxrl.networks import MLP, dense
from jaxrl.types import Key, Params, Transitions


@hyper
class Model:
    """What every method with a learned model needs, beside what it does with it."""

    members: int = arg(3, "networks of the ensemble", "[1, inf)")
    units: int = arg(32, "units of each of their layers", "[1, inf)")
    layers: int = arg(2, "their layers", "[1, inf)")
    model_lr: float = arg(1e-3, "Adam's step size on the model", "[0, inf)")


class Guess(NamedTuple):
    """What members say of a step, in the data's deviations: of s' - s and, last, of r."""

    mean: jax.Array  # [members, M, D + 1]
    log_std: jax.Array  # [members, M, D + 1]
    over: jax.Array  # [members, M], the logit of a terminal


class Net(nn.Module):
    units: int
    layers: int
    width: int

    @nn.compact
    def __call__(self, x):
        x = dense(2 * self.width + 1, 0.1)(MLP((self.units,) * self.layers, "silu")(x))
        mean, log_std, over = jnp.split(x, [self.width, 2 * self.width], -1)
        return Guess(mean, jnp.clip(log_std, -5.0, 1.0), over[..., 0])


def vector(world: Any) -> int:
    """D of a world's observations. InputError where they are not vectors of floats."""
    space = world.observation_space
    if not (isinstance(space, Box) and len(space.shape) == 1 and space.dtype == "float32"):
        raise InputError(f"env: {world.name} has {space} observations; a model is of float vectors")
    return space.shape[0]


def members(hp: Any, width: int) -> tuple:
    """`init` and `apply` of the ensemble."""
    return ensemble(Net(hp.units, hp.layers, width + 1), hp.members)


def begin(key: Key, obs: jax.Array, action: jax.Array, hp: Any) -> tuple[Params, tuple]:
    """The networks' parameters, and the moments (of inputs, of outputs) of nothing yet."""
    x = jnp.concatenate([obs, action], -1)
    scale = normalise.moments(x[0]), normalise.moments(jnp.zeros(obs.shape[-1] + 1))
    return members(hp, obs.shape[-1])[0](key, x), scale


def outputs(b: Transitions) -> jax.Array:
    """What is predicted, [M, D + 1]: s' - s, and r."""
    return jnp.concatenate([b.next_obs - b.obs, b.reward[..., None]], -1)


def seen(scale: tuple, b: Transitions) -> tuple:
    """The moments with a batch in them."""
    x = jnp.concatenate([b.obs, b.action], -1)
    return tuple(normalise.update(m, y) for m, y in zip(scale, (x, outputs(b))))


def deviation(scale: tuple) -> jax.Array:
    """Of the outputs, [D + 1]."""
    return jnp.sqrt(scale[1].var + normalise.EPS)


def guess(net: Params, scale: tuple, obs: jax.Array, action: jax.Array, hp: Any) -> Guess:
    x = normalise.normalise(scale[0], jnp.concatenate([obs, action], -1))
    return members(hp, obs.shape[-1])[1](net, x)


def read(said: jax.Array, scale: tuple, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(s', r) of outputs [..., M, D + 1] in deviations."""
    change = scale[1].mean + deviation(scale) * said
    return obs + change[..., :-1], change[..., -1]


def errors(g: Guess, scale: tuple, b: Transitions) -> jax.Array:
    """What is wrong with the means, in deviations, [members, M, D + 1]."""
    return g.mean - (outputs(b) - scale[1].mean) / deviation(scale)


def likelihood(g: Guess, error: jax.Array) -> jax.Array:
    """-log N(y; μ, σ²) but for a constant, of each number."""
    return 0.5 * jnp.square(error * jnp.exp(-g.log_std)) + g.log_std


def terminal(g: Guess, b: Transitions) -> jax.Array:
    """The cross-entropy of what is said of terminals, [members, M]."""
    return jax.nn.softplus(jnp.where(b.discount > 0, g.over, -g.over))
