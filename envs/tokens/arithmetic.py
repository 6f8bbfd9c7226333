"""Sums, products and chains, their digits as tokens."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.tokens.base import (
    BLANK,
    END,
    SPACE,
    ZERO,
    Problem,
    Task,
    drawn,
    ended,
    hashed,
    shifted,
    up_to,
)


def digits_of(x: jax.Array, n: int) -> jax.Array:
    """The last n digits of a number, the last first."""
    return x // 10 ** jnp.arange(n) % 10


def terms(i: jax.Array, n: int, difficulty: jax.Array) -> jax.Array:
    """Two numbers of n digits at most: all pairs, where there are few enough."""
    limit = jnp.round(10 ** (n * difficulty)).astype(jnp.int32)
    if 100**n <= SPACE:
        return jnp.stack(jnp.divmod(i, 10**n)) * limit // 10**n
    return jax.random.randint(drawn(i), (2,), 0, limit)


def written(x: jax.Array, n: int) -> jax.Array:
    """The tokens of a number's n digits, the last first."""
    return digits_of(x, n) + ZERO


@struct.dataclass
class Add(Task):
    """12+34= to 64. : the sum has a digit more than its terms, and is written last digit first."""

    digits: int = struct.field(pytree_node=False, default=2)
    SYMBOLS = "0123456789+="
    SIZES = {"digits": (1, 4)}

    @property
    def P(self):
        return 2 * self.digits + 2

    @property
    def L(self):
        return self.digits + 2

    @property
    def space(self):
        return min(100**self.digits, SPACE)

    def problem(self, i, difficulty):
        n, (a, b) = self.digits, terms(i, self.digits, difficulty)
        number = lambda x: written(x, n)[::-1]
        prompt = jnp.concatenate([number(a), self.codes("+"), number(b), self.codes("=")])
        return Problem(prompt, jnp.append(written(a + b, n + 1), END))


@struct.dataclass
class Mul(Task):
    """12*34= to 840+0630:8040. : the product by each digit of the second number, its last first,
    and after the colon their sum, all written last digit first. Only what stands after the last
    colon is scored, with all of its 2 * `digits` digits; :8040. is right too."""

    digits: int = struct.field(pytree_node=False, default=2)
    SYMBOLS = "0123456789*=+:"
    SIZES = {"digits": (1, 3)}

    @property
    def P(self):
        return 2 * self.digits + 2

    @property
    def L(self):
        n = self.digits
        return n * (n + 1) + n * (n - 1) // 2 + n + 2 * n + 1

    @property
    def space(self):
        return min(100**self.digits, SPACE)

    def problem(self, i, difficulty):
        n, (a, b) = self.digits, terms(i, self.digits, difficulty)
        number = lambda x: written(x, n)[::-1]
        prompt = jnp.concatenate([number(a), self.codes("*"), number(b), self.codes("=")])
        work = []
        for j, digit in enumerate(digits_of(b, n)):
            work += [self.codes("+" * (j > 0) + "0" * j), written(a * digit, n + 1)]
        answer = jnp.concatenate([self.codes(":"), written(a * b, 2 * n)])
        return Problem(prompt, jnp.concatenate([*work, answer, jnp.array([END])]), answer)

    def score(self, state):
        return self.says(state, state.data)


def applied(sign: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """a + b, a - b or a * b, for the signs 0, 1 and 2."""
    return jnp.stack([a + b, a - b, a * b])[sign]


@struct.dataclass
class Chain(Task):
    """7+5*3-8= to 268. : 1 to `length` operations modulo 10, one after the other from the left, and
    what stands after each of them. Only the digit before END is scored."""

    length: int = struct.field(pytree_node=False, default=6)
    SYMBOLS = "0123456789+-*="
    SIZES = {"length": (3, 16)}

    @property
    def P(self):
        return 2 * self.length + 2

    @property
    def L(self):
        return self.length + 1

    def problem(self, i, difficulty):
        k_count, k_digit, k_sign = jax.random.split(drawn(i), 3)
        count = jax.random.randint(k_count, (), 1, up_to(self.length, difficulty) + 1)
        digits = jax.random.randint(k_digit, (self.length + 1,), 0, 10)
        signs = jax.random.randint(k_sign, (self.length,), 0, 3)
        after: Any = lambda x, y: (applied(y[0], x, y[1]) % 10,) * 2
        _, results = jax.lax.scan(after, digits[0], (signs, digits[1:]))
        tail = jnp.stack([self.codes("+-*")[signs], digits[1:] + ZERO], 1)
        tail = jnp.where(jnp.arange(self.length)[:, None] < count, tail, BLANK).ravel()
        prompt = jnp.concatenate([digits[:1] + ZERO, tail, self.codes("=")])
        results += ZERO
        return Problem(shifted(prompt, right=True), ended(results, count), results[count - 1][None])

    def score(self, state):
        return self.says(state, state.data)


@struct.dataclass
class Wish(Chain):
    """7+5*3-8:3= to 28. : a chain, and how many tokens one wishes for, END among them. What is
    scored is a chain's last digit, whatever the length: to keep to the wish is for methods to
    learn. Solutions know nothing of it. They are as long as chance has it, leave out work or repeat
    the last result; so a policy that is fitted to them writes all lengths."""

    SYMBOLS = Chain.SYMBOLS + ":"
    SIZES = {"length": (3, 8)}  # a wish is one digit

    @property
    def P(self):
        return 2 * self.length + 4

    def problem(self, i, difficulty):
        chain = super().problem(i, difficulty)
        equals = super().P - 1
        # a chain has one wish, so that it is on one side of the split
        wish = 2 + (hashed(chain.prompt) % (self.L - 1)).astype(jnp.int32)
        tail = jnp.stack([*self.codes(":"), wish + ZERO, *self.codes("=")])
        prompt = jnp.concatenate([chain.prompt[:equals], tail])
        n = jax.random.randint(jax.random.fold_in(drawn(i), 1), (), 1, self.length + 1)
        t, answer = jnp.arange(self.length), chain.data
        work = jnp.where(chain.solution[:-1] > END, chain.solution[:-1], answer)
        return Problem(prompt, ended(jnp.where(t < n - 1, work, answer), n), (answer, wish))

    def score(self, state):
        return self.says(state, state.data[0])

    def wished(self, state):
        return state.data[1]
