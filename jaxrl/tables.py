"""A table in a language model's place: one number for each completion of each prompt.

    π(y|x) = softmax over all y of θ[x, y]

So theory of tabular softmax policies is tested as it stands. A token's probability is that of all
completions that go on with it, so that a table writes, is judged and learns as a transformer does.
The critic has a number for each beginning of a completion.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrl.types import Key, Params


class Size(NamedTuple):
    vocabulary: int


class Tree(NamedTuple):
    """For a task whose completions can be counted, all of L tokens; the P tokens of a prompt are
    its number to the base V. Where `Transformer` takes tokens [B, S] this does."""

    prompts: int
    vocabulary: int
    P: int
    L: int

    @property
    def shape(self) -> Size:
        return Size(self.vocabulary)

    @property
    def begun(self) -> int:
        """How many beginnings of a completion there are: 1 + V + ... + V ** (L - 1)."""
        return sum(self.vocabulary**t for t in range(self.L))

    def init(self, key: Key, tokens: Any = None) -> Params:
        """Uniform, but for a little noise."""
        table = 0.1 * jax.random.normal(key, (self.prompts, self.vocabulary**self.L))
        return dict(params=dict(table=table, value=jnp.zeros((self.prompts, self.begun))))

    def empty(self, B: int, T: int) -> jax.Array:
        """What was read so far, as a number."""
        return jnp.zeros(B, jnp.int32)

    def after(self, table: jax.Array) -> jax.Array:
        """Logits of the token after each beginning [X, begun, V], from θ [X, N]."""
        X, V = self.prompts, self.vocabulary
        whole = lambda t: table.reshape(X, V**t, V, -1)
        return jnp.concatenate([jax.nn.logsumexp(whole(t), -1) for t in range(self.L)], 1)

    def read(
        self, params: Params, tokens: jax.Array, cache: Any = None, begin: Any = 0, since: int = 0
    ) -> tuple[jax.Array, jax.Array, Any]:
        """(logits [B, S - since, V], value [B, S - since], cache)."""
        V, S = self.vocabulary, tokens.shape[1]
        code = jnp.zeros(len(tokens), jnp.int32) if cache is None else cache
        codes = []
        for s in range(S):
            code = code * V + tokens[:, s]
            codes.append(code)
        at = jnp.stack(codes[since:], 1)
        depth = jnp.maximum(begin + jnp.arange(since, S) - (self.P - 1), 0)
        many = V ** jnp.arange(self.L + 1)
        x, y = at // many[depth], at % many[depth]
        place = (many[depth] - 1) // (V - 1) + y
        p = params["params"]
        return self.after(p["table"])[x, place], p["value"][x, place], code

    def see(self, params: Params, *args: Any, **how: Any) -> tuple[jax.Array, jax.Array]:
        """(logits, values): a table has no other states."""
        return self.read(params, *args, **how)[:2]

    def say(self, params: Params, x: jax.Array) -> jax.Array:
        return x
