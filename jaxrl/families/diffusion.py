"""Flows: actions as what a learned velocity carries noise to. No family of distributions limits
them, and no likelihood is known of them.

    x_t = (1 - t) ε + t a,    v(s, x_t, t) ≈ E[a - ε | x_t, s],    dx/dt = v from t = 0 to t = 1

"Flow Matching for Generative Modeling" by Lipman et al. 2023 (arXiv 2210.02747), of the straight
path (Liu et al. 2023, arXiv 2209.03003). What a policy's ratio is, its paper says.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.stats import norm

from jaxrl.core import Algo, Policy, View
from jaxrl.errors import InputError
from jaxrl.families.off_policy import actions
from jaxrl.families.offline import drawn, recorded
from jaxrl.families.on_policy import OnPolicy
from jaxrl.hyper import arg, hyper
from jaxrl.networks import MLP, dense, seen
from jaxrl.policies import Network
from jaxrl.rollout import rows
from jaxrl.types import Params, flat, is_key

TIMES = 4  # frequencies by which the time is seen


def embedded(t: jax.Array) -> jax.Array:
    """Times [...] as cosines and sines of 2ᵏ t, [..., 2 TIMES]."""
    angles = t[..., None] * 2.0 ** jnp.arange(TIMES)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class Field(nn.Module):
    """(what is seen [..., F], x [..., d], t [...]) -> [..., d], near 0 at first."""

    size: int
    hidden: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, sight, x, t):
        y = jnp.concatenate([sight, x, embedded(t)], -1)
        y = MLP(self.hidden, self.activation)(y.reshape(-1, y.shape[-1]))
        return dense(self.size, 0.01)(y).reshape(x.shape)


class Value(nn.Module):
    """What is seen [..., F] -> [...]."""

    hidden: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, sight):
        y = MLP(self.hidden, self.activation)(sight.reshape(-1, sight.shape[-1]))
        return dense(1, 1.0)(y).reshape(sight.shape[:-1])


class Flow(NamedTuple):
    """The networks of a policy whose actions are carried, over `params`, a dictionary of theirs."""

    size: int  # how many numbers an action is
    init: Callable[..., Params]  # (key, obs [N, ...]) -> dict(field=, critic=)
    # (params, sight [..., F], x [..., d], t [...]) -> [..., d]
    field: Callable[..., jax.Array]
    value: Callable[..., jax.Array]  # (params, obs, start [...]) -> [...]


def sight(obs: Any, start: jax.Array, *, critic: bool = False) -> jax.Array:
    """Observations as the networks see them, flat [..., F]; `start` [...] has the batch's axes."""
    flattened = jax.tree.map(lambda x: x.reshape(-1, *x.shape[start.ndim :]), obs)
    return seen(flattened, critic=critic).reshape(*start.shape, -1)


def flow(world: Any, network: Network, more: int = 0) -> Flow:
    """Of this architecture. InputError for actions that are no vector, and for networks that are
    not a plain MLP.

    more: numbers that are seen beside the observation.
    """
    allowed = dict(torso="mlp", shared=False, memory=0, head="auto")
    for name, only in allowed.items():
        if (got := getattr(network, name)) != only:
            raise InputError(f"{name}: {got!r}; a flow's network has {only!r}")
    d = actions(world)
    field = Field(d, network.hidden, network.activation)
    critic = Value(network.hidden, network.activation)
    v: Any = field.apply
    value: Any = critic.apply

    def init(key, obs):
        k_field, k_critic = jax.random.split(key)
        start = jnp.ones(rows(obs), bool)
        own, all_of_it = sight(obs, start), sight(obs, start, critic=True)
        own = jnp.concatenate([own, jnp.zeros((start.size, more))], -1)
        at = jnp.zeros((start.size, d)), jnp.zeros(start.size)
        return dict(field=field.init(k_field, own, *at), critic=critic.init(k_critic, all_of_it))

    def look(params, obs, start):
        return value(params["critic"], sight(obs, start, critic=True))

    return Flow(d, init, lambda params, *args: v(params["field"], *args), look)


