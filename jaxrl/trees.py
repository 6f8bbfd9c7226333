"""Gradient-boosted oblivious trees of fixed depth and capacity, as arrays.

    F(x) = Σᵢ valueᵢ[leafᵢ(x)]

In an oblivious tree all nodes of a level ask one question, so that a leaf is a number in binary,
one bit a level. A question is an interval of one feature, low < x <= high: (c, ∞) asks a number
whether it exceeds c, (c - ½, c + ½] asks a category whether it is c. Nothing branches on data.

M rows, F features, Q questions, D levels, L = 2^D leaves, K outputs, C trees.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.spaces import Box
from jaxrl.networks import seen

BLOCK = 32  # trees that `predict` asks at a time
INFINITY = np.finfo(np.float32).max  # stands for it: parameters stay finite, and so do differences


class Tree(struct.PyTreeNode):
    """One tree, or several along leading axes."""

    feature: jax.Array  # [..., D] int32
    low: jax.Array  # [..., D]
    high: jax.Array  # [..., D]
    value: jax.Array  # [..., L, K]


class Ensemble(struct.PyTreeNode):
    trees: Tree  # [C, ...]; those not yet grown hold 0
    count: jax.Array  # () int32: trees grown


def empty(capacity: int, depth: int, outputs: int) -> Ensemble:
    """No tree yet: F = 0."""
    question = jnp.zeros((capacity, depth))
    value = jnp.zeros((capacity, 2**depth, outputs))
    return Ensemble(Tree(question.astype(jnp.int32), question, question, value), jnp.int32(0))


class Questions(NamedTuple):
    """What the nodes of a level may be asked, [Q]."""

    feature: np.ndarray
    low: jax.Array
    high: jax.Array


def questions(x: jax.Array, bins: int, categories: np.ndarray) -> Questions:
    """Whether a number exceeds each of its quantiles, whether a category is each of its values.

    The rows x [M, F] in order make bins + 1 groups; a quantile ends each of them but the last.

    Args:
      categories: [F] int, static: a feature takes the values 0 .. n-1. Where n is 0 or more than
        `bins`, it is a number.
    """
    discrete = (categories > 0) & (categories <= bins)
    feature = np.repeat(np.arange(len(categories)), np.where(discrete, categories, bins))
    i = np.arange(len(feature)) - np.searchsorted(feature, feature)  # counts within a feature
    size, more = divmod(x.shape[0], bins + 1)  # the first `more` groups have one row more
    last = (i + 1) * size + np.minimum(i + 1, more) - 1
    cut, whole = jnp.sort(x, 0)[last, feature], discrete[feature]
    return Questions(feature, jnp.where(whole, i - 0.5, cut), jnp.where(whole, i + 0.5, INFINITY))


def strength(total: jax.Array) -> jax.Array:
    """n |μ|² of n vectors with mean μ, from their sum and n: [..., K+1] -> [...]. No vectors: 0."""
    return jnp.square(total[..., :-1]).sum(-1) / jnp.maximum(total[..., -1], 1.0)


def fit(x: jax.Array, g: jax.Array, ask: Questions, depth: int) -> Tree:
    """The tree grown greedily to vectors g [M, K] at rows x [M, F]; a leaf holds their mean, or 0.

    Each level takes the question with the largest score, summed over the level's nodes:

      Σ_c Σ_{i in c} <gᵢ, μ_c> / √(Σ_c n_c |μ_c|²) = √(Σ_c n_c |μ_c|²),  c: the two children

    which is the score "cosine" in the released code of arXiv 2407.08250; gᵢ is not scaled.
    """
    rows, asked = x.shape[0], x[:, ask.feature]
    yes, everyone = (asked > ask.low) & (asked <= ask.high), jnp.ones((rows, 1), bool)  # [M, Q]
    counted = jnp.concatenate([g, jnp.ones((rows, 1))], -1)  # [M, K+1]: sums to Σ g and n
    node, chosen = jnp.zeros(rows, jnp.int32), []

    def total(answers, nodes):
        """Σ g and n of the rows of each node that answer yes, [Q, nodes, K+1]."""
        inside = jax.nn.one_hot(node, nodes)[..., None] * counted[:, None]
        mask = answers.astype(jnp.float32)
        return jnp.einsum("mq,mnk->qnk", mask, inside, precision="highest")

    for level in range(depth):
        right, both = total(yes, 2**level), total(everyone, 2**level)
        score = jnp.sqrt(strength(right) + strength(both - right)).sum(-1)
        chosen.append(jnp.argmax(score))
        node = 2 * node + yes[:, chosen[-1]]
    ends, best = total(everyone, 2**depth)[0], jnp.stack(chosen)
    value = ends[:, :-1] / jnp.maximum(ends[:, -1:], 1.0)
    return Tree(jnp.asarray(ask.feature)[best], ask.low[best], ask.high[best], value)


def leaf(tree: Tree, x: jax.Array) -> jax.Array:
    """The leaf that each row falls into, [M, F] -> [M, ...] for trees [...]."""
    asked = x[:, tree.feature]  # [M, ..., D]
    bits = (asked > tree.low) & (asked <= tree.high)
    return (bits << np.arange(bits.shape[-1])[::-1]).sum(-1)


def answer(tree: Tree, x: jax.Array) -> jax.Array:
    """One tree's outputs, [M, F] -> [M, K]."""
    return tree.value[leaf(tree, x)]


