"""The combinatorial family: policies that build a solution item by item, several on each instance.

    algo = combinatorial(world, network, weigh)

A world of this family (`envs/combinatorial.py`) shows the items of an instance, marks of what
became of them, what is left, and which may be chosen. One encoder reads the items once; each of K
members has a decoder, which attends to them at each step. An iteration: all members build solutions
of the same B instances from the same M first items, one from each, and

    ∇ = 1/BM Σ_bkm w_bkm ∇ log p_k(τ_bkm),    w = weigh(R),    R [B, K, M] the returns

in one step of Adam. The first item is given, not learned. For the first `pretrain` of a run members
are one: their weights are POMO's, R less its mean over the first items, and they share the mean of
their gradients. Then they go on from there, each on its own.

Acting, a row has one member and one first item to begin with, spread evenly over the rows: what an
evaluation reports is one attempt, by the mode. What the population is worth is a metric of
training, of the best of its K x M sampled solutions: `best_return`, and where the world knows the
optimum `gap`, what that lacks of it as a share. `episode_return` is the mean over all of
them; `least_wins` the smallest share of instances that a member is the best on (ties are shared:
1/K at most).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxrl.core import Algo
from jaxrl.errors import InputError
from jaxrl.heads import MASKED
from jaxrl.hyper import Linear, arg, check, hyper
from jaxrl.networks import ACTIVATIONS, dense
from jaxrl.optim import adam, norm
from jaxrl.policies import Network
from jaxrl.rollout import choose, draw, known
from jaxrl.types import Key, Params, flat

CLIP = 10.0  # of logits, as Bello et al. 2016 and all after them
HEADS = 4  # of attention, or as many as divide its width


@hyper
class Combinatorial:
    """What every method of the family needs. An iteration is num_envs x population x starts
    solutions."""

    lr: float | Linear = arg(1e-3, "Adam's step size; a:b goes linearly from a to b", "[0, inf)")
    max_grad_norm: float = arg(1.0, "clip the gradient's global norm; inf: off", "(0, inf]")
    pretrain: float = arg(1.0, "the share of a run in which members are one", "[0, 1]")
    num_envs: int = arg(32, "B, instances an iteration", "[1, inf)")
    population: int = arg(4, "K, members", "[1, inf)")
    starts: int = arg(8, "M, first items of each instance, drawn without repetition", "[1, inf)")
    horizon: float = arg(1.0, "iterations of the whole run: set by it, for schedules", "[1, inf)")

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments: the same for all."""
        return cls()

    @staticmethod
    def network_for(kind: str) -> Network:
        """`hidden`: the encoder's layers, all of one width."""
        return Network(hidden=(32,), activation="relu")

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        return dict(
            run=dict(env="combinatorial/tsp"),
            env_params=dict(size=5),
            network=dict(hidden=(8,)),
            hyper=dict(num_envs=4, population=2, starts=3, lr=0.03),
        )

    @property
    def steps_per_iteration(self) -> int:
        """Solutions that one iteration builds: what `--steps` counts here."""
        return self.num_envs * self.population * self.starts


# ---- the network -----------------------------------------------------------------------------


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: Any = True) -> jax.Array:
    """Queries [..., Q, D] to keys and values [..., n, D]; mask [..., Q, n] of what is seen."""
    heads = math.gcd(q.shape[-1], HEADS)
    q, k, v = (x.reshape(*x.shape[:-1], heads, -1) for x in (q, k, v))
    scores = jnp.einsum("...qhd,...nhd->...hqn", q, k) / math.sqrt(q.shape[-1])
    seen = jnp.expand_dims(mask, -3) if jnp.ndim(mask) else mask
    out = jnp.einsum("...hqn,...nhd->...qhd", nn.softmax(jnp.where(seen, scores, MASKED)), v)
    return out.reshape(*out.shape[:-2], -1)


class Encoder(nn.Module):
    """Items [B, n, F] -> [B, n, D], by layers of self-attention and a perceptron, one a width."""

    hidden: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, items):
        D = self.hidden[0]
        x = dense(D)(items)
        for _ in self.hidden:
            q, k, v = jnp.split(dense(3 * D, 1.0)(x), 3, -1)
            x = nn.LayerNorm()(x + dense(D, 1.0)(attend(q, k, v)))
            y = ACTIVATIONS[self.activation](dense(2 * D)(x))
            x = nn.LayerNorm()(x + dense(D, 1.0)(y))
        return x


