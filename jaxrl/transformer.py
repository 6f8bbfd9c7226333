"""A decoder-only transformer, as open language models are: RMS norm before each block, rotary
positions, grouped-query attention, a gated perceptron. Its `Shape` says which: Llama's, Qwen's, or
a small one of our own.

Keys and values may be kept in a `Cache`, so that a token more costs one token's work. What is
computed with it is what is computed without, token for token.

Sources: RMS norm, arXiv 1910.07467; rotary positions, 2104.09864; grouped queries, 2305.13245;
the gated perceptron (SwiGLU), 2002.05202; biases of queries, keys and values as in Qwen 2.5,
2412.15115; norms of queries and keys as in Qwen 3, 2505.09388; low-rank adapters, 2106.09685.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from jaxrl.heads import MASKED
from jaxrl.types import Params

HEADS, KV_HEADS = 4, 2  # of a small one, or as many as divide its width
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")  # of a layer: what an adapter may be on


class Stretch(NamedTuple):
    """Llama 3's rotary frequencies for more positions than those that it first learned."""

    factor: float
    low: float
    high: float
    positions: int


class Shape(NamedTuple):
    """What tells one model of this kind from another."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    groups: int  # of heads that share keys and values
    head: int  # its width
    inner: int  # the perceptron's width
    base: float = 10_000.0  # of the rotary frequencies
    eps: float = 1e-6  # of the norms
    bias: bool = False  # of queries, keys and values
    norms: bool = False  # of queries and keys
    tied: bool = True  # whether tokens are read and said by the same embeddings
    scaled: bool = False  # whether embeddings are times the width's root
    stretch: Stretch | None = None


def small(vocabulary: int, widths: tuple[int, ...]) -> Shape:
    """A shape of our own: layers that are all of one width."""
    width = widths[0]
    heads = math.gcd(width // 2, HEADS)
    groups, D = math.gcd(heads, KV_HEADS), width // heads
    return Shape(vocabulary, width, len(widths), heads, groups, D, 2 * width, scaled=True)


class Adapter(NamedTuple):
    """Low-rank matrices A and B beside frozen ones: x W + scale / rank · x A B."""

    rank: int
    scale: float
    on: tuple[str, ...] = MATRICES


class Cache(struct.PyTreeNode):
    """What was read so far of B sequences of at most T tokens."""

    layers: tuple[tuple[jax.Array, jax.Array], ...]  # keys and values of each, [B, T, groups, D]
    visible: jax.Array  # [B, T] bool: not BLANK


def frequencies(D: int, base: float = Shape._field_defaults["base"], stretch: Any = None) -> Any:
    """Radians a position of each pair [D/2]."""
    half = D // 2
    w = base ** (-jnp.arange(half) / half)
    if stretch is None:
        return w
    turns = stretch.positions * w / (2 * jnp.pi)
    share = jnp.clip((turns - stretch.low) / (stretch.high - stretch.low), 0.0, 1.0)
    return w * (share + (1 - share) / stretch.factor)


def rotary(x: jax.Array, at: jax.Array, w: jax.Array | None = None) -> jax.Array:
    """Turn pairs of x [B, S, heads, D] by angles that grow with the positions at [S]."""
    half = x.shape[-1] // 2
    angle = at[:, None] * (frequencies(2 * half) if w is None else w)  # [S, D/2]
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Queries [B, S, H, D] to keys and values [B, T, G, D], H a multiple of G; mask [B, S, T]."""
    B, S, H, D = q.shape
    G = k.shape[2]
    q = q.reshape(B, S, G, H // G, D) / math.sqrt(D)
    scores = jnp.einsum("bsghd,btgd->bghst", q, k).astype(jnp.float32)
    weights = nn.softmax(jnp.where(mask[:, None, None], scores, MASKED)).astype(v.dtype)
    return jnp.einsum("bghst,btgd->bsghd", weights, v).reshape(B, S, H * D)


class Linear(nn.Module):
    """x W (+ b), and what an adapter adds."""

    features: int
    scale: float = 1.0  # of what it begins as
    bias: bool = False
    adapter: Adapter | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.variance_scaling(self.scale, "fan_in", "normal")
        dense = nn.Dense(
            self.features, use_bias=self.bias, kernel_init=init, dtype=self.dtype, name="dense"
        )
        nn.share_scope(self, dense)  # its matrix is this one's
        y = dense(x)
        if self.adapter is None:
            return y
        rank, scale = self.adapter.rank, self.adapter.scale / self.adapter.rank
        near = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        a = self.variable("lora", "a", lambda: near(self.make_rng("params"), (x.shape[-1], rank)))
        b = self.variable("lora", "b", jnp.zeros, (rank, self.features))
        return y + scale * (x @ a.value.astype(x.dtype) @ b.value.astype(x.dtype))


class Block(nn.Module):
    """One layer: x [B * S, width], which at positions [S] -> (x, keys and values of all that was
    read). Tokens stand in one axis: products over two are slower by half in the backward pass."""

    shape: Shape
    adapter: Adapter | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x, at, visible, kept, begin):
        s = self.shape

        def linear(width, name, small=1.0, bias=False):
            adapter = self.adapter if self.adapter and name in self.adapter.on else None
            return Linear(width, small, bias, adapter, self.dtype, name=name)

        norm = lambda name: nn.RMSNorm(epsilon=s.eps, dtype=self.dtype, name=name)
        less = 1.0 / (2 * s.layers)  # what each layer adds is scaled down by how many there are
        y = norm("norm_attention")(x)
        cut = lambda y, n: y.reshape(-1, len(at), n, s.head)
        q = cut(linear(s.heads * s.head, "q", bias=s.bias)(y), s.heads)
        k = cut(linear(s.groups * s.head, "k", bias=s.bias)(y), s.groups)
        v = cut(linear(s.groups * s.head, "v", bias=s.bias)(y), s.groups)
        if s.norms:
            q, k = norm("norm_q")(q), norm("norm_k")(k)
        w = frequencies(s.head, s.base, s.stretch)
        q, k = rotary(q, at, w), rotary(k, at, w)
        if kept is not None:
            put = lambda all_, new: jax.lax.dynamic_update_slice_in_dim(
                all_, new.astype(all_.dtype), begin, 1
            )
            k, v = put(kept[0], k), put(kept[1], v)
        place = jnp.arange(k.shape[1])
        seen = (place < at[:, None]) & visible[:, None] | (place == at[:, None])  # itself always
        y = attention(q, k, v, seen).reshape(len(x), -1)
        x = x + linear(s.width, "o", less)(y)
        y = norm("norm_mlp")(x)
        y = nn.silu(linear(s.inner, "gate")(y)) * linear(s.inner, "up")(y)
        return x + linear(s.width, "down", less)(y), (k, v)


