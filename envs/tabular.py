"""Markov decision processes as tables: small enough to be solved, and played like any environment.

    P[s, a, s']   the probability of s' after action a in s;  r[s, a] the reward;  rho[s] of a start

A state is seen as a row of zeros with a one, so that a linear policy is a table. Entering a state
of `end` ends the episode; there P stays and r is 0, so that the tables alone tell the whole value.

    chain    right moves on, left goes back to the start; 1 a step at the far end, 0.1 for left
    cliff    4 x 4 cells, from the lower left corner to the lower right; a push down, at times, over
             the cells between them costs 10 and leads back; a step costs 1
    maze     6 x 6 cells with two walls, 1 for reaching the far corner
    forbidden  5 x 5 cells, from the lower left corner to the lower right, a step pays -1; the cells
             between them and one above cost 1 a step, which the reward does not tell
    queues   two queues and one server; the cost is how many wait
    inventory  a stock from 4 owed to 7 held; an action orders 0 to 4, which arrive at once, then up
             to 4 are demanded; each that is held costs, each that is owed costs more, and an order
    random   a Garnet: each action leads to a few states, rewards uniform; `seed` draws another
    tolls    a round trip, 1 for each cell that is left: the free road leaves it at times, in the
             first cells less often than in the last, the other road always, for a toll that rises
    stopping   an offer a step, uniform: take it and be paid, or wait for the next; at the end of
             the episode nothing is paid, so that what one should take falls with the step
    riverswim  left goes down the river, right seldom up; 0.005 for left at the source, 1 for right
             at the far end (Strehl and Littman 2008, as Osband et al. 2013 have it)
    steady   four states that every action mixes; in each one action pays 1 more often by `gap`
    switching  the same, but which action pays changes with the phases of `turns`, each half as
             long again as the one before

`turns` [M, S, A] are mean rewards that take turns from episode to episode, for an online method
(`jaxrl/families/online.py`), which has the clock; played, the table pays their mean.

`c` [K, S, A] are costs, each a further reward (`objectives`), where a task has them: `tolls` and
`forbidden`, one.

`controllers` [M, S, A] are policies that a task comes with: one for each action, always played, or
in `random` some that were drawn.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.adapters.common import physics, time_limit
from envs.base import Step, TimeLimit
from envs.moves import MOVES
from envs.spaces import Box, Discrete
from jaxrl.errors import InputError


@struct.dataclass
class Tabular:
    """The state is the number of a row."""

    P: jax.Array  # [S, A, S]
    r: jax.Array  # [S, A]
    rho: jax.Array  # [S]
    end: jax.Array  # [S] bool
    controllers: jax.Array  # [M, S, A]
    name: str = struct.field(pytree_node=False)
    c: Any = ()  # [K, S, A]; () for none
    turns: Any = ()  # [M, S, A]; () where r is always what is paid

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("return", "cost") if len(self.c) else ()

    @property
    def observation_space(self) -> Box:
        return Box(0.0, 1.0, (self.r.shape[0],))

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.r.shape[1])

    @property
    def max_steps(self) -> int:
        return 0

    @property
    def tables(self) -> "Tabular":
        """Itself: how the tables are reached through wrappers."""
        return self

    def reset(self, key):
        s = jax.random.categorical(key, jnp.log(self.rho))
        return s, self.observe(s)

    def observe(self, s) -> jax.Array:
        return jax.nn.one_hot(s, self.r.shape[0])

    def step(self, key, state, action):
        s = jax.random.categorical(key, jnp.log(self.P[state, action]))
        reward = self.r[state, action]
        if len(self.c):
            reward = jnp.concatenate([reward[None], self.c[:, state, action]])
        return Step(s, self.observe(s), reward, self.end[s], jnp.zeros((), bool))


def chain(length: float, slip: float) -> tuple:
    """Right in the last cell stays there."""
    n = int(length)
    P, r = np.zeros((n, 2, n)), np.zeros((n, 2))
    P[:, 0, 0] = 1.0
    for s in range(n):
        P[s, 1, min(s + 1, n - 1)] += 1 - slip
        P[s, 1, 0] += slip
    r[:, 0], r[-1, 1] = 0.1, 1.0
    return P, r, np.eye(n)[0], np.zeros(n, bool)


def walk(width: int, height: int, walls: set, slip: float) -> np.ndarray:
    """P of moving by MOVES between the cells y * width + x; a slip goes anywhere."""
    P = np.zeros((width * height, 4, width * height))
    for s in range(width * height):
        at = np.array((s % width, s // width))
        for a, move in enumerate(MOVES):
            x, y = at + move
            inside = 0 <= x < width and 0 <= y < height and (x, y) not in walls
            P[s, a, y * width + x if inside else s] = 1.0
    return (1 - slip) * P + slip * P.mean(1, keepdims=True)


def absorb(P: np.ndarray, r: np.ndarray, end: np.ndarray) -> None:
    """The states of `end` keep what enters them, and pay nothing more."""
    P[end], r[end] = np.eye(len(P))[end][:, None], 0.0


def maze(slip: float) -> tuple:
    walls = {(2, y) for y in range(4)} | {(4, y) for y in range(2, 6)}
    P = walk(6, 6, walls, slip)
    end = np.arange(36) == 35
    r = P[:, :, 35].copy()
    absorb(P, r, end)
    return P, r, np.eye(36)[0], end


def cliff(slip: float, fall: float) -> tuple:
    """A slip is a push down, whatever the action: it matters above the cliff."""
    P = walk(4, 4, set(), 0.0)
    P = (1 - slip) * P + slip * P[:, 2:3]
    end = np.arange(16) == 15
    over = np.isin(np.arange(16), (13, 14))
    P[over] = np.eye(16)[12]
    r = np.where(over, -fall, -1.0)[:, None].repeat(4, 1)
    absorb(P, r, end)
    return P, r, np.eye(16)[12], end


def forbidden(slip: float) -> tuple:
    P = walk(5, 5, set(), slip)
    end = np.arange(25) == 24
    r = np.full((25, 4), -1.0)
    absorb(P, r, end)
    c = np.isin(np.arange(25), (17, 21, 22, 23)).astype(float)[:, None].repeat(4, 1)
    return P, r, np.eye(25)[20], end, dict(c=c[None])


def queues(arrive: float, serve: float) -> tuple:
    """State 5 i + j: i and j wait, at most 4 each. One served job leaves with probability `serve`;
    then one joins each queue, the first with `arrive`, the second with half of it."""
    P, r = np.zeros((25, 2, 25)), np.zeros((25, 2))
    for s in range(25):
        i, j = divmod(s, 5)
        r[s] = -(i + j)
        for a in range(2):
            for done, p in ((1, serve), (0, 1 - serve)):
                for x, px in ((1, arrive), (0, 1 - arrive)):
                    for y, py in ((1, arrive / 2), (0, 1 - arrive / 2)):
                        left = max(i - done * (a == 0), 0), max(j - done * (a == 1), 0)
                        after = min(left[0] + x, 4), min(left[1] + y, 4)
                        P[s, a, 5 * after[0] + after[1]] += p * px * py
    return P, r, np.eye(25)[0], np.zeros(25, bool)


def inventory(demand: float, hold: float, short: float, price: float) -> tuple:
    """State s: s - 4 in stock. Four may ask, each with probability `demand`. The cost is that of
    the stock with which a step begins, so that P alone says what demand does."""
    n, some = 12, range(5)
    P, r = np.zeros((n, 5, n)), np.zeros((n, 5))
    for s in range(n):
        for a in some:
            r[s, a] = -(hold * max(s - 4, 0) + short * max(4 - s, 0) + price * (a > 0))
            for d in some:
                p = math.comb(4, d) * demand**d * (1 - demand) ** (4 - d)
                P[s, a, max(min(s + a, n - 1) - d, 0)] += p
    return P, r, np.full(n, 1 / n), np.zeros(n, bool)


def garnet(seed: float, states: float) -> tuple:
    rng, n = np.random.default_rng(int(seed)), int(states)
    P, r = np.zeros((n, 3, n)), rng.random((n, 3))
    for s in range(n):
        for a in range(3):
            P[s, a, rng.choice(n, min(3, n), replace=False)] = rng.dirichlet(np.ones(min(3, n)))
    policies = rng.dirichlet(0.3 * np.ones(3), (3, n))
    return P, r, np.full(n, 1 / n), np.zeros(n, bool), dict(controllers=policies)


def tolls(length: float) -> tuple:
    """Action 1 takes the road with a toll."""
    n = int(length)
    free, on = np.linspace(0.1, 0.8, n), np.roll(np.eye(n), 1, 1)
    P = np.stack([np.diag(1 - free) + free[:, None] * on, on], 1)
    toll = np.linspace(0.5, 1.5, n)
    r, c = np.stack([free, np.ones(n)], 1), np.stack([np.zeros(n), toll], 1)
    return P, r, np.eye(n)[0], np.zeros(n, bool), dict(c=c[None])


def stopping(offers: float) -> tuple:
    """The last state is that something was taken."""
    n = int(offers)
    P, r, end = np.zeros((n + 1, 2, n + 1)), np.zeros((n + 1, 2)), np.arange(n + 1) == n
    P[:, 0, :n], P[:, 1, n], r[:n, 1] = 1 / n, 1.0, np.arange(1, n + 1) / n
    absorb(P, r, end)
    return P, r, np.where(end, 0.0, 1 / n), end


def riverswim(length: float) -> tuple:
    n = int(length)
    P, r = np.zeros((n, 2, n)), np.zeros((n, 2))
    for s in range(n):
        P[s, 0, max(s - 1, 0)] = 1.0
        up, stay = (0.6, 0.4) if s == 0 else (0.35, 0.6)
        if s == n - 1:
            up, stay = 0.0, 0.6
        P[s, 1, min(s + 1, n - 1)] += up
        P[s, 1, s] += stay
        P[s, 1, max(s - 1, 0)] += 1 - up - stay
    r[0, 0], r[-1, 1] = 0.005, 1.0
    return P, r, np.eye(n)[0], np.zeros(n, bool)


def mixed() -> np.ndarray:
    """P of four states and three actions, each next state likely enough."""
    near = np.array([[np.roll(np.eye(4)[s], a + 1) for a in range(3)] for s in range(4)])
    return 0.4 * near + 0.15


def steady(gap: float) -> tuple:
    r = np.where(np.arange(3) == np.arange(4)[:, None] % 3, 0.5 + gap / 2, 0.5 - gap / 2)
    return mixed(), r, np.full(4, 0.25), np.zeros(4, bool)


def switching(gap: float) -> tuple:
    P, r, rho, end = steady(gap)
    turns = np.stack([r, np.roll(r, 1, 1)])
    return P, turns.mean(0), rho, end, dict(turns=turns)


TABLE = {
    "chain": (chain, dict(length=6, slip=0.1), 30),
    "cliff": (cliff, dict(slip=0.1, fall=10.0), 60),
    "maze": (maze, dict(slip=0.1), 60),
    "forbidden": (forbidden, dict(slip=0.2), 60),
    "queues": (queues, dict(arrive=0.4, serve=0.8), 60),
    "inventory": (inventory, dict(demand=0.5, hold=0.1, short=0.4, price=0.2), 60),
    "random": (garnet, dict(seed=0, states=8), 40),
    "tolls": (tolls, dict(length=5), 40),
    "stopping": (stopping, dict(offers=5), 10),
    "riverswim": (riverswim, dict(length=6), 60),
    "steady": (steady, dict(gap=0.2), 3),
    "switching": (switching, dict(gap=0.2), 3),
}
RANGES = (
    dict.fromkeys(("slip", "arrive", "serve", "demand", "gap"), (0.0, 1.0))
    | dict.fromkeys(("fall", "hold", "short", "price"), (0.0, np.inf))
    | dict(length=(2, 100), states=(2, 100), offers=(2, 100), seed=(0, 2**31))
)


def make(name: str, **params: Any) -> Any:
    build, defaults, steps = TABLE[name.removeprefix("tabular/")]
    limit = time_limit(params, steps)
    said = {k: float(x) for k, x in physics(name, params, defaults).items()}
    for k, x in said.items():
        low, high = RANGES[k]
        if not low <= x <= high:
            raise InputError(f"{name} parameter {k}: {x:g} is outside [{low:g}, {high:g}]")
    P, r, rho, end, *more = build(**said)
    tables = dict(P=P, r=r, rho=rho, controllers=np.eye(r.shape[1])[:, None].repeat(len(r), 1))
    tables |= more[0] if more else {}
    floats = {k: jnp.asarray(x, jnp.float32) for k, x in tables.items()}
    return TimeLimit(Tabular(**floats, end=jnp.asarray(end), name=name), limit)