def euler(v: Callable, x: jax.Array, steps: int) -> jax.Array:
    """Where v(x, t) carries x [..., d] from t = 0 to 1, by so many steps of Euler's method."""

    def step(x, t):
        return x + v(x, jnp.full(x.shape[:-1], t)) / steps, None

    return jax.lax.scan(step, x, jnp.arange(steps) / steps)[0]


def midpoint(v: Callable, x: jax.Array, steps: int) -> jax.Array:
    """The same by the midpoint method, of two evaluations a step."""

    def step(x, t):
        at = lambda t: jnp.full(x.shape[:-1], t)
        half = x + v(x, at(t)) / (2 * steps)
        return x + v(half, at(t + 0.5 / steps)) / steps, None

    return jax.lax.scan(step, x, jnp.arange(steps) / steps)[0]


# ---- diffusions ------------------------------------------------------------------------------


def cosine(K: int) -> tuple[jax.Array, jax.Array]:
    """β [K + 1] and ᾱ [K + 1] of a diffusion's cosine schedule, β[0] = 0 and ᾱ[0] = 1. (Nichol and
    Dhariwal 2021, arXiv 2102.09672, eq. 17)"""
    f = np.cos((np.arange(K + 1) / K + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.clip(1 - f / np.array([f[0], *f[:-1]]), 0.0, 0.999)
    return jnp.asarray(beta, jnp.float32), jnp.asarray(np.cumprod(1 - beta), jnp.float32)


def noised(a: jax.Array, noise: jax.Array, k: jax.Array, K: int) -> jax.Array:
    """x_k = √ᾱ a + √(1 - ᾱ) ε, of actions [..., d] after k [...] of K steps."""
    bar = cosine(K)[1][k][..., None]
    return jnp.sqrt(bar) * a + jnp.sqrt(1 - bar) * noise


def posterior(x: jax.Array, noise: jax.Array, k: jax.Array, K: int) -> tuple:
    """Mean [..., d] and deviation [...] of x_{k-1} given x_k and its noise, k >= 1, where actions
    are within [-1, 1]. (Ho et al. 2020, arXiv 2006.11239, eq. 7)"""
    beta, bar = (table[..., None] for table in cosine(K))
    b, now, before = beta[k], bar[k], bar[k - 1]
    clean = jnp.clip((x - jnp.sqrt(1 - now) * noise) / jnp.sqrt(now), -1.0, 1.0)
    mean = jnp.sqrt(before) * b * clean + jnp.sqrt(1 - b) * (1 - before) * x
    return mean / (1 - now), jnp.sqrt(b * (1 - before) / (1 - now))[..., 0]


def denoiser(nets: Flow, K: int, tuned: int, least: Any) -> Policy:
    """A diffusion policy of K denoising steps, the last `tuned` of which are what is judged: each a
    Gaussian of a deviation of at least `least`. The others are those of params["base"].

    Its record has "chain" [..., tuned + 1, d] and "log_prob" [..., tuned], a number for each step
    in their order; a view's own is of them all. A mode has no noise at all.
    """
    d = nets.size

    def init(key, obs):
        params = nets.init(key, obs)
        return params | dict(base=params["field"])

    def gaussian(field, s, x, k):
        noise = nets.field(dict(field=field), s, x, k / K)
        mean, std = posterior(x, noise, k, K)
        return mean, jnp.maximum(std, least)

    def chained(params, s, chain):
        """log N(x_{k-1}; μ_k, σ_k²) [..., K'] of a chain [..., K' + 1, d], and the Gaussians."""
        k = jnp.broadcast_to(jnp.arange(tuned, 0, -1), (*chain.shape[:-2], tuned))
        s = jnp.broadcast_to(s[..., None, :], (*k.shape, s.shape[-1]))
        mean, std = gaussian(params["field"], s, chain[..., :-1, :], k)
        return norm.logpdf(chain[..., 1:, :], mean, std[..., None]).sum(-1), mean, std

    def draw(key, shape):
        return flat(jax.random.normal, key, (*shape, K + 1, d))

    def act(params, obs, start, memory, key):
        s, z = sight(obs, start), draw(key, start.shape) if is_key(key) else key
        z = jnp.zeros((*start.shape, K + 1, d)) if z is None else z

        def denoise(field, x, ks):
            def one(x, k):
                mean, std = gaussian(field, s, x, jnp.full(start.shape, k))
                x = mean + std[..., None] * z[..., k - 1, :]
                return x, x

            return jax.lax.scan(one, x, ks)

        x, _ = denoise(params["base"], z[..., K, :], jnp.arange(K, tuned, -1))
        a, path = denoise(params["field"], x, jnp.arange(tuned, 0, -1))
        chain = jnp.concatenate([x[..., None, :], jnp.moveaxis(path, 0, -2)], -2)
        log_prob, mean, _ = chained(params, s, chain)
        record = dict(raw=a, chain=chain, log_prob=log_prob, mean=mean)
        return a, record, nets.value(params, obs, start), memory

    def judge(params, old_params, b, key):
        log_prob, mean, std = chained(params, sight(b.obs, b.start), b.record["chain"])
        kl = jnp.square((mean - b.old["mean"]) / std[..., None]).sum((-1, -2)) / 2
        return View(
            log_ratio=(log_prob - b.old["log_prob"]).sum(-1),  # of the chain
            log_prob=log_prob.sum(-1),
            value=nets.value(params, b.obs, b.start),
            entropy=lambda: jnp.zeros_like(kl),
            kl=lambda: kl,
            reverse_kl=lambda: kl,
            record=b.record | dict(log_prob=log_prob, mean=mean),
        )

    return Policy(init, lambda n: (), act, judge, lambda key, steps, n: draw(key, (steps, n)))


# ---- cloning, then fine-tuning ---------------------------------------------------------------


@hyper
class FineTuned(OnPolicy):
    """What is trained on policy after it was cloned from the world's recorded data."""

    normalise_obs: bool = arg(False, "observations by their running mean and deviation")
    clone_steps: int = arg(
        2000, "gradient steps of cloning, before the first iteration", "[0, inf)"
    )
    clone_lr: float = arg(1e-3, "their Adam's step size", "[0, inf)")
    clone_batch: int = arg(128, "transitions of each", "[1, inf)")

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        small = super().smallest()
        own = dict(run=dict(env="random/Pendulum-v1"), env_params=dict(rows=24, max_steps=8))
        return small | own | dict(hyper=small["hyper"] | dict(clone_steps=4, clone_batch=8))


def cloned(algo: Algo, loss: Callable, finish: Callable = lambda params: params) -> Algo:
    """It, whose first iteration begins with `clone_steps` of cloning what is recorded in its world.
    InputError for a world without data, unless there are none.

    Args:
      loss: (params, Transitions, key, hp) -> scalar.
      finish: the clone's params -> those that are trained on.
    """

    def clone(s, hp, world):
        opt = optax.adam(hp.clone_lr)
        key, k = jax.random.split(s.key)

        def one(carry, k):
            k_draw, k = jax.random.split(k)
            params, state = carry
            b = drawn(recorded(world), (), k_draw, hp.clone_batch, hp)
            updates, state = opt.update(jax.grad(loss)(params, b, k, hp), state)
            return (optax.apply_updates(params, updates), state), None

        carry = s.params, opt.init(s.params)
        (params, _), _ = jax.lax.scan(one, carry, jax.random.split(k, hp.clone_steps))
        return s.replace(params=finish(params), key=key)

    def step(s, t, hp, world):
        if hp.clone_steps:
            s = jax.lax.cond(t == 0, lambda s: clone(s, hp, world), lambda s: s, s)
        return algo.step(s, t, hp, world)

    return algo._replace(step=step)
