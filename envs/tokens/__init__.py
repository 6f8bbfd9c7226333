"""Token tasks: a prompt, a completion, and a verifier that is exact. Everything on the accelerator.

    add         two numbers of `digits` digits; their sum, last digit first
    tiny        a symbol; two symbols of which every pair has its own known reward: all completions
                can be counted, so that the exact optimum, gradient and KL can be computed

How an episode goes stands in `envs.tokens.base`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.adapters.common import physics, whole
from envs.tokens.arithmetic import Add
from envs.tokens.base import HELD_OUT, Task, hashed
from envs.tokens.tiny import Tiny
from jaxrl.errors import InputError

TASKS = {"add": Add, "tiny": Tiny}


def make(name: str, **params: Any) -> Task:
    """A token task by name, and its parameters: `difficulty`, and what sets its window."""
    kind = TASKS[name.removeprefix("tokens/")]
    counts = {
        k: whole(params, k, kind.__dataclass_fields__[k].default, *kind.SIZES[k])
        for k in kind.SIZES
    }
    counts["starts"] = bool(whole(params, "start", int(kind.SPLIT), 0, 1))
    leaves = physics(name, params, dict(difficulty=1.0), *kind.SIZES, "start")
    if not 0 < leaves["difficulty"] <= 1:
        raise InputError(f"difficulty: {leaves['difficulty']:g} is outside (0, 1]")
    difficulty = jnp.float32(leaves["difficulty"])
    none = jnp.zeros(0, jnp.int32)
    task = kind(name, none, jnp.int32(0), jnp.int32(0), 0, difficulty, **counts)
    numbers = jnp.arange(task.space)
    prompts = jax.jit(jax.vmap(lambda i: task.problem(i, difficulty).prompt))(numbers)
    held = (np.asarray(hashed(prompts)) < HELD_OUT * 2.0**32) & kind.SPLIT
    order = np.concatenate([np.flatnonzero(~held), np.flatnonzero(held)])
    learned = int((~held).sum())
    return task.replace(
        order=jnp.asarray(order, jnp.int32), count=jnp.int32(learned), prompts=learned
    )