class Decoder(nn.Module):
    """What is seen of solutions, [B, M, ...] each, and encoded items [B, n, D] -> logits [B, M, n].

    The query is made of the mean of all items, of the mean of those under each mark, and of what is
    left; it looks at what may be chosen, and then points to it.
    """

    @nn.compact
    def __call__(self, h, marks, left, mask):
        D = h.shape[-1]
        share = marks / jnp.maximum(marks.sum(-2, keepdims=True), 1.0)
        marked = jnp.einsum("bmnk,bnd->bmkd", share, h)
        mean = jnp.broadcast_to(h.mean(1)[:, None], (*left.shape[:2], D))
        context = jnp.concatenate([mean, marked.reshape(*left.shape[:2], -1), left], -1)
        k, v, point = jnp.split(dense(3 * D, 1.0)(h), 3, -1)
        glimpse = dense(D, 1.0)(attend(dense(D, 1.0)(context), k, v, mask))
        scores = jnp.einsum("bmd,bnd->bmn", glimpse, point) / math.sqrt(D)
        return jnp.where(mask, CLIP * nn.tanh(scores), MASKED)


def modules(world: Any, network: Network) -> tuple[Encoder, Decoder]:
    """The networks for a world. InputError where it has no items, or they cannot be so."""
    check(network)
    if not {"items", "marks", "left", "action_mask"} <= set(
        getattr(world, "observation_space", ())
    ):
        raise InputError(f"env: {world.name} shows no items; this method needs combinatorial/...")
    if len(set(network.hidden)) != 1:
        raise InputError(f"hidden: {network.hidden} are not one width or more, all the same")
    if network.torso != "mlp" or network.memory:
        raise InputError("torso, memory: this method has an encoder of its own, without memory")
    return Encoder(network.hidden, network.activation), Decoder()


# ---- the builder -----------------------------------------------------------------------------


class State(struct.PyTreeNode):
    params: Params  # of the encoder, and of K decoders [K, ...]
    opt: Any
    key: Key


class Solutions(struct.PyTreeNode):
    """What a population built: obs and action are [T, B, K, M, ...]."""

    items: jax.Array  # [B, n, F]
    obs: dict  # marks, left and action_mask
    action: jax.Array
    own: jax.Array  # bool: a choice of the member's, in its first episode
    R: jax.Array  # [B, K, M]


def shared_baseline(R: jax.Array, hp: Any = None) -> jax.Array:
    """R less the mean over an instance's first items: POMO's weights. (arXiv 2010.16011, eq. 3.)"""
    return R - R.mean(-1, keepdims=True)


def shortfall(R: jax.Array, best: jax.Array) -> jax.Array:
    """What the best of the returns [B, K, M] lacks of the optimum [B], as a share of it."""
    return (best - R.max((1, 2))) / jnp.abs(best)


def least_wins(R: jax.Array) -> jax.Array:
    """The smallest share of instances that a member is the best on; who ties shares."""
    mine = R.max(-1)
    wins = mine >= mine.max(-1, keepdims=True)
    return (wins / wins.sum(-1, keepdims=True)).mean(0).min()


