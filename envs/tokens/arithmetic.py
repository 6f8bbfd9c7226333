"""Sums, their digits as tokens."""

import jax
import jax.numpy as jnp
from flax import struct

from envs.tokens.base import END, SPACE, Problem, Task, drawn


def digits_of(x: jax.Array, n: int) -> jax.Array:
    """The last n digits of a number, the last first."""
    return x // 10 ** jnp.arange(n) % 10


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
        n, limit = self.digits, jnp.round(10 ** (self.digits * difficulty)).astype(jnp.int32)
        if 100**n <= SPACE:
            a, b = jnp.stack(jnp.divmod(i, 10**n)) * limit // 10**n
        else:
            a, b = jax.random.randint(drawn(i), (2,), 0, limit)
        number = lambda x: digits_of(x, n)[::-1] + self.symbols.index("0")
        sign = lambda c: jnp.array([self.symbols.index(c)])
        prompt = jnp.concatenate([number(a), sign("+"), number(b), sign("=")])
        total = digits_of(a + b, n + 1) + self.symbols.index("0")
        return Problem(prompt, jnp.append(total, END))
