"""Prompts that are text, and a Python function that judges completions, for a language model.

    # mine.py, for `jaxrl train grpo --env mine:make --model FOLDER`
    from envs.text import text

    def verify(row, completion):
        return float(completion.strip() == row["answer"])

    def make():
        rows = [{"prompt": f"{a} + {b} = ", "answer": str(a + b)} for a in ... for b in ...]
        return text("sums", rows, "mine:verify", tokens=8)

All is as in other token tasks (`envs.tokens.base`), one of five prompts held out among it, but that
rewards come from the host, by one call for a batch, in processes with limits (`envs.verifier`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.spaces import Discrete
from envs.tokens.base import Problem, Task, split
from envs.verifier import Verifier
from jaxrl.errors import InputError


class Host:
    """What stays on the host: rows, the verifier, and how tokens are read."""

    def __init__(self, rows: Sequence[dict], verify: Any, decode: Callable):
        self.rows, self.verify, self.decode = rows, verify, decode

    def __call__(self, i, tokens, over):
        """Rewards [...] of completions [..., L] of rows i [...]; 0 where they are not over."""
        over, out = np.asarray(over), np.zeros(np.shape(over), np.float32)
        if which := np.flatnonzero(over).tolist():
            tokens = np.asarray(tokens).reshape(over.size, -1)
            said = [self.decode(tokens[j].tolist()) for j in which]
            rows = [self.rows[int(np.ravel(i)[j])] for j in which]
            out.ravel()[which] = self.verify(rows, said)
        return out


@struct.dataclass
class Text(Task):
    """Prompts in the tokens of a language model."""

    written: jax.Array = ()  # type: ignore[assignment]  # [rows, P], BLANK on the left
    host: Any = struct.field(pytree_node=False, default=None)
    longest: int = struct.field(pytree_node=False, default=0)
    blank: int = struct.field(pytree_node=False, default=0)
    end: int = struct.field(pytree_node=False, default=1)
    size: int = struct.field(pytree_node=False, default=0)

    P = property(lambda self: self.written.shape[1])
    L = property(lambda self: self.longest)
    vocabulary = property(lambda self: self.size)

    def problem(self, i, difficulty):
        return Problem(self.written[i], jnp.zeros(self.L, jnp.int32), i)

    def ends(self, state, token):
        return token == self.end

    def score(self, state):
        kind = jax.ShapeDtypeStruct((), jnp.float32)
        said = state.tokens[self.P :]
        args = state.data, said, state.over
        return jax.pure_callback(self.host, kind, *args, vmap_method="broadcast_all")

    def text(self, tokens):
        return self.host.decode([int(i) for i in tokens])


@struct.dataclass
class Unread:
    """Such a task before there is a model that reads it."""

    name: str = struct.field(pytree_node=False)
    rows: Sequence[dict] = struct.field(pytree_node=False)
    verify: Any = struct.field(pytree_node=False)
    longest: int = struct.field(pytree_node=False)
    unread = True
    observation_space, action_space = {}, Discrete(1)  # a model's vocabulary, when there is one
    max_steps = property(lambda self: self.longest)

    def reset(self, key):
        raise InputError(f"env: {self.name} is text; --model FOLDER says who reads it")

    step = reset

    def read_by(self, reader: Any, start: Any) -> Text:
        """The task in a model's tokens (`jaxrl.models.Reader`), beginning with its parameters."""
        coded = [reader.encode(row["prompt"]) for row in self.rows]
        P, end = max(map(len, coded)), reader.end
        blank = reader.blank({t for tokens in coded for t in tokens})
        written = np.full((len(coded), P), blank, np.int32)
        for row, tokens in zip(written, coded):
            row[P - len(tokens) :] = tokens
        order, count = split(jnp.asarray(written))
        if count in (0, len(order)):
            raise InputError(f"env: {self.name}: {len(order)} prompts are too few to hold some out")

        def read(tokens):
            ends = tokens.index(end) if end in tokens else len(tokens)
            return reader.decode([t for t in tokens[:ends] if t != blank])

        return Text(
            self.name,
            jnp.asarray(order, jnp.int32),
            jnp.int32(0),
            jnp.int32(count),
            count,
            jnp.float32(1.0),
            start,
            True,
            jnp.asarray(written),
            Host(self.rows, self.verify, read),
            self.longest,
            blank,
            end,
            reader.size,
        )


def text(name: str, rows: Sequence[dict], verify: str, tokens: int, **limits: Any) -> Unread:
    """A task of text.

    Args:
      rows: each with its "prompt", and what else the verifier wants to know, as JSON can hold it.
      verify: "module:function", (row, completion) -> a number.
      tokens: of a completion, at most.
      limits: of `envs.verifier.Verifier`: seconds, megabytes, workers.

    Raises:
      InputError: a row has no prompt, or there is no such function.
    """
    for i, row in enumerate(rows):
        if not isinstance(row.get("prompt"), str) or not row["prompt"]:
            raise InputError(f"env: {name}: row {i} has no prompt")
    return Unread(name, tuple(rows), Verifier(verify, **limits), tokens)
