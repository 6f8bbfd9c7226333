"""What all token tasks are.

An episode is one completion: a step places one token, a choice of the policy or one that is given
(`mine` says which), and ends with END or when the window is full. Its reward comes at the end,
`score` of what stands there: 1 for a solution, mostly. An observation is the window of tokens, the
prompt first (filled up on the left, so that completions begin at one place) and BLANK after what is
written, and where in it the last token stands.

Problems have numbers: `problem(i, difficulty)` gives the prompt, a solution and what scoring needs.
One of five is held out, by a mixing hash of the prompt's own tokens: a prompt is never on both
sides, whatever number it has. `reset` draws among the others, and among those held out in the
`examined()` task, which is where policies are evaluated. `begin(j)` is the j-th of them.

`difficulty` in (0, 1] scales how large problems are within what their window holds. It is a number
of the environment like physics: a sweep or a curriculum may change it in one program. `start` is 1
where a run's policies are to begin from one that was fitted to solutions, 0 for chance.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.base import Step
from envs.spaces import Box, Discrete

BLANK, END = 0, 1  # tokens of every task
MARKS = "_."  # how they are written
ZERO = len(MARKS)  # the token of the digit 0, where digits are a task's first symbols
HELD_OUT = 0.2  # share of problems
SPACE = 2**14  # problems of a task that has more


class Problem(NamedTuple):
    """One problem of a task."""

    prompt: jax.Array  # [P] tokens, BLANK on the left
    solution: jax.Array  # [L] tokens to the end, then BLANK
    data: Any = None  # what scoring needs, if it is not the solution


class State(struct.PyTreeNode):
    """A completion as far as it is written."""

    tokens: jax.Array  # [P + L]
    at: jax.Array  # where the last token stands
    number: jax.Array  # of the prompt, among those on this side of the split
    data: Any
    over: jax.Array  # bool


def mix(h: jax.Array) -> jax.Array:
    """A hash of 32 bits in which every bit depends on every other (the finaliser of MurmurHash3).
    A linear one would leak structure: a + b = 0 mod 10 was once a whole side of a split."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def hashed(tokens: jax.Array) -> jax.Array:
    """Of tokens [..., P]: uint32 [...]."""
    h = jnp.zeros(tokens.shape[:-1], jnp.uint32)
    for i in range(tokens.shape[-1]):
        h = mix(h ^ (tokens[..., i].astype(jnp.uint32) + jnp.uint32(0x9E3779B9)))
    return h


def split(prompts: jax.Array) -> tuple[np.ndarray, int]:
    """Numbers of prompts [N, P], those to learn from first, and how many these are."""
    held = np.asarray(hashed(prompts)) < HELD_OUT * 2.0**32
    return np.concatenate([np.flatnonzero(~held), np.flatnonzero(held)]), int((~held).sum())


