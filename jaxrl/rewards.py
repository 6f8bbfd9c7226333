"""Models of rewards, fitted to pairs of which one was preferred (Bradley and Terry 1952).

    L(r) = -E[log σ(r(x, y_w) - r(x, y_l))]

A model is a perceptron over a window's tokens; several are fitted at once, from parameters of their
own and with pairs in an order of their own (Coste et al. 2023, arXiv 2310.02743). What is learned
is fixed up to a constant for each prompt, which no preference tells.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrl.completions import decode, picked, replay, task
from jaxrl.networks import MLP
from jaxrl.rollout import choose, known
from jaxrl.types import Key, Params

LR, STEPS, SOME, BATCH, DECAY = 3e-3, 500, 20, 128, 1e-2  # of a fit


class RewardModel(nn.Module):
    """Tokens [M, W] -> rewards [M]."""

    vocabulary: int
    width: int = 64

    @nn.compact
    def __call__(self, tokens):
        x = jax.nn.one_hot(tokens, self.vocabulary)
        x = MLP((self.width,) * 2, "relu")(x)
        return nn.Dense(1)(x)[..., 0]

    def rewards(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Of windows [..., W]: [...]."""
        out: Any = self.apply(params, tokens.reshape(-1, tokens.shape[-1]))
        return out.reshape(tokens.shape[:-1])


def bradley_terry(better: jax.Array, worse: jax.Array) -> jax.Array:
    """-log σ of the difference."""
    return -jax.nn.log_sigmoid(better - worse)


def fit(net: RewardModel, key: Key, pairs: jax.Array, models: int = 1) -> Params:
    """Parameters [models, ...], from pairs of windows [D, 2, W], the preferred first. A fifth of
    the pairs is held out, and what explains these best on the way is kept: to the end a model
    explains its pairs by heart, and is sure of what nobody told it."""
    adamw = optax.adamw(LR, weight_decay=DECAY)
    held, own = jnp.split(pairs, [max(1, len(pairs) // 5)])

    def loss(params, pair):
        return bradley_terry(*net.rewards(params, pair).T).mean()

    def step(carry, key):
        params, opt = carry
        at = jax.random.randint(key, (min(BATCH, len(own)),), 0, len(own))
        updates, opt = adamw.update(jax.grad(loss)(params, own[at]), opt, params)
        return (optax.apply_updates(params, updates), opt), None

    def some(carry, key):
        """So many steps, and the better of what they led to and the best so far."""
        now, best = carry
        now, _ = jax.lax.scan(step, now, jax.random.split(key, SOME))
        least = loss(now[0], held)
        better = least < best[1]
        return (now, choose(better, (now[0], least), best)), None

    def one(key):
        k_init, k_fit = jax.random.split(key)
        params = net.init(k_init, pairs[0])
        start = (params, adamw.init(params)), (params, loss(params, held))
        return jax.lax.scan(some, start, jax.random.split(k_fit, STEPS // SOME))[0][1][0]

    return jax.vmap(one)(jax.random.split(key, models))


def predicted(net: RewardModel, params: Any, tokens: jax.Array) -> jax.Array:
    """What an ensemble says of windows [..., W]: its mean [...]."""
    return jax.vmap(net.rewards, (0, None))(params, tokens).mean(0)


# ---- where the pairs are from ----------------------------------------------------------------


def states(game: Any, number: jax.Array, tokens: jax.Array) -> Any:
    """The task's states after windows [..., P + L] of prompts [...]."""
    state = replay(game, number.ravel(), tokens.reshape(-1, game.window)[:, game.P :])[0]
    return jax.tree.map(lambda x: x.reshape(*number.shape, *x.shape[1:]), state)


def outcomes(beats: Any, state: Any, key: Key) -> jax.Array:
    """Who wins of all pairs of M [B, M] states [B, M, M]: 1 where the first does, as the oracle has
    it, asked once for each pair."""
    among = lambda s: jax.vmap(lambda a: jax.vmap(lambda b: beats(a, b))(s))(s)
    return drawn(jax.vmap(among)(state), key)


def drawn(chance: jax.Array, key: Key) -> jax.Array:
    """Answers [B, M, M] from how often the first is preferred; each pair's two agree."""
    won = (jax.random.uniform(key, chance.shape) < chance).astype(jnp.float32)
    above = jnp.triu(jnp.ones(chance.shape[1:]), 1)
    return above * won + above.T * (1 - won.swapaxes(1, 2))


def labelled(net: Any, params: Params, world: Any, key: Key, n: int) -> jax.Array:
    """n pairs [n, 2, P + L] of "data", the preferred first: from a task's `cover`, if it has one,
    else written by a model."""
    game = task(world)
    k_number, k_write, k_ask = jax.random.split(key, 3)
    number = jax.random.randint(k_number, (n,), 0, game.count)
    cover = getattr(game, "cover", None)
    if cover is None:
        x = decode(net, params, game, number, k_write, group=2)
        tokens = x.state.tokens.reshape(n, 2, -1)
    else:
        said = jnp.log(cover)[number][:, None].repeat(2, 1)
        tokens, _ = picked(game, number, said, k_write)
    both = jnp.repeat(number[:, None], 2, 1)
    won = outcomes(known(world, "beats"), states(game, both, tokens), k_ask)[:, 0, 1]
    return jnp.where(won[:, None, None] > 0, tokens, tokens[:, ::-1])


def modelled(net: Any, params: Params, world: Any, key: Key, pairs: int, models: int) -> Params:
    """An ensemble fitted to so many pairs of "data"."""
    k_pairs, k_fit = jax.random.split(key)
    rewarder = RewardModel(task(world).vocabulary)
    return fit(rewarder, k_fit, labelled(net, params, world, k_pairs, pairs), models)