class Transformer(nn.Module):
    """tokens [B, S] -> (logits [B, S, V], value [B, S], cache), each of what follows a token.

    With a cache the tokens stand at `begin`, after those that it holds; without, at 0. Outputs are
    of the tokens from `since` on.

    Attributes:
      blank: the token that nothing sees.
      adapter: low-rank matrices of the "lora" collection beside those of "params".
      remat: compute each layer anew in the backward pass, to keep its input alone.
      dtype: what is computed in; parameters and logits are float32.
    """

    shape: Shape
    blank: int = 0
    adapter: Adapter | None = None
    remat: bool = False
    dtype: Any = None

    def setup(self):
        s = self.shape
        init = nn.initializers.normal(1.0 / math.sqrt(s.width))
        self.embed = nn.Embed(s.vocabulary, s.width, embedding_init=init, dtype=self.dtype)
        kind = nn.remat(Block) if self.remat else Block
        for i in range(s.layers):
            setattr(self, f"layer_{i}", kind(s, self.adapter, self.dtype))
        self.norm = nn.RMSNorm(epsilon=s.eps, dtype=self.dtype)
        self.value = nn.Dense(1, kernel_init=nn.initializers.zeros)
        if not s.tied:
            self.unembed = nn.Dense(s.vocabulary, use_bias=False, dtype=self.dtype)

    def __call__(self, tokens, cache: Any = None, begin: Any = 0, since: int = 0):
        x, value, cache = self.states(tokens, cache, begin, since)
        return self.logits(x), value, cache

    def states(self, tokens, cache: Any = None, begin: Any = 0, since: int = 0):
        """What logits are of in their place: ([B, S - since, width], value, cache)."""
        s = self.shape
        x = self.embed(tokens.ravel())
        if s.scaled:
            x = x * math.sqrt(s.width)
        at = begin + jnp.arange(tokens.shape[1])
        visible = tokens != self.blank
        if cache is not None:
            visible = jax.lax.dynamic_update_slice_in_dim(cache.visible, visible, begin, 1)
        layers = []
        for i in range(s.layers):
            block = getattr(self, f"layer_{i}")
            x, kv = block(x, at, visible, cache and cache.layers[i], begin)
            layers.append(kv)
        x = self.norm(x.reshape(*tokens.shape, s.width)[:, since:])
        return x, self.value(x.astype(jnp.float32))[..., 0], Cache(tuple(layers), visible)

    def logits(self, x):
        """Of the next token [..., V]."""
        said = self.embed.attend(x) if self.shape.tied else self.unembed(x)
        return said.astype(jnp.float32)

    def read(self, params: Params, *args: Any, **how: Any) -> tuple[jax.Array, jax.Array, Any]:
        """`apply`, and what it gives."""
        out: Any = self.apply(params, *args, **how)
        return out

    def see(self, params: Params, *args: Any, **how: Any) -> tuple[jax.Array, jax.Array]:
        """(states, values), without logits."""
        out: Any = self.apply(params, *args, **how, method="states")
        return out[:2]

    def say(self, params: Params, x: jax.Array) -> jax.Array:
        """Logits of states."""
        out: Any = self.apply(params, x, method="logits")
        return out

    def empty(self, B: int, T: int) -> Cache:
        """A cache of B sequences with place for T tokens."""
        s = self.shape
        kv = jnp.zeros((B, T, s.groups, s.head), self.dtype or jnp.float32)
        return Cache(((kv, kv),) * s.layers, jnp.zeros((B, T), bool))
