"""Preferences over responses that can all be counted: what is best, and what is not, is known.

A prompt has V ** length responses, sequences of tokens of which each is a choice. A table has the
gold reward of each; of two, who is asked prefers the first as often as

    P(y > y'|x) = mean over annotators m of σ(sharp (r_m(y|x) - r_m(y'|x) + <u(y|x), J u(y'|x)>))

where J turns each pair of features by a right angle, which makes for cycles, and `noise` of the
answers are drawn by a coin. `score`, the gold reward, is the annotators' mean. `reference` is a
policy to stay near, and what a table of completions begins with; `cover` is where fixed sets of
pairs come from. The first prompt token says which prompt it is, and each prompt is a problem drawn
anew, but for the small ones that are the same everywhere:

    gibbs   rewards are drawn, normal; preferences are those of Bradley and Terry
    game    no rewards, but features: preferences go round in circles
    crowd   three annotators with rewards of their own: no one reward says what they prefer
    gold    rewards of each token and of each pair of them, the same for all prompts, and a rest of
            each response to each prompt: a model of rewards can learn the first from few pairs
    cycle   three responses: a beats b beats c beats a
    sure    three responses in an order that nobody doubts
    gap     three responses, of which one is in no pair

See "A General Theoretical Paradigm to Understand Learning from Human Preferences" (arXiv
2310.12036) for `sure` and `gap`, "Nash Learning from Human Feedback" (2312.00886) for games.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.adapters.common import physics, whole
from envs.tokens.base import MARKS, Problem, Task
from jaxrl.errors import InputError

LETTERS = "abcdefghijklmn"
DENSE = 256  # responses of which all pairs are kept


@struct.dataclass
class Responses(Task):
    """X prompts, N = V ** length responses to each."""

    SPLIT, COUNTABLE = False, True
    size: int = struct.field(pytree_node=False, default=4)  # V
    length: int = struct.field(pytree_node=False, default=3)
    rewards: Any = ()  # [M, X, N], of each annotator
    features: Any = ()  # [X, N, 2 D]
    sharp: Any = 1.0
    noise: Any = 0.0
    reference: Any = ()  # [X, N] log-probabilities
    cover: Any = ()  # [X, N] probabilities
    preferences: Any = ()  # [X, N, N], where there are few enough responses

    @property
    def P(self) -> int:
        return max(1, math.ceil(math.log(self.prompts, self.size) - 1e-9))

    @property
    def L(self) -> int:
        return self.length

    @property
    def symbols(self) -> str:
        return MARKS + LETTERS[: self.size - len(MARKS)]

    def number(self, tokens: jax.Array) -> jax.Array:
        """Tokens [..., n] as a number to the base V."""
        return (tokens * self.size ** jnp.arange(tokens.shape[-1])[::-1]).sum(-1)

    def problem(self, i, difficulty):
        digits = lambda x, n: x // self.size ** jnp.arange(n)[::-1] % self.size
        best = self.rewards.mean(0)[i].argmax()
        return Problem(digits(i, self.P), digits(best, self.length), jnp.int32(0))

    def ends(self, state, token):
        return jnp.bool_(False)

    def score(self, state):
        return self.rewards.mean(0)[state.number, self.number(state.tokens[self.P :])]

    def beats(self, one: Any, other: Any) -> jax.Array:
        """How often a response is preferred to another of its prompt."""
        i, j = (self.number(s.tokens[self.P :]) for s in (one, other))
        return self.chance(one.number, i, j)

    def chance(self, x: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        """P(i > j|x)."""
        u, v = self.features[x, i], self.features[x, j]
        turn = u[..., ::2] * v[..., 1::2] - u[..., 1::2] * v[..., ::2]
        more = self.rewards[:, x, i] - self.rewards[:, x, j] + turn.sum(-1)
        return (1 - self.noise) * jax.nn.sigmoid(self.sharp * more).mean(0) + self.noise / 2


chances = jax.jit(Responses.chance)  # one program for all tables of a size


def table(rng: Any, X: int, N: int, tilt: float, coverage: float, r: np.ndarray) -> dict:
    """A reference that rather avoids what is good, where `tilt` says so, and the share of what it
    says that fixed sets of pairs are drawn from."""
    logits = rng.standard_normal((X, N)) - tilt * r
    reference = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rank = np.argsort(np.argsort(rng.random((X, N)), 1), 1)
    cover = np.exp(reference) * (rank < max(2, round(coverage * N)))
    return dict(reference=reference, cover=cover / cover.sum(1, keepdims=True))


def gibbs(rng: Any, X: int, V: int, L: int, scale: float) -> tuple:
    return scale * rng.standard_normal((1, X, V**L)), np.zeros((X, V**L, 2))


def game(rng: Any, X: int, V: int, L: int, scale: float) -> tuple:
    return np.zeros((1, X, V**L)), np.sqrt(scale) * rng.standard_normal((X, V**L, 4))


def crowd(rng: Any, X: int, V: int, L: int, scale: float) -> tuple:
    return scale * rng.standard_normal((3, X, V**L)), np.zeros((X, V**L, 2))


def gold(rng: Any, X: int, V: int, L: int, scale: float) -> tuple:
    """Of variance `scale`²: a half of the tokens, a quarter of pairs, a quarter of the rest."""
    words = np.stack(np.meshgrid(*[np.arange(V)] * L, indexing="ij"), -1).reshape(-1, L)
    each, pair = rng.standard_normal((L, V)), rng.standard_normal((L, L, V, V))
    near = [(t, s) for t in range(L) for s in range(t)]
    one = sum(each[t, words[:, t]] for t in range(L)) / math.sqrt(L)
    two = sum(pair[t, s, words[:, t], words[:, s]] for t, s in near) / math.sqrt(len(near) or 1)
    rest = rng.standard_normal((X, V**L))
    r = scale * (math.sqrt(0.5) * one + 0.5 * two + 0.5 * rest)
    return r[None], np.zeros((X, V**L, 2))


def small(name: str) -> tuple[dict, dict]:
    """Three responses to one prompt."""
    thirds = np.full((1, 3), 1 / 3)
    angle = 2 * np.pi * np.arange(3) / 3
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)[None]
    none, flat = np.zeros((1, 3, 2)), np.log(thirds)
    match name:
        case "cycle":
            uneven = np.array([[0.6, 0.3, 0.1]])
            rewards, features, reference, cover = np.zeros(3), circle, np.log(uneven), uneven
        case "sure":
            rewards, features, reference, cover = np.array([2.0, 1.0, 0.0]), none, flat, thirds
        case _:
            rewards, features = np.array([1.0, 0.0, -1.0]), none
            reference, cover = np.log([[0.4, 0.4, 0.2]]), np.array([[0.5, 0.5, 0.0]])
    return dict(rewards=rewards[None, None], features=features), dict(
        reference=reference, cover=cover
    )


LARGE = {"gibbs": gibbs, "game": game, "crowd": crowd, "gold": gold}
SMALL = {"cycle": 2.0, "sure": 1e3, "gap": 1.0}  # how sharp
SIZES = dict(prompts=(1, 4096), size=(3, len(MARKS + LETTERS)), length=(1, 8), seed=(0, 2**31 - 1))
DEFAULTS = dict(prompts=4, size=4, length=3, seed=0)
OTHERS = {"gold": dict(DEFAULTS, size=8, length=4)}
MOST = 2**16  # responses to a prompt
RANGES = dict(scale=(0, 100), sharp=(0, 1e4), noise=(0, 1), tilt=(-10, 10), coverage=(0, 1))


def make(name: str, **params: Any) -> Responses:
    """A task by name. Sizes: `prompts`, `size` (V), `length`, `seed`; numbers: `scale` of rewards,
    `sharp`, `noise`, `tilt` of the reference, `coverage` of its pairs."""
    short = name.removeprefix("preference/")
    few = short in SMALL
    own = {} if few else OTHERS.get(short, DEFAULTS)
    sizes = {k: whole(params, k, own[k], *SIZES[k]) for k in own}
    numbers = dict(sharp=SMALL.get(short, 1.0), noise=0.0)
    numbers |= {} if few else dict(scale=1.0, tilt=0.0, coverage=1.0)
    said = {k: float(x) for k, x in physics(name, params, numbers, *own).items()}
    for k, x in said.items():
        low, high = RANGES[k]
        if not low <= x <= high:
            raise InputError(f"{name} parameter {k}: {x:g} is outside [{low}, {high}]")
    if few:
        X, V, L = 1, 3, 1
        what, tables = small(short)
    else:
        X, V, L, seed = sizes.values()
        if V**L > MOST:
            raise InputError(f"{name}: size ** length = {V**L} responses, {MOST} at most")
        rng = np.random.default_rng(seed)
        rewards, features = LARGE[short](rng, X, V, L, said["scale"])
        what = dict(rewards=rewards, features=features)
        tables = table(rng, X, V**L, said["tilt"], said["coverage"], rewards.mean(0))
    floats = {k: jnp.asarray(v, jnp.float32) for k, v in (what | tables).items()}
    numbers = dict(sharp=jnp.float32(said["sharp"]), noise=jnp.float32(said["noise"]))
    order = jnp.arange(X), jnp.int32(0), jnp.int32(X), X, jnp.float32(1.0)
    arrays: dict[str, Any] = floats | numbers
    task = Responses(name, *order, size=V, length=L, **arrays)
    if V**L > DENSE:
        return task
    x, i, j = jnp.meshgrid(jnp.arange(X), *[jnp.arange(V**L)] * 2, indexing="ij")
    return task.replace(preferences=chances(task, x, i, j))  # type: ignore[attr-defined]
