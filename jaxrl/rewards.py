"""Models of rewards, fitted to pairs of which one was preferred (Bradley and Terry 1952).

    L(r) = -E[log σ(r(x, y_w) - r(x, y_l))]

A model is a perceptron over a window's tokens; several are fitted at once, each to the same pairs
in an order of its own from parameters of its own (`rm_ensembles`: Coste et al. 2023, 2310.02743).
"""

from typing import Any

import flax.linen as nn
import jax
import optax

from jaxrl.networks import MLP
from jaxrl.types import Key, Params

LR, STEPS, BATCH, DECAY = 3e-3, 500, 128, 1e-2  # of a fit


class RewardModel(nn.Module):
    """Tokens [M, W] -> rewards [M]."""

    vocabulary: int
    width: int = 64

    @nn.compact
    def __call__(self, tokens):
        x = jax.nn.one_hot(tokens, self.vocabulary)
        x = MLP((self.width,) * 2, "relu")(x)
        return nn.Dense(1)(x)[..., 0]


def bradley_terry(better: jax.Array, worse: jax.Array) -> jax.Array:
    """-log σ of the difference."""
    return -jax.nn.log_sigmoid(better - worse)


def fit(net: RewardModel, key: Key, pairs: jax.Array, models: int = 1) -> Params:
    """Parameters [models, ...], from pairs of windows [D, 2, W], the preferred first."""
    adamw = optax.adamw(LR, weight_decay=DECAY)

    def loss(params, pair):
        r = predicted(net, jax.tree.map(lambda x: x[None], params), pair)[0]
        return bradley_terry(r[:, 0], r[:, 1]).mean()

    def step(carry, key):
        params, opt = carry
        at = jax.random.randint(key, (min(BATCH, len(pairs)),), 0, len(pairs))
        updates, opt = adamw.update(jax.grad(loss)(params, pairs[at]), opt, params)
        return (optax.apply_updates(params, updates), opt), None

    def one(key):
        k_init, k_fit = jax.random.split(key)
        params = net.init(k_init, pairs[0])
        start = params, adamw.init(params)
        return jax.lax.scan(step, start, jax.random.split(k_fit, STEPS))[0][0]

    return jax.vmap(one)(jax.random.split(key, models))


def predicted(net: RewardModel, params: Any, tokens: jax.Array) -> jax.Array:
    """Rewards [models, ...] of windows [..., W]."""
    rows = tokens.reshape(-1, tokens.shape[-1])
    each = jax.vmap(lambda p: net.apply(p, rows))(params)  # type: ignore
    return each.reshape(-1, *tokens.shape[:-1])
