"""Networks, as flax modules behind `init` and `apply`. Inputs have one batch axis, [M, ...]."""

from collections.abc import Callable
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl.errors import InputError

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "silu": nn.silu, "gelu": nn.gelu}


@cache
def orthogonal(gain: float = 1.0) -> Callable:
    """Orthogonal initialiser without a QR: the polar factor of a Gaussian matrix is uniform too.

    Newton-Schulz, X <- 1.5 X - 0.5 X XᵀX, maps every singular value in (0, 1] to 1; 48 steps do for
    one of 1e-6. (A batched QR, which is what vmapping over seeds makes of the usual initialiser,
    hangs jaxlib 0.10 on two CPU cores.) Kernels of more than two axes are flattened to [-1, out].
    It is traced once for a shape: flax asks for it each time that a network is applied.
    """

    @partial(jax.jit, static_argnums=(1, 2))
    def init(key, shape, dtype=jnp.float32):
        rows, columns = -1 if len(shape) > 2 else shape[0], shape[-1]
        g = jax.random.normal(key, shape, jnp.float32).reshape(rows, columns)
        x = g if g.shape[0] >= columns else g.T
        x = x / jnp.linalg.norm(x)
        with jax.default_matmul_precision("highest"):
            x = jax.lax.fori_loop(0, 48, lambda _, x: 1.5 * x - 0.5 * x @ (x.T @ x), x)
        return (gain * (x if g.shape[0] >= columns else x.T)).reshape(shape).astype(dtype)

    return init


@jax.custom_jvp
def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., in] @ w [in, out], whose gradient by w is as fast on a CPU as the product itself.

    That gradient, xᵀ g, XLA gives to a slow routine on one core unless xᵀ lies in memory as such:
    at 4,096 rows of a 64 x 64 network the whole of a gradient step takes 0.7 of the time with it.
    For a single output, as a critic's, XLA's own is faster: 0.93 of a step at 256 rows.
    """
    return x @ w


@product.defjvp
def _(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    if jax.default_backend() != "cpu" or w.shape[-1] == 1:
        return x @ w, dx @ w + x @ dw
    columns = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
    by_w = jax.lax.dot_general(columns, dw, (((0,), (0,)), ((), ())))
    return x @ w, dx @ w + by_w.reshape(*x.shape[:-1], -1)


def dense(width: int, gain: float = 2**0.5) -> nn.Dense:
    last_axis_of_both = lambda x, w, *_, **__: product(x, w)
    return nn.Dense(width, kernel_init=orthogonal(gain), dot_general=last_axis_of_both)


def seen(obs, *, critic: bool) -> jax.Array:
    """What the actor, or the critic, reads of an observation: a dictionary's entries, flat."""
    if not isinstance(obs, dict):
        return obs
    hidden = {"action_mask"} if critic else {"action_mask", "privileged"}
    parts = [v for k, v in sorted(obs.items()) if k not in hidden]
    return jnp.concatenate([v.reshape(v.shape[0], -1).astype(jnp.float32) for v in parts], -1)


class MLP(nn.Module):
    """[M, ...] -> [M, hidden[-1]]."""

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = ACTIVATIONS[self.activation](dense(width)(x))
        return x


class Conv(nn.Module):
    """A convolution without padding, [M, H, W, C] -> [M, H-k+1, W-k+1, channels].

    Written as a product of shifted copies: on a CPU XLA's own is some twenty times slower inside a
    loop, and slower again under vmap.
    """

    channels: int
    window: int = 3

    @nn.compact
    def __call__(self, x):
        k, (H, W) = self.window, x.shape[1:3]
        shifts = [(i, j) for i in range(k) for j in range(k)]
        patches = [x[:, i : H - k + 1 + i, j : W - k + 1 + j] for i, j in shifts]
        return dense(self.channels)(jnp.concatenate(patches, -1))


class CNN(nn.Module):
    """[M, H, W, C] -> [M, hidden[-1]]: one 3x3 convolution of 16 channels, then an MLP.

    InputError for what is not an image.
    """

    hidden: tuple[int, ...] = (128,)
    activation: str = "relu"

    @nn.compact
    def __call__(self, x):
        if x.ndim != 4 or min(x.shape[1:3]) < 3:
            got = f"a network was given {list(x.shape[1:])}"
            raise InputError(f"torso: cnn needs images [H, W, C] of at least 3 x 3; {got}")
        x = ACTIVATIONS[self.activation](Conv(16)(x))
        return MLP(self.hidden, self.activation)(x)


class Actor(nn.Module):
    """obs -> head inputs [M, size]; or, within [-1, 1] by a tanh, the actions themselves."""

    size: int
    torso: Callable[[], nn.Module]
    bounded: bool = False

    @nn.compact
    def __call__(self, obs):
        x = dense(self.size, 0.01)(self.torso()(seen(obs, critic=False)))
        return nn.tanh(x) if self.bounded else x


class ActorCritic(nn.Module):
    """obs -> (head inputs [M, size], value [M], or [M, values] where values > 0)."""

    size: int
    torso: Callable[..., nn.Module]  # (name=) -> a module
    shared: bool = False
    values: int = 0

    @nn.compact
    def __call__(self, obs):
        x = self.torso(name="actor")(seen(obs, critic=False))
        y = x if self.shared else self.torso(name="critic")(seen(obs, critic=True))
        v = dense(max(self.values, 1), 1.0)(y)
        return dense(self.size, 0.01)(x), v if self.values else v[..., 0]


class Recurrent(nn.Module):
    """A torso, then a GRU, for actor and critic together; what is "privileged" joins after the GRU.

    obs [T, N, ...], start [T, N], memory [N, units] -> (head inputs [T, N, size], value, memory)
    """

    size: int
    torso: Callable[..., nn.Module]  # (name=) -> a module
    units: int
    values: int = 0

    @nn.compact
    def __call__(self, obs, start, memory):
        def fold(x):
            return x.reshape(-1, *x.shape[2:])

        cell = nn.GRUCell(self.units, recurrent_kernel_init=orthogonal(), kernel_init=orthogonal())

        def step(cell, memory, x):
            y, first = x
            return cell(jnp.where(first[:, None], 0.0, memory), y)

        x = self.torso(name="torso")(seen(jax.tree.map(fold, obs), critic=False))
        x = x.reshape(*start.shape, -1)
        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        memory, y = scan(cell, memory, (x, start))
        z = y
        if isinstance(obs, dict) and "privileged" in obs:  # the critic's alone, and not remembered
            more = self.torso(name="critic")(fold(obs["privileged"]))
            z = jnp.concatenate([y, more.reshape(*start.shape, -1)], -1)
        v = dense(max(self.values, 1), 1.0)(z)
        return dense(self.size, 0.01)(y), v if self.values else v[..., 0], memory
