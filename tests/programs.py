"""What would be compiled operation by operation, as one program: where `jax.jit` cannot be asked,
since some of what a function takes is no array."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def at_once(f: Callable) -> Callable:
    """`f` as one program of its arrays; all else that it is given is a part of the program. It is
    made anew at each call, so that what a test patches between two counts."""

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        given = [isinstance(x, jax.Array) for x in leaves]

        @jax.jit
        def program(arrays):
            left = iter(arrays)
            a, k = jax.tree.unflatten(tree, [next(left) if g else x for g, x in zip(given, leaves)])
            return f(*a, **k)

        return program([x for g, x in zip(given, leaves) if g])

    return call
