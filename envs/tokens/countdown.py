"""Numbers that are to make another one."""

import jax
import jax.numpy as jnp
from flax import struct

from envs.tokens.arithmetic import applied, digits_of
from envs.tokens.base import BLANK, END, ZERO, Problem, Task, drawn, shifted, up_to

LARGEST, TARGET = 25, 999  # of the numbers and of the target
WIDE = len(str(LARGEST))
SIGNS = "+-*"


def plainly(x: jax.Array, n: int) -> jax.Array:
    """The tokens of positive numbers [...], with BLANK for zeros in front: [..., n]."""
    digits = digits_of(x[..., None], n)
    return jnp.where(x[..., None] >= 10 ** jnp.arange(n), digits + ZERO, BLANK)[..., ::-1]


@struct.dataclass
class Countdown(Task):
    """3,7,12>33: to 7*3+12. : an expression of some of the numbers, each at most once, that gives
    the target. It is evaluated from the left to the right, without precedence: 12+7*3 is 57. Every
    one that does is right; there may be many. Numbers are written as in the prompt."""

    numbers: int = struct.field(pytree_node=False, default=3)
    SYMBOLS = "0123456789+-*,>:"
    SIZES = {"numbers": (3, 5)}

    @property
    def P(self):
        return (WIDE + 1) * self.numbers + len(str(TARGET)) + 1

    @property
    def L(self):
        return (WIDE + 1) * self.numbers

    def problem(self, i, difficulty):
        n = self.numbers
        k_number, k_order, k_count, k_sign = jax.random.split(drawn(i), 4)
        numbers = jax.random.randint(k_number, (n,), 1, up_to(LARGEST, difficulty, 2) + 1)
        terms = jax.random.permutation(k_order, numbers)
        count = jax.random.randint(k_count, (), 2, n + 1)
        signs = jax.random.randint(k_sign, (n - 1,), 0, 3)

        def after(total, x):
            t, sign, term = x
            each = jnp.stack([applied(jnp.int32(s), total, term) for s in range(3)])
            fits = (each >= 1) & (each <= TARGET)  # a sum or a difference does
            sign = jnp.where(fits[sign], sign, fits.argmax())
            return jnp.where(t < count, each[sign], total), sign

        t = jnp.arange(1, n)
        target, signs = jax.lax.scan(after, terms[0], (t, signs, terms[1:]))
        listed = jnp.concatenate(
            [plainly(numbers, WIDE), jnp.tile(self.codes(","), (n, 1))], 1
        ).ravel()
        asked = [self.codes(">"), plainly(target, len(str(TARGET))), self.codes(":")]
        prompt = jnp.concatenate([listed[:-1], *asked])
        rest = jnp.concatenate([self.codes(SIGNS)[signs][:, None], plainly(terms[1:], WIDE)], 1)
        rest = jnp.where(t[:, None] < count, rest, BLANK).ravel()
        solution = jnp.concatenate([plainly(terms[0], WIDE), rest, jnp.array([END])])
        return Problem(shifted(prompt, right=True), shifted(solution), (numbers, target))

    def score(self, state):
        numbers, target = state.data
        signs = self.codes(SIGNS)

        def read(carry, token):
            total, sign, number, left, good, over = carry
            digit, is_sign, is_end = token - ZERO, (token == signs).any(), token == END
            is_digit = (digit >= 0) & (digit < 10)
            # a number is over: it must be one of those left (0 stands for none)
            over_now, same = is_sign | is_end, left & (numbers == number)
            used = jnp.arange(len(numbers)) == same.argmax()
            fine = jnp.where(over_now, same.any(), is_digit & ((number > 0) | (digit > 0)))
            larger = jnp.minimum(10 * number + digit, 10**WIDE)
            new = (
                jnp.where(over_now, applied(sign, total, number), total),
                jnp.where(is_sign, (token == signs).argmax(), sign),
                jnp.where(is_digit, larger, 0),
                left & ~(used & over_now),
                good & fine,
                is_end,
            )
            return jax.tree.map(lambda old, x: jnp.where(over, old, x), carry, new), None

        none = jnp.int32(0)
        begun = none, none, none, jnp.ones(len(numbers), bool), jnp.bool_(True), jnp.bool_(False)
        total, _, _, _, good, over = jax.lax.scan(read, begun, state.tokens[self.P :])[0]
        return (over & good & (total == target)).astype(jnp.float32)