@struct.dataclass
class Task:
    """What all token tasks are. `order` has the numbers of problems, those to learn from first."""

    name: str = struct.field(pytree_node=False)
    order: jax.Array
    first: jax.Array  # of this side of the split, in `order`
    count: jax.Array  # how many are on it
    prompts: int = struct.field(pytree_node=False)  # to learn from: of them tables may be kept
    difficulty: jax.Array
    start: Any = ()  # parameters that a policy begins with, once a run has fitted them
    starts: bool = struct.field(pytree_node=False, default=False)  # whether it wants them

    # a task says: SYMBOLS after the marks, P, L, space and `problem`, and where END or an equal
    # solution is not all, `mine`, `given` and `score`; where prompts ask for a length, `wished`
    # (state) -> tokens
    SYMBOLS = ""
    SPLIT = True  # whether some problems are held out
    blank = BLANK  # the token that nothing sees
    wished: ClassVar[Any] = None
    COUNTABLE = False  # whether there are few enough completions to go through all
    SIZES = {}  # its static parameters: name to the least and the most

    @property
    def P(self) -> int:
        """The prompt's tokens."""
        raise NotImplementedError

    @property
    def L(self) -> int:
        """The completion's tokens, at most."""
        raise NotImplementedError

    @property
    def space(self) -> int:
        """How many problems have numbers."""
        return SPACE

    def problem(self, i: jax.Array, difficulty: jax.Array) -> Problem:
        raise NotImplementedError

    def mine(self, state: State) -> jax.Array:
        """Whether the next token is the policy's choice."""
        return jnp.bool_(True)

    def given(self, state: State) -> jax.Array:
        """The next token, where it is not."""
        return jnp.int32(BLANK)

    def score(self, state: State) -> jax.Array:
        """The reward of what stands there: 1 for the solution."""
        solution = state.data
        return (state.tokens[self.P :] == solution).all().astype(jnp.float32)

    def beats(self, one: State, other: State) -> jax.Array:
        """How often who is asked prefers a completion to another of its prompt: by the rewards, as
        Bradley and Terry have it, a point more being as good as sure (0.98)."""
        return jax.nn.sigmoid(4.0 * (self.score(one) - self.score(other)))

    # ---- what follows from that

    @property
    def symbols(self) -> str:
        return MARKS + self.SYMBOLS

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self.symbols)

    def codes(self, text: str) -> jax.Array:
        """The tokens of a text."""
        return jnp.array([self.symbols.index(c) for c in text], jnp.int32)

    def says(self, state: State, answer: jax.Array) -> jax.Array:
        """Whether a completion closes with these tokens and END, whatever it has before them."""
        tail = jnp.append(answer, END)
        since = state.at + 1 - len(tail)
        there = jax.lax.dynamic_slice(state.tokens, (since,), tail.shape)
        return ((there == tail).all() & (since >= self.P)).astype(jnp.float32)

    @property
    def window(self) -> int:
        return self.P + self.L

    @property
    def max_steps(self) -> int:
        return self.L

    @property
    def observation_space(self):
        tokens = Box(0, self.vocabulary - 1, (self.window,), "int32")
        return dict(tokens=tokens, at=Discrete(self.window))

    @property
    def action_space(self):
        return Discrete(self.vocabulary)

    def examined(self):
        """The task with the problems that are held out."""
        N = len(self.order)
        if self.prompts == N:
            return self
        first, count = jnp.int32(self.prompts), jnp.int32(N - self.prompts)
        return self.replace(first=first, count=count)  # type: ignore[attr-defined]

    def begin(self, j: jax.Array) -> State:
        """Before the first token of problem j, of this side of the split."""
        p = self.problem(self.order[self.first + j], self.difficulty)
        tokens = jnp.concatenate([p.prompt, jnp.full(self.L, self.blank)]).astype(jnp.int32)
        data = p.solution.astype(jnp.int32) if p.data is None else p.data
        return State(tokens, jnp.int32(self.P - 1), jnp.int32(j), data, jnp.bool_(False))

    def place(self, state: State, action: jax.Array) -> State:
        """One token more, or the same where it is over."""
        token = jnp.where(self.mine(state), action, self.given(state)).astype(jnp.int32)
        at = state.at + 1
        put = state.tokens.at[at].set(jnp.where(state.over, self.blank, token), mode="drop")
        over = state.over | self.ends(state, token) | (at + 1 >= self.window)
        return state.replace(tokens=put, at=jnp.where(state.over, state.at, at), over=over)

    def ends(self, state: State, token: jax.Array) -> jax.Array:
        """Whether a token ends the completion."""
        return token == END

    def see(self, state: State) -> dict:
        return dict(tokens=state.tokens, at=state.at)

    def reset(self, key):
        state = self.begin(jax.random.randint(key, (), 0, self.count))
        return state, self.see(state)

    def step(self, key, state, action):
        after = self.place(state, action)
        reward = jnp.where(after.over & ~state.over, self.score(after), 0.0)
        return Step(after, self.see(after), reward, after.over, jnp.bool_(False))

    def text(self, tokens: Any) -> str:
        """Tokens as a person reads them, without BLANK."""
        return "".join(self.symbols[int(i)] for i in tokens if i != BLANK)


def drawn(i: jax.Array) -> jax.Array:
    """The key of a problem whose numbers are only names."""
    return jax.random.fold_in(jax.random.key(0), i)


def numbered(i: jax.Array, most: int, limit: jax.Array) -> jax.Array:
    """Which of `limit` problems has number i: each, where `most`, the largest limit, is within
    SPACE; else one is drawn."""
    if most <= SPACE:
        return i * limit // most
    return jax.random.randint(drawn(i), (), 0, limit)


def up_to(most: int, difficulty: jax.Array, least: int = 1) -> jax.Array:
    """The size of the largest problems at a difficulty, a whole number from `least` to `most`."""
    return jnp.maximum(jnp.round(most * difficulty).astype(jnp.int32), least)


def ended(tokens: jax.Array, n: jax.Array) -> jax.Array:
    """The first n tokens, END, and BLANK: one place more than was given."""
    t = jnp.arange(len(tokens) + 1)
    return jnp.where(t < n, jnp.append(tokens, BLANK), jnp.where(t == n, END, BLANK))


def shifted(tokens: jax.Array, right: bool = False) -> jax.Array:
    """Tokens without the BLANKs among them, which come last; or first, if shifted right."""
    return tokens[jnp.argsort((tokens == BLANK) != right, stable=True)]
