"""Hyperparameters: the type of a field says how it is traced.

    @hyper
    class PPO(OnPolicy):
        eps: float = arg(0.2, "clip range of the ratio", "(0, inf)")
        epochs: int = arg(4, "passes over each rollout", "[1, inf)")

`float`, tuples of floats, `jax.Array` and nested `@hyper` values are leaves: traced, so that one
compiled program sweeps them. Everything else is static. "Off" is 0 or inf, never None. Bounds are
metadata, checked on the host by `check`; they are not looked at under jit or vmap.
"""

import dataclasses
import types
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxrl.errors import InputError, did_you_mean


def arg(default: Any, doc: str, bounds: Any = None, words: tuple[str, ...] = ()) -> Any:
    """A field, its documentation, and what is allowed: an interval "(0, 1]" or a few choices.

    words: that its flag takes besides numbers, for whoever resolves them.
    """
    return dataclasses.field(default=default, metadata=dict(doc=doc, bounds=bounds, words=words))


def traced(kind: Any) -> bool:
    """Whether a field of this type is a leaf. TypeError for a mixture of traced and static."""
    if kind is float or kind is jax.Array or hasattr(kind, "_flax_dataclass"):
        return True
    if typing.get_origin(kind) in (tuple, typing.Union, types.UnionType):
        leaf = [traced(k) for k in typing.get_args(kind) if k is not ...]
        if any(leaf) and not all(leaf):
            raise TypeError(f"{kind}: mixes floats with what is static; off is 0 or inf, not None")
        return bool(leaf) and all(leaf)
    return False


@typing.dataclass_transform(kw_only_default=True, field_specifiers=(arg,))
def hyper(cls: type) -> type:
    """Make a class of hyperparameters: a frozen dataclass and a pytree."""
    own = cls.__dict__.get("__annotations__", {})
    inherited = {n for base in cls.__mro__[1:] for n in getattr(base, "__annotations__", {})}
    for name in set(cls.__dict__) - set(own):
        if name in inherited:
            raise TypeError(f"{cls.__name__}.{name}: overrides a field without its type; write one")
    before = getattr(cls, "__dataclass_fields__", {})
    for name, kind in own.items():
        if isinstance(kind, str):
            raise TypeError(
                f"{cls.__name__}.{name}: its type is a string; drop the __future__ import"
            )
        default = cls.__dict__.get(name, dataclasses.MISSING)
        if not isinstance(default, dataclasses.Field):
            # another default for a field keeps its documentation and bounds
            known = before[name].metadata if name in before else {}
            default = dataclasses.field(default=default, metadata=known)
        default.metadata = types.MappingProxyType({**default.metadata, "pytree_node": traced(kind)})
        setattr(cls, name, default)
    return struct.dataclass(cls, kw_only=True)


@struct.dataclass
class Linear:
    """A value that goes from `start` to `end` over the run's horizon, and stays there."""

    start: float
    end: float


def at(x: float | Linear, t: jax.Array, hp: Any) -> jax.Array:
    """The value of a float or a schedule at iteration t of a run of `hp.horizon` iterations."""
    if not isinstance(x, Linear):
        return jnp.asarray(x)
    return x.start + (x.end - x.start) * jnp.minimum(t / hp.horizon, 1.0)


def leaves(hp: Any) -> dict[str, Any]:
    """The traced values by name: "eps", and "lr.start" within a schedule or a nested value."""
    paths = jax.tree_util.tree_flatten_with_path(hp)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in paths}


def with_leaf(hp: Any, name: str, value: Any) -> Any:
    """hp with another value of one of its `leaves`."""
    values = leaves(hp) | {name: value}
    return jax.tree.unflatten(jax.tree.structure(hp), list(values.values()))


def bounds_of(hp: Any, name: str) -> Any:
    """What is allowed of one of the `leaves`, as its `arg` says it; None for anything."""
    first, _, rest = name.partition(".")
    field = next(f for f in dataclasses.fields(hp) if f.name == first)
    inner = getattr(hp, first)
    nested = dataclasses.is_dataclass(inner) and not isinstance(inner, Linear)
    return bounds_of(inner, rest) if nested else field.metadata.get("bounds")


def cast(hp: Any) -> Any:
    """Every leaf as a float32 array: an int or a float64 would compile a second program. They are
    put there by the host, without a small program each."""
    return jax.device_put(jax.tree.map(lambda x: np.asarray(x, np.float32), hp))


def ends(interval: str) -> tuple[float, float]:
    """The ends of an interval such as "[0, 1)"."""
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def allowed(x: Any, bounds: Any) -> bool:
    """Whether a number lies in an interval such as "[0, 1)", or a value among the choices."""
    if not isinstance(bounds, str):
        return x in bounds
    low, high = ends(bounds)
    above = x > low if bounds[0] == "(" else x >= low
    return bool(above and (x < high if bounds[-1] == ")" else x <= high))


def fits(x: Any, kind: Any) -> bool:
    """Whether a value has its field's type. Numbers and arrays of numbers are floats, bools not."""
    inner, origin = typing.get_args(kind), typing.get_origin(kind)
    if kind is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(x, k) for k in inner)
    if origin is tuple:
        kinds = inner[:1] * len(x) if isinstance(x, tuple) and inner[-1:] == (...,) else inner
        return isinstance(x, tuple) and len(x) == len(kinds) and all(map(fits, x, kinds))
    if kind is float or kind is jax.Array:
        return not isinstance(x, tuple | list) and np.asarray(x).dtype.kind in "fiu"
    return isinstance(x, origin or kind) and not (kind is int and isinstance(x, bool))


def check(hp: Any) -> Any:
    """hp itself, if every field has its type and lies in its bounds and `hp.problem()` finds none.

    Raises:
      InputError: one line with the field, its value and what is allowed.
    """
    for f in dataclasses.fields(hp):
        value, bounds = getattr(hp, f.name), f.metadata.get("bounds")
        if not fits(value, f.type):
            kind = f.type.__name__ if isinstance(f.type, type) else str(f.type)
            a = "an" if kind[0] in "aeiou" else "a"
            raise InputError(f"{f.name}: {' '.join(repr(value).split())[:80]} is not {a} {kind}")
        if dataclasses.is_dataclass(value) and not isinstance(value, Linear):
            check(value)
            continue
        for x in [v for leaf in jax.tree.leaves(value) for v in np.ravel(leaf)]:
            if isinstance(x, np.floating) and np.isnan(x):
                raise InputError(f"{f.name}: nan is not a number")
            if bounds is not None and not allowed(x, bounds):
                among = (
                    f"outside {bounds}"
                    if isinstance(bounds, str)
                    else f"not one of {', '.join(bounds)}"
                )
                raise InputError(f"{f.name}: {x} is {among}")
    if message := getattr(hp, "problem", lambda: "")():
        raise InputError(message)
    return hp


def replace(hp: Any, **changes: Any) -> Any:
    """hp with other values; an unknown name is an InputError with the nearest known one."""
    known = [f.name for f in dataclasses.fields(hp)]
    for name in changes:
        if name not in known:
            raise did_you_mean(type(hp).__name__, name, known, f"it has {', '.join(known)}")
    return dataclasses.replace(hp, **changes)
