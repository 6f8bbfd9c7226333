"""Token tasks: a prompt, a completion, and a verifier that is exact. Everything on the accelerator.

    add         two numbers of `digits` digits; their sum, last digit first
    mul         their product, the scratch work before it
    chain       up to `length` operations modulo 10, from the left; each result, of which the last
    wish        a chain, and a length that is wished for, which scores do not know
    countdown   `numbers` and a target; an expression of some of them that gives it
    sort        up to `length` digits; the same in order
    parity      up to `length` bits; after each whether the ones are odd, of which the last
    brackets    up to `length` brackets, some open; what closes them
    maze        a maze of `size` * `size` cells; a walk from its start to its goal
    turns       a board of `size` * `size` cells; a walk to its goal, a move a turn, and after each
                what the world answers, as moves may fail
    tiny        a symbol; two symbols of which every pair has its own known reward: all completions
                can be counted, so that the exact optimum, gradient and KL can be computed

How an episode goes stands in `envs.tokens.base`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from envs.adapters.common import physics, whole
from envs.tokens.arithmetic import Add, Chain, Mul, Wish
from envs.tokens.base import Task, split
from envs.tokens.countdown import Countdown
from envs.tokens.paths import Maze, Turns
from envs.tokens.puzzles import Brackets, Parity, Sort
from envs.tokens.tiny import Tiny
from jaxrl.errors import InputError

TASKS = {
    "add": Add,
    "mul": Mul,
    "chain": Chain,
    "wish": Wish,
    "countdown": Countdown,
    "sort": Sort,
    "parity": Parity,
    "brackets": Brackets,
    "maze": Maze,
    "turns": Turns,
    "tiny": Tiny,
}


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
    order, learned = split(prompts) if kind.SPLIT else (numbers, task.space)
    if kind.SPLIT and learned in (0, task.space):
        few = "too few problems: none is left to learn from or to hold out"
        raise InputError(f"difficulty: {leaves['difficulty']:g} gives {few}")
    return task.replace(
        order=jnp.asarray(order, jnp.int32), count=jnp.int32(learned), prompts=learned
    )
