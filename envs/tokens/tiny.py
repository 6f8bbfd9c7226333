"""A task so small that all of its completions can be counted."""

import jax
import jax.numpy as jnp
from flax import struct

from envs.tokens.base import MARKS, Problem, Task, hashed


@struct.dataclass
class Tiny(Task):
    """a to any two symbols: the reward of each pair after each prompt is a number between 0 and 1,
    a hash of all three, and 1 for one pair of each prompt. There is no END. Nothing is held out:
    what is learned of one prompt says nothing of another."""

    SYMBOLS = "abcdef"
    SPLIT, COUNTABLE = False, True
    P, L = property(lambda self: 1), property(lambda self: 2)

    @property
    def space(self):
        return len(self.SYMBOLS)

    def rewards(self, prompt: jax.Array) -> jax.Array:
        """Of every completion of a prompt's token, [V, V]."""
        V = len(self.symbols)
        pairs = jnp.stack(jnp.meshgrid(*[jnp.arange(V)] * 2, indexing="ij"), -1)
        all_ = jnp.concatenate([jnp.full((V, V, 1), prompt), pairs], -1)
        u = hashed(all_) / 2.0**32
        return jnp.where(u >= u.max(), 1.0, 0.9 * u)

    def problem(self, i, difficulty):
        token = i + len(MARKS)
        best = self.rewards(token).reshape(-1).argmax()
        return Problem(token[None], jnp.stack(jnp.divmod(best, len(self.symbols))), token)

    def ends(self, state, token):
        return jnp.bool_(False)

    def score(self, state):
        return self.rewards(state.data)[state.tokens[-2], state.tokens[-1]]
