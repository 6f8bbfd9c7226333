"""Worlds with pairs of segments of behaviour, and which of two is preferred.

    maze       `tabular/maze`
    pendulum   `Pendulum-v1`

Each is played like any other, and holds `pairs` that were sampled when it was made. A segment is
`length` steps from a random state, played by softmax(u A*(s, a) / α + h(s, a)): `u` is uniform in
[0, `quality`], for each segment anew, so that some are better; `h` are habits, drawn once from
`seed`, so that what is mostly done is not what is best. (In a share of the states they are right by
chance.) The better a segment the less it is regretted,

    S = Σ_t γ^t A*(s_t, a_t) / α,    P(one is preferred to another) = σ(sharp (S_one - S_other))

with the advantages A* = α log π* of the soft-optimal policy at temperature `alpha` and discount
`gamma`: regret is counted in temperatures, as if rewards were, and what CPL comes to at a
temperature of `sharp` is π* itself. Each pair is shown to `asked` people; with none, what is known
of it is the probability. A `sharp` of 1e9 leaves no doubt. A segment that ends in a terminal state
has no steps after it.

Of the maze A* is exact, by dynamic programming on its tables. Of the pendulum V* is that of a grid
of angle, velocity and torque (101 x 101 x 15), linear between. Its dynamics are certain, so that
the advantages of a segment, r + γ V(s') - V(s), come to its rewards and to V at its two ends alone.
Against a grid that is twice as fine regrets are off by 6 % of their own deviation.

The preferences are those of "Contrastive Preference Learning" (Hejna et al. 2023, arXiv
2310.13639).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs import registry
from envs.adapters.common import physics, whole
from envs.base import AutoReset
from jaxrl.errors import InputError


class Pairs(struct.PyTreeNode):
    """Pairs of segments, on the accelerator."""

    obs: Any  # [D, 2, T, ...]
    action: jax.Array  # [D, 2, T, ...] as `envs.make` takes them
    mask: jax.Array  # [D, 2, T] 1 of steps, 0 after a terminal
    score: jax.Array  # [D, 2] S, minus the regret
    win: jax.Array  # [D, 2] how often each was preferred, 1 together


@struct.dataclass
class Segments(AutoReset):
    """A world, playable as ever, with pairs of segments that were played in it."""

    pairs: Any = None
    name: str = struct.field(pytree_node=False, default="")


class Model(NamedTuple):
    """What segments are sampled from: states as rows, M actions to choose from in each cell."""

    A: np.ndarray  # [S, M] of soft-optimal play
    habit: np.ndarray  # [S, M] logits
    begin: Callable  # (n) -> states
    cell: Callable  # (states) -> [n], the row of a table
    see: Callable  # (states) -> observations [n, ...]
    step: Callable  # (states, choices [n]) -> (states, actions, advantages [n], over [n])


def soft_optimal(
    Q_of: Callable, end: np.ndarray, alpha: float, size: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """V [S] and A [S, M] of the policy that maximises rewards and α times its entropy.

    Args:
      Q_of: (V [S]) -> [S, M].
      end: [S] bool: terminal, worth 0.
      size: of what each of the M actions stands for, where π is a density.
    """
    V = np.zeros(len(end))
    while True:
        Q = Q_of(V)
        most = Q.max(1)
        mass = size * np.exp((Q - most[:, None]) / alpha).sum(1)
        new = np.where(end, 0.0, most + alpha * np.log(mass))
        if np.abs(new - V).max() <= 1e-6 * (1 + np.abs(new).max()):
            return new, np.where(end[:, None], 0.0, Q - new[:, None])
        V = new


def maze(rng: Any, gamma: float, alpha: float, slip: float, **limit: int) -> tuple[Any, Model]:
    world = registry.make("tabular/maze", slip=slip, **limit)
    mdp = world.tables
    P, r, rho, end = (np.asarray(x) for x in (mdp.P, mdp.r, mdp.rho, mdp.end))
    P = P / P.sum(-1, dtype=float, keepdims=True)
    Q_of = lambda V: r + gamma * P @ V
    _, A = soft_optimal(Q_of, end, alpha)
    reached, ahead = rho > 0, P.max(1) > 0
    for _ in range(len(rho)):
        reached = reached | (reached @ ahead)
    starts = np.flatnonzero(reached & ~end)
    upto = P.cumsum(-1)
    habit = rng.standard_normal(r.shape)

    def step(s, a):
        drawn = rng.random((len(s), 1)) >= upto[s, a]
        after = np.minimum(drawn.sum(1), len(rho) - 1)
        return after, a, A[s, a], end[after]

    begin = lambda n: rng.choice(starts, n)
    see = lambda s: np.eye(len(rho), dtype=np.float32)[s]
    return world, Model(A, habit, begin, lambda s: s, see, step)


ANGLES, SPEEDS, TORQUES = 101, 101, 15


def near(angle: np.ndarray, speed: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """The four points of the grid around states [...], and their weights [..., 4]."""
    x = (angle / (2 * np.pi) % 1.0) * ANGLES
    y = np.clip((speed / most + 1) / 2, 0, 1) * (SPEEDS - 1)
    i, j = np.floor(x).astype(int), np.minimum(np.floor(y).astype(int), SPEEDS - 2)
    p, q = x - i, y - j
    at = [(i + k) % ANGLES * SPEEDS + j + m for k in (0, 1) for m in (0, 1)]
    weight = [(p if k else 1 - p) * (q if m else 1 - q) for k in (0, 1) for m in (0, 1)]
    return np.stack(at, -1), np.stack(weight, -1)


def pendulum(rng: Any, gamma: float, alpha: float, **limit: int) -> tuple[Any, Model]:
    """States [n, 2]: angle and velocity."""
    world = registry.make("Pendulum-v1", **limit)
    key, env = jax.random.key(0), world.env
    most = float(env.env.physics["max_speed"])

    @jax.jit
    def moved(state, torque):
        def one(state, torque):
            full = env.reset(key)[0].replace(theta=state[0], theta_dot=state[1])
            s = env.step(key, full, torque[None])
            return jnp.stack([s.state.theta, s.state.theta_dot]), s.reward

        return jax.vmap(one)(state, torque)

    move = lambda *x: jax.device_get(moved(*(np.asarray(y, np.float32) for y in x)))
    angles = 2 * np.pi * np.arange(ANGLES) / ANGLES
    grid = np.stack(np.meshgrid(angles, np.linspace(-most, most, SPEEDS), indexing="ij"), -1)
    grid = grid.reshape(-1, 2)
    width = 2 / TORQUES
    torques = (np.arange(TORQUES) + 0.5) * width - 1
    after, r = move(np.repeat(grid, TORQUES, 0), np.tile(torques, len(grid)))
    at, weight = near(*after.T, most)
    between = lambda V, at, weight: np.einsum("...k,...k->...", V[at], weight)
    Q_of = lambda V: (r + gamma * between(V, at, weight)).reshape(-1, TORQUES)
    V, A = soft_optimal(Q_of, np.zeros(len(grid), bool), alpha, width)
    worth = lambda s: between(V, *near(*s.T, most))
    see = lambda s: np.stack([np.cos(s[:, 0]), np.sin(s[:, 0]), s[:, 1]], -1).astype(np.float32)
    wont = np.tanh(see(grid) / [1, 1, most] @ (2 * rng.standard_normal(3)))

    def begin(n):
        return rng.uniform([-np.pi, -most], [np.pi, most], (n, 2))

    def cell(s):
        at, weight = near(*s.T, most)
        return np.take_along_axis(at, weight.argmax(-1)[:, None], -1)[:, 0]

    def step(s, i):
        a = torques[i] + width * (rng.random(len(i)) - 0.5)
        after, r = move(s, a)
        return after, a[:, None], r + gamma * worth(after) - worth(s), np.zeros(len(i), bool)

    habit = -4 * np.square(torques - wont[:, None])
    return world, Model(A, habit, begin, cell, see, step)


def sample(m: Model, rng: Any, n: int, length: int, quality: Any, gamma: float) -> tuple:
    """So many segments: observations, actions and masks [n, T, ...], and scores [n]."""
    state, alive, rows, score = m.begin(n), np.ones(n, bool), [], np.zeros(n)
    better = quality * rng.random((n, 1))
    for t in range(length):
        at = m.cell(state)
        choice = (better * m.A[at] + m.habit[at] + rng.gumbel(size=(n, m.A.shape[1]))).argmax(1)
        after, action, advantage, over = m.step(state, choice)
        rows.append((m.see(state), action, alive.astype(np.float32)))
        score += gamma**t * alive * advantage
        state, alive = after, alive & ~over
    return *(np.stack(x, 1) for x in zip(*rows)), score


TABLE = {
    "maze": (maze, dict(alpha=0.01), dict(slip=0.1)),
    "pendulum": (pendulum, dict(alpha=1.0), {}),
}
SIZES: dict[str, tuple[int, int, int]] = dict(  # default, least, most
    pairs=(4096, 2, 2**18), length=(16, 1, 1000), asked=(1, 0, 10**6), seed=(0, 0, 2**31 - 1)
)
NUMBERS = dict(gamma=0.95, sharp=1.0, quality=1.0)
RANGES = dict(gamma=(0, 0.99), alpha=(1e-3, 100), sharp=(0, 1e9), quality=(0, 100), slip=(0, 1))


def make(name: str, **params: Any) -> Segments:
    build, own, moves = TABLE[name.removeprefix("segments/")]
    limit = {k: params.pop(k) for k in ("max_steps",) if k in params}
    D, T, asked, seed = (whole(params, k, *x) for k, x in SIZES.items())
    given = physics(name, params, NUMBERS | own | moves, *SIZES)
    said = {k: float(x) for k, x in given.items()}
    for k, x in said.items():
        low, high = RANGES[k]
        if not low - 1e-9 <= x <= high + 1e-6:  # as float32
            raise InputError(f"{name} parameter {k}: {x:g} is outside [{low:g}, {high:g}]")
    rng, gamma, alpha = np.random.default_rng(seed), said["gamma"], said["alpha"]
    world, model = build(rng, gamma, alpha, **{k: said[k] for k in moves}, **limit)
    *steps, score = sample(model, rng, 2 * D, T, said["quality"] / alpha, gamma)
    score = score.reshape(D, 2) / alpha
    first = 1 / (1 + np.exp(-np.clip(said["sharp"] * (score[:, 0] - score[:, 1]), -500, 500)))
    if asked:
        first = rng.binomial(asked, first) / asked
    obs, action, mask = (x.reshape(D, 2, *x.shape[1:]) for x in steps)
    kind = jnp.int32 if action.dtype.kind == "i" else jnp.float32
    floats = (jnp.asarray(x, jnp.float32) for x in (mask, score, np.stack([first, 1 - first], 1)))
    pairs = Pairs(jnp.asarray(obs), jnp.asarray(action, kind), *floats)
    return Segments(world.env, pairs=pairs, name=name)