def predict(e: Ensemble, x: jax.Array) -> jax.Array:
    """F(x), [M, F] -> [M, K], in time proportional to the trees grown."""
    capacity, leaves, outputs = e.trees.value.shape
    size = math.gcd(capacity, BLOCK)

    def block(i, y):
        part = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, i * size, size), e.trees)
        here = jax.nn.one_hot(leaf(part, x), leaves)  # under vmap a product beats a gather
        return y + jnp.einsum("mcl,clk->mk", here, part.value, precision="highest")

    blocks = (e.count + size - 1) // size
    return jax.lax.fori_loop(0, blocks, block, jnp.zeros((x.shape[0], outputs)))


def append(e: Ensemble, tree: Tree) -> Ensemble:
    """The ensemble with one tree more; one that is full stays as it is."""
    capacity = e.trees.value.shape[0]
    trees = jax.tree.map(lambda a, b: a.at[e.count].set(b, mode="drop"), e.trees, tree)
    return Ensemble(trees, jnp.minimum(e.count + 1, capacity))


def table(obs: Any) -> jax.Array:
    """Observations as rows, [M, ...] -> [M, F]: all but what is the critic's alone, and masks."""
    x = seen(obs, critic=False)
    return x.reshape(x.shape[0], -1).astype(jnp.float32)


def categories(space: Any) -> np.ndarray:
    """How many values 0, 1, ... each feature of `table` takes, [F]: those of integers; else 0."""
    if isinstance(space, dict):
        read = [space[k] for k in sorted(space) if k not in ("action_mask", "privileged")]
        return np.concatenate([categories(s) for s in read])
    if isinstance(space, Box):
        whole = np.issubdtype(space.dtype, np.integer) and np.min(space.low) >= 0
        values = np.minimum(space.high, 1e6) + 1 if whole else 0
        return np.broadcast_to(values, space.shape).ravel().astype(int)
    return np.atleast_1d(space.n)  # Discrete, MultiDiscrete


class Forest(NamedTuple):
    """An ensemble for a network, as `policies.feedforward` takes one: the last output is V."""

    capacity: int
    depth: int
    size: int  # of the head's input

    def init(self, key, obs) -> Ensemble:
        return empty(self.capacity, self.depth, self.size + 1)

    def apply(self, e: Ensemble, obs) -> tuple[jax.Array, jax.Array]:
        y = predict(e, table(obs))
        return y[:, :-1], y[:, -1]
