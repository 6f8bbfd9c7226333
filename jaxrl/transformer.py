"""A decoder-only transformer, architecturally as open language models are: RMS norm before each
block, rotary positions, grouped-query attention, a gated perceptron, tied embeddings, no biases.

Keys and values may be kept in a `Cache`, so that a token more costs one token's work. What is
computed with it is what is computed without, token for token.

Sources: RMS norm, arXiv 1910.07467; rotary positions, 2104.09864; grouped queries, 2305.13245;
the gated perceptron (SwiGLU), 2002.05202; together as in Qwen 2.5 (2412.15115), but for its biases
of queries, keys and values.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from jaxrl.heads import MASKED
from jaxrl.types import Params

BASE = 10_000.0  # of the rotary frequencies
HEADS, KV_HEADS = 4, 2  # or as many as divide the width


class Cache(struct.PyTreeNode):
    """What was read so far of B sequences of at most T tokens."""

    layers: tuple[tuple[jax.Array, jax.Array], ...]  # keys and values of each, [B, T, groups, D]
    visible: jax.Array  # [B, T] bool: not BLANK


def shape(width: int) -> tuple[int, int, int]:
    """Heads, groups of them that share keys and values, and the width of one."""
    heads = math.gcd(width // 2, HEADS)
    return heads, math.gcd(heads, KV_HEADS), width // heads


def rotary(x: jax.Array, at: jax.Array) -> jax.Array:
    """Turn pairs of x [B, S, heads, D] by angles that grow with the positions at [S]."""
    half = x.shape[-1] // 2
    angle = at[:, None] * BASE ** (-jnp.arange(half) / half)  # [S, D/2]
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Queries [B, S, H, D] to keys and values [B, T, G, D], H a multiple of G; mask [B, S, T]."""
    B, S, H, D = q.shape
    G = k.shape[2]
    q = q.reshape(B, S, G, H // G, D) / math.sqrt(D)
    scores = jnp.einsum("bsghd,btgd->bghst", q, k)
    weights = nn.softmax(jnp.where(mask[:, None, None], scores, MASKED))
    return jnp.einsum("bghst,btgd->bsghd", weights, v).reshape(B, S, H * D)


def dense(width: int, name: str, scale: float = 1.0) -> nn.Dense:
    init = nn.initializers.variance_scaling(scale, "fan_in", "normal")
    return nn.Dense(width, use_bias=False, kernel_init=init, name=name)


class Block(nn.Module):
    """One layer: x [B * S, width], which at positions [S] -> (x, keys and values of all that was
    read). Tokens stand in one axis: products over two are slower by half in the backward pass."""

    width: int
    layers: int  # how many there are: what each adds is scaled down by it

    @nn.compact
    def __call__(self, x, at, visible, kept, begin):
        width, small = self.width, 1.0 / (2 * self.layers)
        heads, groups, D = shape(width)
        y = nn.RMSNorm(name="norm_attention")(x)
        cut = lambda y, n: y.reshape(-1, len(at), n, D)
        q = rotary(cut(dense(width, "q")(y), heads), at)
        k = rotary(cut(dense(groups * D, "k")(y), groups), at)
        v = cut(dense(groups * D, "v")(y), groups)
        if kept is not None:
            put = lambda all_, new: jax.lax.dynamic_update_slice_in_dim(all_, new, begin, 1)
            k, v = put(kept[0], k), put(kept[1], v)
        place = jnp.arange(k.shape[1])
        seen = (place < at[:, None]) & visible[:, None] | (place == at[:, None])  # itself always
        y = attention(q, k, v, seen).reshape(x.shape)
        x = x + dense(width, "o", small)(y)
        y = nn.RMSNorm(name="norm_mlp")(x)
        y = nn.silu(dense(2 * width, "gate")(y)) * dense(2 * width, "up")(y)
        return x + dense(width, "down", small)(y), (k, v)


class Transformer(nn.Module):
    """tokens [B, S] -> (logits [B, S, V], value [B, S], cache), each of what follows a token.

    With a cache the tokens stand at `begin`, after those that it holds; without, at 0. Outputs are
    of the tokens from `since` on.
    """

    vocabulary: int
    widths: tuple[int, ...]  # of the layers, all the same
    blank: int = 0

    @nn.compact
    def __call__(self, tokens, cache: Any = None, begin: Any = 0, since: int = 0):
        width = self.widths[0]
        init = nn.initializers.normal(1.0 / math.sqrt(width))
        embed = nn.Embed(self.vocabulary, width, embedding_init=init, name="embed")
        x = embed(tokens.ravel()) * math.sqrt(width)
        at = begin + jnp.arange(tokens.shape[1])
        visible = tokens != self.blank
        if cache is not None:
            visible = jax.lax.dynamic_update_slice_in_dim(cache.visible, visible, begin, 1)
        layers = []
        for i in range(len(self.widths)):
            block = Block(width, len(self.widths), name=f"layer_{i}")
            x, kv = block(x, at, visible, cache and cache.layers[i], begin)
            layers.append(kv)
        x = nn.RMSNorm(name="norm")(x.reshape(*tokens.shape, width)[:, since:])
        value = nn.Dense(1, kernel_init=nn.initializers.zeros, name="value")(x)[..., 0]
        return embed.attend(x), value, Cache(tuple(layers), visible)

    def read(self, params: Params, *args: Any, **how: Any) -> tuple[jax.Array, jax.Array, Any]:
        """`apply`, and what it gives."""
        out: Any = self.apply(params, *args, **how)
        return out

    def empty(self, B: int, T: int) -> Cache:
        """A cache of B sequences with place for T tokens."""
        _, groups, D = shape(self.widths[0])
        kv = jnp.zeros((B, T, groups, D))
        return Cache(((kv, kv),) * len(self.widths), jnp.zeros((B, T), bool))
