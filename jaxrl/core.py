"""The engine: what an algorithm is, and the one training loop.

An algorithm is four pure functions. `step` hides how data comes (a rollout, a replay buffer, a
dataset, an exact solve), which is all in which families differ: seeds, sweeps, evaluation,
checkpoints, logging and reports are written once, over `Algo`.

    hp     hyperparameters (`jaxrl.hyper`): an argument everywhere, captured nowhere
    world  where data comes from (environment, dataset, MDP): a pytree, an argument too
    state  one pytree of arrays with everything that changes, keys included
    t      the iteration, never batched, so that schedules and warm-ups stay a `cond`
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrl.types import Batch, Key, Params


class Algo(NamedTuple):
    init: Callable[..., Any]  # (key, hp, world) -> state
    step: Callable[..., Any]  # (state, t, hp, world) -> (state, metrics): get data, then learn
    act: Callable[..., Any]  # (state, obs, memory, key, hp) -> (action, memory); key None: the mode
    memory: Callable[..., Any] = lambda n: ()  # (n) -> memory at the start of n episodes
    # (state, key, hp, world) -> numbers by name that a run's start and end are told by; None: none
    examine: Callable[..., dict[str, Any]] | None = None
    # (state, key, hp, world) -> what an iteration would learn from, to be shown; None: no such
    trace: Callable[..., Any] | None = None


class Part(NamedTuple):
    """A stateful seam of a family, in the manner of optax: it owns a slot of the state."""

    init: Callable[..., Any]  # (key, state, hp, world) -> slot
    apply: Callable[..., Any]  # (slot, state, batch, t, hp, world) -> (slot, out)


class View(NamedTuple):
    """What a loss may ask about a batch under some parameters, per sample."""

    log_ratio: jax.Array  # log π(a|s) - log π_old(a|s), or what stands for it
    log_prob: jax.Array
    value: jax.Array  # [...], or [..., K]
    entropy: Callable[[], jax.Array]  # computed only if asked
    kl: Callable[[], jax.Array]  # KL(π_old || π) at each state, computed only if asked
    reverse_kl: Callable[[], jax.Array]  # KL(π || π_old), likewise
    record: Any  # what `act` would have recorded under these parameters
    logits: Any = None  # of tokens [M, L, V], at the temperature


class Policy(NamedTuple):
    init: Callable[..., Params]  # (key, obs [N, ...]) -> params
    memory: Callable[[int], Any]  # (n) -> memory at the start of n episodes; () if none
    act: Callable[..., Any]  # (params, obs, start, memory, key) -> (action, record, value, memory)
    judge: Callable[[Params, Params, Batch, Key], View]  # (params, old params, batch, key) -> View
    # (key, steps, n) -> what `act` of n takes for a key, [steps, ...]
    draw: Callable[[Key, int, int], Any] = lambda key, steps, n: jax.random.split(key, steps)


class Learner(NamedTuple):
    """A method that learns from transitions, wherever they come from: a replay buffer, a dataset.

    `t` is the iteration and `i` the gradient step, as if every iteration took all its updates, from
    0 on: neither is ever batched.
    """

    init: Callable[..., Params]  # (key, obs [N, ...], hp) -> params, its targets among them
    opt: Callable[..., Any]  # (params, hp) -> the optimisers' states
    update: Callable[..., Any]  # (params, opt, Transitions, key, t, i, hp) -> (params, opt, stats)
    # (params, obs [N, ...], memory, key, t, hp) -> (action, memory); key None: the mode
    act: Callable[..., Any]
    memory: Callable[[int], Any] = lambda n: ()  # (n) -> memory at the start of n episodes


def train(algo: Algo, key: Key, hp: Any, world: Any, n: int) -> tuple[Any, dict]:
    """A whole run of n iterations. jit it; vmap it over keys, over any float of hp, over worlds.

    Returns the final state and the metrics, each stacked over iterations.
    """
    hp = hp.replace(horizon=jnp.float32(n))
    return resume(algo, algo.init(key, hp, world), 0, hp, world, n)


def resume(algo: Algo, state: Any, t: int | jax.Array, hp: Any, world: Any, n: int):
    """n more iterations of a run that has done t; `hp.horizon` is the length of the whole run."""
    return jax.lax.scan(lambda s, i: algo.step(s, i, hp, world), state, t + jnp.arange(n))
