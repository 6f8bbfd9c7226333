"""A token task in the tokens of a language model: each of the task's symbols is one of its pieces.

What the policy says besides these ends the completion, and is wrong.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.tokens.base import BLANK, MARKS, Task
from jaxrl.errors import InputError


class State(struct.PyTreeNode):
    """A completion as far as it is written."""

    tokens: jax.Array  # [P + L] the model's
    inner: Any  # the task's own state
    other: jax.Array  # bool: something was said that is no symbol

    @property
    def number(self):
        return self.inner.number

    @property
    def at(self):
        return self.inner.at

    @property
    def over(self):
        return self.inner.over | self.other


@struct.dataclass
class Spoken:
    """`task`, read and written in pieces of a vocabulary: see `envs.tokens.base.Task`."""

    task: Task
    pieces: jax.Array  # [symbols] the piece of each
    symbol: jax.Array  # [vocabulary] the symbol of each piece, -1 for what is none
    start: Any = ()  # the model's parameters
    blank: int = struct.field(pytree_node=False, default=0)  # the piece that nothing sees
    starts: bool = struct.field(pytree_node=False, default=True)
    COUNTABLE = False

    @property
    def vocabulary(self) -> int:
        return len(self.symbol)

    @property
    def wished(self):
        wished = self.task.wished
        return wished and (lambda state: wished(state.inner))

    # what the task itself says

    name = property(lambda self: self.task.name)
    P = property(lambda self: self.task.P)
    L = property(lambda self: self.task.L)
    window = property(lambda self: self.task.window)
    max_steps = property(lambda self: self.task.max_steps)
    count = property(lambda self: self.task.count)
    prompts = property(lambda self: self.task.prompts)

    observation_space, action_space = Task.observation_space, Task.action_space

    def examined(self):
        return self.replace(task=self.task.examined())  # type: ignore[attr-defined]

    def mine(self, state):
        return self.task.mine(state.inner)

    def score(self, state):
        return jnp.where(state.other, 0.0, self.task.score(state.inner))

    def begin(self, j):
        inner = self.task.begin(j)
        return State(self.pieces[inner.tokens], inner, jnp.bool_(False))

    def place(self, state, action):
        symbol, over = self.symbol[action], state.over
        other = self.mine(state) & (symbol < 0) & ~over
        inner = self.task.place(state.inner, jnp.maximum(symbol, 0))
        inner = jax.tree.map(lambda new, old: jnp.where(over, old, new), inner, state.inner)
        token = jnp.where(other, action, self.pieces[inner.tokens[inner.at]])
        put = state.tokens.at[inner.at].set(jnp.where(over, state.tokens[inner.at], token))
        return State(put, inner, state.other | other)

    see = Task.see
    reset = Task.reset
    step = Task.step

    def text(self, tokens: Any) -> str:
        """Tokens as a person reads them, without BLANK; ? for what is no symbol."""
        own = (int(self.symbol[int(i)]) for i in tokens if i != self.blank)
        return "".join(self.task.symbols[i] if i >= 0 else "?" for i in own)


def spoken(task: Any, reader: Any, start: Any) -> Any:
    """A task in a language model's tokens, beginning with its parameters.

    Args:
      reader: how the model reads (`jaxrl.models.Reader`).

    Raises:
      InputError: there are no prompts, or two of the task's symbols are the same piece, or none.
    """
    if hasattr(task, "unread"):
        return task.read_by(reader, start)
    if not hasattr(task, "place"):
        raise InputError(f"model: {task.name} has no prompts; this needs tokens/... or text")
    own = [reader.piece(sign) for sign in task.symbols[len(MARKS) :]]
    if reader.end in own or len(set(own)) < len(own):
        raise InputError(f"model: {reader.name} has one piece for several of {task.symbols!r}")
    pieces = [reader.blank(own), reader.end, *own]
    codes = jnp.array(pieces, jnp.int32)
    symbol = jnp.full(reader.size, -1).at[codes].set(jnp.arange(len(pieces)))
    return Spoken(task, codes, symbol, start, pieces[BLANK])
