"""What every adapter does to states that it didn't design."""

import contextlib
import functools
import importlib
import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.errors import InputError, did_you_mean


def cast(x: Any, dtype: Any) -> Any:
    """Of that type and not weakly so. A random key stays as it is."""
    return (
        x if jnp.issubdtype(dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(x, dtype)
    )


def _wider(x: Any, y: Any) -> Any:
    """The type that holds both. (A key promotes with nothing.)"""
    x, y = jnp.result_type(x), y.dtype
    return x if x == y else jnp.promote_types(x, y)


def settle(state: Any, after: Any) -> Any:
    """A fresh state with the types that it has `after` a step (shapes), so that a scan carries it.

    Upstream resets hold Python numbers and weak types where steps hold arrays: 0 becomes 0.25.
    """
    return jax.tree.map(lambda x, y: cast(x, _wider(x, y)), state, after)


def like(state: Any, before: Any) -> Any:
    """A stepped state with the types it had before."""
    return jax.tree.map(lambda x, y: cast(x, y.dtype), state, before)


def scalar(x: Any, dtype=jnp.float32) -> jax.Array:
    """A reward or a flag, () whatever upstream's shape (1,) or Python number."""
    return jnp.asarray(x, dtype).reshape(())


@contextlib.contextmanager
def quiet():
    """Brax and mujoco print and warn at import, from C too: what jaxrl prints must stay its own."""
    sys.stdout.flush(), sys.stderr.flush()
    saved = [(fd, os.dup(fd)) for fd in (1, 2)]
    try:
        with open(os.devnull, "w") as null, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for fd, _ in saved:
                os.dup2(null.fileno(), fd)
            yield
            sys.stdout.flush(), sys.stderr.flush()
    finally:
        for fd, copy in saved:
            os.dup2(copy, fd)
            os.close(copy)


class Later(types.ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def put_off(*names: str):
    """What is imported meanwhile gets a `Later` for these modules, unless they are there already:
    for those that a library imports at once and needs only to draw."""
    missing = {name: Later(name) for name in names if name not in sys.modules}
    sys.modules.update(missing)
    try:
        yield
    finally:
        for name, later in missing.items():
            if sys.modules.get(name) is later:
                del sys.modules[name]


def scaled(model: Any, physics: dict[str, jax.Array], places: dict[str, str]) -> Any:
    """A physics model (brax's system, mjx's model) with each named part times its scale."""
    for name, scale in physics.items():
        path = places[name].split(".")
        model = model.tree_replace({places[name]: functools.reduce(getattr, path, model) * scale})
    return model


def number(name: str, value: Any, default: Any) -> jax.Array:
    """A parameter as a leaf: float32, int32 or bool, and of a shape, as its default is."""
    kind = np.asarray(default).dtype.kind
    dtype = {"f": jnp.float32, "i": jnp.int32, "u": jnp.int32, "b": jnp.bool_}[kind]
    try:
        x = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}: {value!r} is not a number") from None
    if x.shape != np.shape(default):
        raise InputError(f"{name}: {value!r} has shape {x.shape} instead of {np.shape(default)}")
    if not np.isfinite(x).all():
        raise InputError(f"{name}: {value!r} is not finite")
    if kind != "f" and (x != x.astype(dtype)).any():
        raise InputError(
            f"{name}: {value!r} is not {'true or false' if kind == 'b' else 'an integer'}"
        )
    with jax.ensure_compile_time_eval():
        return jax.device_put(x.astype(dtype))


def physics(name: str, params: dict, defaults: dict, *others: str) -> dict[str, jax.Array]:
    """Every parameter of `defaults` as a leaf, taken out of the parameters, of which none may be
    left. others: those that were taken out before, besides `max_steps`."""
    leaves = {k: number(k, params.pop(k, v), v) for k, v in defaults.items()}
    for k in params:
        raise did_you_mean(f"{name} parameter", k, [*defaults, *others, "max_steps"])
    return leaves


def whole(params: dict, name: str, default: int, low: int, high: int) -> int:
    """A whole number within [low, high], taken out of the parameters."""
    x = params.pop(name, default)
    if not isinstance(x, int) or isinstance(x, bool) or not low <= x <= high:
        raise InputError(f"{name}: {x!r} is outside [{low}, {high}]")
    return x


def time_limit(params: dict, default: int) -> int:
    """`max_steps`, taken out of the parameters."""
    limit = params.pop("max_steps", default)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InputError(f"max_steps: {limit!r} is outside [1, inf)")
    return limit


class Shapes(NamedTuple):
    obs: int
    action: int
    after: Any  # the state after a step


def shapes(env: Any, keep: Callable, step: Callable) -> Shapes:
    """Of a physics environment, without running it. keep: what the dynamics read of its state."""
    size = int(env.action_size)

    def once(key):
        s = env.reset(key)
        return s.obs, keep(step(env, keep(s), jnp.zeros(size)))

    obs, after = jax.eval_shape(once, jax.random.key(0))
    return Shapes(obs.shape[-1], size, after)
