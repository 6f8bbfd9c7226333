"""Strings to be sorted, counted and closed."""

import jax
import jax.numpy as jnp
from flax import struct

from envs.tokens.base import (
    BLANK,
    END,
    MARKS,
    SPACE,
    ZERO,
    Problem,
    Task,
    drawn,
    ended,
    numbered,
    shifted,
    up_to,
)


@struct.dataclass
class Sort(Task):
    """52914= to 12459. : 2 to `length` digits, in order."""

    length: int = struct.field(pytree_node=False, default=8)
    SYMBOLS = "0123456789="
    SIZES = {"length": (5, 16)}

    @property
    def P(self):
        return self.length + 1

    @property
    def L(self):
        return self.length + 1

    def problem(self, i, difficulty):
        k_count, k_digit = jax.random.split(drawn(i))
        count = jax.random.randint(k_count, (), 2, up_to(self.length, difficulty, 2) + 1)
        tokens = ZERO + jax.random.randint(k_digit, (self.length,), 0, 10)
        there = jnp.arange(self.length) < count
        prompt = jnp.append(jnp.where(there, tokens, BLANK), self.codes("="))
        in_order = jnp.sort(jnp.where(there, tokens, len(self.symbols)))
        return Problem(shifted(prompt, right=True), ended(in_order, count))


@struct.dataclass
class Parity(Task):
    """01101= to 01001. : 1 to `length` bits; after each, whether the ones so far are odd. Only the
    bit before END is scored."""

    length: int = struct.field(pytree_node=False, default=10)
    SYMBOLS = "01="
    SIZES = {"length": (4, 16)}

    @property
    def P(self):
        return self.length + 1

    @property
    def L(self):
        return self.length + 1

    @property
    def space(self):
        return min(2 ** (self.length + 1) - 2, SPACE)

    def problem(self, i, difficulty):
        # 10, 11, 100, 101 ...: all strings of bits, after a 1
        limit = 2 ** (up_to(self.length, difficulty) + 1) - 2
        number = 2 + numbered(i, 2 ** (self.length + 1) - 2, limit)
        t = jnp.arange(self.length)
        count = (number >= 2 ** (t + 1)).sum()
        bits = jnp.where(t < count, number >> jnp.maximum(count - 1 - t, 0) & 1, 0)
        prompt = jnp.append(jnp.where(t < count, bits + ZERO, BLANK), self.codes("="))
        odd = bits.cumsum() % 2 + ZERO
        return Problem(shifted(prompt, right=True), ended(odd, count), odd[count - 1][None])

    def score(self, state):
        return self.says(state, state.data)


FIRST = len(MARKS)  # the first bracket: those that open are even from it, and close with the next


@struct.dataclass
class Brackets(Task):
    """([]{ to }). : 1 to `length` brackets of which some are open; what closes them. The solution
    is the shortest, but all are right that leave none open, in their order, and end."""

    length: int = struct.field(pytree_node=False, default=10)
    SYMBOLS = "()[]{}"
    SIZES = {"length": (8, 16)}

    @property
    def P(self):
        return self.length

    @property
    def L(self):
        return self.length + 1

    def problem(self, i, difficulty):
        k_count, k_kind, k_open = jax.random.split(drawn(i), 3)
        count = jax.random.randint(k_count, (), 1, up_to(self.length, difficulty) + 1)
        kinds = jax.random.randint(k_kind, (self.length,), 0, len(self.SYMBOLS) // 2)
        wishes = jax.random.bernoulli(k_open, 0.6, (self.length,))
        t = jnp.arange(self.length)

        def write(carry, x):
            stack, depth = carry  # what closes those that are open
            t, kind, wish = x
            opens = wish | (depth == 0) | ((depth == 1) & (t == count - 1))
            opening = FIRST + 2 * kind
            token = jnp.where(opens, opening, stack[depth - 1])
            pushed = stack.at[depth].set(jnp.where(opens, opening + 1, stack[depth]))
            new = pushed, depth + jnp.where(opens, 1, -1)
            carry = jax.tree.map(lambda old, x: jnp.where(t < count, x, old), carry, new)
            return carry, jnp.where(t < count, token, BLANK)

        begun = jnp.zeros(self.length, jnp.int32), jnp.int32(0)
        (stack, depth), tokens = jax.lax.scan(write, begun, (t, kinds, wishes))
        closing = stack[jnp.maximum(depth - 1 - t, 0)]
        return Problem(shifted(tokens, right=True), ended(closing, depth))

    def score(self, state):
        def read(carry, x):
            stack, depth, good, over = carry
            t, token = x
            opens = (token >= FIRST) & ((token - FIRST) % 2 == 0)
            closes = (depth > 0) & (token == stack[depth - 1])
            ends = (token == END) & (depth == 0)
            new = (
                stack.at[depth].set(jnp.where(opens, token + 1, stack[depth])),
                depth + opens - closes,
                good & (opens | closes | ends),
                ends,
            )
            skipped = over | ((t < self.P) & (token == BLANK))
            return jax.tree.map(lambda old, x: jnp.where(skipped, old, x), carry, new), None

        none = jnp.zeros(self.window, jnp.int32)
        begun = none, jnp.int32(0), jnp.bool_(True), jnp.bool_(False)
        read_ = jax.lax.scan(read, begun, (jnp.arange(self.window), state.tokens))[0]
        return (read_[2] & read_[3]).astype(jnp.float32)