def combinatorial(world: Any, network: Network, weigh: Callable = shared_baseline) -> Algo:
    """An algorithm from what its paper weighs solutions by.

    Args:
      world: for the shapes of its observations.
      weigh: (R [B, K, M], hp) -> how much each solution's log-probability counts [B, K, M].
    """
    encoder, decoder = modules(world, network)

    def init(key, hp, world):
        key, k_env, k_enc, k_dec = jax.random.split(key, 4)
        obs = world.reset(k_env, 1)[1]
        first = jax.tree.map(lambda x: x[:, None], seen(obs))
        enc = encoder.init(k_enc, obs["items"])
        dec = decoder.init(k_dec, encoder.apply(enc, obs["items"]), **first)
        copies = jax.tree.map(lambda x: jnp.stack([x] * hp.population), dec)
        params = dict(encoder=enc, decoders=copies)
        return State(params, adam(hp).init(params), key)

    def seen(obs):
        return dict(marks=obs["marks"], left=obs["left"], mask=obs["action_mask"])

    def decode(decoders, h, look):
        """Logits [B, K, M, n] of what K members see, [B, K, M, ...] each."""
        each = lambda p, look: decoder.apply(p, h, **look)
        return jax.vmap(each, (0, 1), 1)(decoders, look)

    def build(params, key, hp, world) -> Solutions:
        """Solutions of fresh instances, by all members from the same first items."""
        B, K, M, n = hp.num_envs, hp.population, hp.starts, world.action_space.n
        if n < M:
            raise InputError(f"starts: {M} is more than the {n} items of {world.name}")
        k_env, k_first, k_noise, k_step = jax.random.split(key, 4)
        env, obs = jax.tree.map(lambda x: jnp.repeat(x, K * M, 0), world.reset(k_env, B))
        items = obs["items"][:: K * M]
        first = jax.random.uniform(k_first, (B, n)).argsort(-1)[:, None, :M]
        first = jnp.broadcast_to(first, (B, K, M))
        h = encoder.apply(params["encoder"], items)
        group = lambda tree: jax.tree.map(lambda x: x.reshape(B, K, M, *x.shape[1:]), tree)

        def one(carry, drawn):
            env, obs, over, R = carry
            t, noise, chance = drawn
            look = group(seen(obs))
            action = (decode(params["decoders"], h, look) + noise).argmax(-1)
            action = jnp.where(t == 0, first, action)
            env, s = world.step(chance, env, action.ravel())
            R = R + jnp.where(over, 0.0, s.reward)
            row = look, action, group(~over) & (t > 0)
            return (env, s.obs, over | s.terminated | s.truncated, R), row

        T, N = world.max_steps, B * K * M
        noise = flat(jax.random.gumbel, k_noise, (T, B, K, M, n))
        drawn = jnp.arange(T), noise, draw(world, k_step, T, N)
        carry = env, obs, jnp.zeros(N, bool), jnp.zeros(N)
        (*_, R), (look, action, own) = jax.lax.scan(one, carry, drawn)
        return Solutions(items, look, action, own, group(R))

    def log_prob(params, x: Solutions):
        """Of each solution but its first item, [B, K, M]; and the entropy of a choice."""
        h = encoder.apply(params["encoder"], x.items)
        logits: Any = jax.vmap(partial(decode, params["decoders"], h))(x.obs)
        log_p = nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_p, x.action[..., None], -1)[..., 0]
        entropy = -(jnp.exp(log_p) * log_p).sum(-1)
        count = jnp.maximum(x.own.sum(), 1)
        return (x.own * chosen).sum(0), (x.own * entropy).sum() / count

    def step(s, t, hp, world):
        key, k = jax.random.split(s.key)
        x = build(s.params, k, hp, world)
        one = t < hp.pretrain * hp.horizon
        w = jnp.where(one, shared_baseline(x.R), weigh(x.R, hp))

        def loss(params):
            log_p, entropy = log_prob(params, x)
            return -(w * log_p).sum(1).mean(), entropy

        (value, entropy), grads = jax.value_and_grad(loss, has_aux=True)(s.params)
        mean = jax.tree.map(lambda g: jnp.broadcast_to(g.mean(0), g.shape), grads["decoders"])
        grads |= dict(decoders=choose(one, mean, grads["decoders"]))
        updates, opt = adam(hp, t).update(grads, s.opt, s.params)
        params = optax.apply_updates(s.params, updates)
        metrics = dict(
            episode_return=x.R.mean(),
            episodes=jnp.float32(x.R.size),
            best_return=x.R.max((1, 2)).mean(),
            least_wins=least_wins(x.R),
            entropy=entropy,
            policy_loss=value,
            grad_norm=norm(grads),
        )
        if optimum := known(world, "optimum"):
            metrics["gap"] = shortfall(x.R, jax.vmap(optimum)(x.items)).mean()
        return State(params, opt, key), metrics

    def act(s, obs, memory, key, hp):
        K, n = hp.population, obs["action_mask"].shape[-1]
        decoders = jax.tree.map(lambda x: x[memory % K], s.params["decoders"])
        h = encoder.apply(s.params["encoder"], obs["items"])
        look = jax.tree.map(lambda x: x[:, None, None], seen(obs))
        each: Any = lambda p, h, look: decoder.apply(p, h[None], **look)
        logits = jax.vmap(each)(decoders, h, look)[:, 0, 0]
        if key is not None:
            logits += jax.random.gumbel(key, logits.shape)
        begins = (obs["left"][:, 0] == 1) & ~obs["marks"].any((1, 2))
        return jnp.where(begins, memory // K % n, logits.argmax(-1)), memory

    return Algo(init, step, act, lambda n: jnp.arange(n))


def make_with(weigh: Callable) -> Callable:
    """The `make` of a paper that weighs solutions so."""

    def make(world: Any, network: Network = Combinatorial.network_for("")) -> Algo:
        return combinatorial(world, network, weigh)

    return make
