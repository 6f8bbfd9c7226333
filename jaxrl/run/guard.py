"""What ends a run before its time: a NaN, a signal."""

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxrl.core import Algo
from jaxrl.run.signals import handled

TOGETHER = 1.0  # seconds


class Guarded(struct.PyTreeNode):
    """An algorithm's state, and whether nothing in it was ever lost to NaN or infinity."""

    inner: Any
    finite: jax.Array  # () bool


def watched(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics that have to be finite: losses, and returns where an episode finished."""
    out = {k: v for k, v in metrics.items() if k.endswith("loss") or k == "grad_norm"}
    if "episode_return" in metrics:
        none = metrics.get("episodes", 1) == 0  # a return that is computed always is one
        out["episode_return"] = jnp.where(none, 0.0, metrics["episode_return"])
    return out


def is_finite(state: Any, metrics: dict[str, Any]) -> jax.Array:
    """Whether the parameters (the whole state of an algorithm without) and the metrics are."""
    leaves = jax.tree.leaves((getattr(state, "params", state), watched(metrics)))
    floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    together = jnp.concatenate([x.ravel() for x in floats])  # one kernel, not three for each
    return jnp.isfinite(together).all()


def guarded(algo: Algo, freeze: bool) -> Algo:
    """The algorithm with a metric `finite`, which stays false once it is.

    freeze: from then on the state is the last that was finite, and metrics are NaN.
    """

    def init(key, hp, world):
        return Guarded(algo.init(key, hp, world), jnp.ones((), bool))

    def step(s, t, hp, world):
        inner, metrics = algo.step(s.inner, t, hp, world)
        finite = s.finite & is_finite(inner, metrics)
        if freeze:
            inner = jax.tree.map(lambda new, old: jnp.where(finite, new, old), inner, s.inner)
            metrics = {k: jnp.where(s.finite, v, lost(v)) for k, v in metrics.items()}
        return Guarded(inner, finite), metrics | {"finite": finite}

    def lost(x):
        return jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros((), x.dtype)

    def act(s, obs, memory, key, hp):
        return algo.act(s.inner, obs, memory, key, hp)

    def inner(f):
        return f and (lambda s, key, hp, world: f(s.inner, key, hp, world))

    return Algo(init, step, act, algo.memory, inner(algo.examine), inner(algo.trace))


class Loss(NamedTuple):
    """Where a seed was lost."""

    row: int
    iteration: int
    metric: str  # "parameters" where no metric shows it


def losses(metrics: dict[str, np.ndarray], before: int = 0) -> list[Loss]:
    """The rows that were lost in metrics [rows, iterations], and to what.

    before: iterations before the first of them.
    """
    out = []
    for row, fine in enumerate(metrics["finite"]):
        if not fine.all():
            i = int(np.argmin(fine))
            now = watched({k: v[row, i] for k, v in metrics.items()})
            names = [k for k, x in now.items() if not np.isfinite(x)]
            out.append(Loss(row, before + i + 1, names[0] if names else "parameters"))
    return out


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C, so that a run ends at the end of a chunk; a second is at once.

    Within `TOGETHER` seconds it is the same one still: a cluster tells a run and its supervisor,
    who passes it on.
    """
    caught: list[int] = []
    first = 0.0

    def catch(number, frame):
        nonlocal first
        if not caught:
            first = time.monotonic()
        elif time.monotonic() - first >= TOGETHER:
            signal.signal(number, before[number])
            signal.raise_signal(number)
        caught.append(number)

    with handled({signal.SIGTERM: catch, signal.SIGINT: catch}) as before:
        yield caught
