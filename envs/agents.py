"""Teams: environments of several agents who cooperate, each with what it sees itself.

    climbing    Claus & Boutilier 1998, "The Dynamics of Reinforcement Learning in Cooperative
    penalty     Multiagent Systems": two agents choose one of three actions each, once, and both are
                paid payoff[a_0, a_1]. The penalty `k` shares rows and columns with the best pairs:
                who does not know what the other will do is drawn to a worse one.
    spread      "simple spread" of Lowe et al. 2017 (arXiv 1706.02275): three agents are to cover
                three landmarks in the plane without bumping into each other.
    foraging    level-based foraging, after Albrecht & Ramamoorthy 2013 (arXiv 1506.01170) and
                Papoudakis et al. 2021 (arXiv 2006.07869): food is loaded by agents beside it whose
                levels together reach its own.

One episode is the team's: `step` takes the actions [A] and gives observations and rewards [A], and
the flags () of all. `Team` makes a world of it, with a row for each agent. An observation is a
dictionary of "obs", what the agent sees, "agent", which one it is [A], and, where there is more to
know, "privileged": everything, the same for all, for critics. Spaces are those of one agent.

Checked against the code of openai/multiagent-particle-envs, of Farama's mpe2 1.1 and of lbforaging
2.0. Spread differs from them in that

- an agent moves by its new velocity, as in OpenAI's and PettingZoo's before 1.23; mpe2 uses the old
- all are paid -Σ (nearest distances), minus `collision` times the mean over agents of how many
  others each touches. OpenAI's pays the sum over agents instead and lets each one touch itself:
  3 times that, less 3. In mpe2 an agent's collisions are its own, and both parts count half
- the messages that nobody sends are left out: "obs" has 14 numbers instead of 18
- two agents in the very same place don't push each other; there it has no numbers

and foraging in that

- all are paid what lbforaging's agents are paid together, for which a food counts by its level as a
  share of all levels at the start
- "obs" has cells (x, y) of the grid whatever the `sight`, food in slots of its own: there they are
  rows and columns of the part in sight, food sorted by them
- who is sent back bars its cell to a third: there, of more than two agents, some can share a cell
- the end of the time truncates, it does not terminate
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs import moves
from envs.adapters.common import physics, time_limit
from envs.base import AutoReset, Step, TimeLimit, Transition, Wrapper
from envs.spaces import Box, Discrete
from jaxrl.errors import InputError

INF = float("inf")


def folded(x: Any) -> Any:
    """Episodes and agents [n, A, ...] as rows [n * A, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), x)


@struct.dataclass
class Team(Wrapper):
    """A world of rows, of `AutoReset` of an environment of agents: row = episode * A + agent."""

    @property
    def agents(self) -> int:
        spaces: Any = self.observation_space
        return spaces["agent"].shape[0]

    def reset(self, key, n):
        """Begins n episodes: n * A rows."""
        state, obs = self.env.reset(key, n)
        return state, folded(obs)

    def draw(self, key, steps, n):
        """Of n episodes."""
        return self.env.draw(key, steps, n)

    def step(self, key, state, action):
        action = action.reshape(-1, self.agents, *action.shape[1:])
        state, tr = self.env.step(key, state, action)
        obs, reward, final_obs = folded((tr.obs, tr.reward, tr.final_obs))
        ends = (jnp.repeat(x, self.agents) for x in (tr.terminated, tr.truncated))
        return state, Transition(obs, reward, *ends, final_obs)


def seen(obs: jax.Array, whole: jax.Array | None = None) -> dict:
    """The observations of all, from what each sees [A, D] and everything there is, if any."""
    A = len(obs)
    own = dict(obs=obs, agent=jnp.eye(A))
    return own if whole is None else own | dict(privileged=jnp.broadcast_to(whole, (A, whole.size)))


def space(agents: int, obs: Box, whole: Box | None = None) -> dict:
    """Of one agent."""
    own = dict(obs=obs, agent=Box(0.0, 1.0, (agents,)))
    return own if whole is None else own | dict(privileged=whole)


def in_turn(agents: int) -> np.ndarray:
    """[A, A]: of each agent itself, then the others."""
    return np.array([[i, *(j for j in range(agents) if j != i)] for i in range(agents)])


def shared(reward: jax.Array, agents: int) -> jax.Array:
    return jnp.broadcast_to(jnp.float32(reward), (agents,))


# ---- matrix games ----------------------------------------------------------------------------

# payoffs but for the penalty, where that is, what it is, and pure Nash equilibria while it is < 7
GAMES = {
    "climbing": (
        ((11.0, 0.0, 0.0), (0.0, 7.0, 6.0), (0.0, 0.0, 5.0)),
        ((0, 1), (1, 0)),
        -30.0,
        ((0, 0), (1, 1)),
    ),
    "penalty": (
        ((10.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 10.0)),
        ((0, 2), (2, 0)),
        -100.0,
        ((0, 0), (1, 1), (2, 2)),
    ),
}


@struct.dataclass
class Matrix:
    """Two agents, one step. There is no state, and nothing to see."""

    k: jax.Array  # the penalty
    name: str = struct.field(pytree_node=False)
    agents = 2

    @property
    def payoff(self) -> jax.Array:
        """[3, 3], by the actions of the first and the second agent."""
        table, where, _, _ = GAMES[self.name.removeprefix("agents/")]
        return jnp.array(table).at[tuple(np.transpose(where))].set(self.k)

    @property
    def equilibria(self) -> list[tuple[int, int]]:
        """The pure Nash equilibria, for k < 7."""
        return list(GAMES[self.name.removeprefix("agents/")][-1])

    @property
    def optimum(self) -> jax.Array:
        """What the best pair of actions is paid."""
        return self.payoff.max()

    @property
    def observation_space(self) -> dict:
        return space(self.agents, Box(0.0, 1.0, (1,)))

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    @property
    def max_steps(self) -> int:
        return 1

    def reset(self, key):
        return (), seen(jnp.ones((self.agents, 1)))

    def step(self, key, state, action):
        reward = shared(self.payoff[action[0], action[1]], self.agents)
        return Step(state, seen(jnp.ones((self.agents, 1))), reward, jnp.bool_(1), jnp.bool_(0))


# ---- spread ----------------------------------------------------------------------------------

DT = 0.1  # seconds a step
PUSH = np.array([(0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)])
SPREAD = dict(
    force=5.0,  # of a push, on a mass of 1
    damping=0.25,  # the share of its velocity that an agent loses in a step
    contact=100.0,  # force by the depth of a contact
    margin=1e-3,  # how soft contacts are, as a length
    size=0.15,  # the radius of an agent
    collision=1.0,  # what it costs
)


def gaps(a, b) -> jax.Array:
    """Distances [A, B] of points [A, 2] and [B, 2], above 0 so that their gradients are finite."""
    return jnp.sqrt(jnp.maximum(jnp.square(a[:, None] - b).sum(-1), 1e-12))


@struct.dataclass
class Spread:
    """The state: the agents' positions and velocities and as many landmarks, [A, 2] each. Actions:
    nothing, left, right, down, up. "obs" is the own velocity and position, and where the landmarks
    and the others are from there; "privileged" is the state."""

    force: jax.Array
    damping: jax.Array
    contact: jax.Array
    margin: jax.Array
    size: jax.Array
    collision: jax.Array
    name: str = struct.field(pytree_node=False)
    agents: int = struct.field(pytree_node=False, default=3)

    @property
    def observation_space(self) -> dict:
        A = self.agents
        return space(A, Box(-INF, INF, (2 + 4 * A,)), Box(-INF, INF, (6 * A,)))

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(PUSH))

    @property
    def max_steps(self) -> int:
        return 0

    def reset(self, key):
        pos, marks = jax.random.uniform(key, (2, self.agents, 2), minval=-1.0, maxval=1.0)
        state = pos, jnp.zeros_like(pos), marks
        return state, self.observe(*state)

    def observe(self, pos, vel, marks) -> dict:
        others = pos[in_turn(self.agents)[:, 1:]] - pos[:, None]  # [A, A - 1, 2]
        parts = vel, pos, marks - pos[:, None], others
        obs = jnp.concatenate([x.reshape(self.agents, -1) for x in parts], 1)
        return seen(obs, jnp.concatenate([pos, vel, marks]).ravel())

    def step(self, key, state, action):
        pos, vel, marks = state
        gap = gaps(pos, pos)
        depth = self.margin * jax.nn.softplus((2 * self.size - gap) / self.margin)
        apart = ((pos[:, None] - pos) * (depth / gap)[..., None]).sum(1)  # 0 from itself
        force = self.force * jnp.asarray(PUSH, jnp.float32)[action] + self.contact * apart
        vel = (1 - self.damping) * vel + DT * force
        pos = pos + DT * vel
        touched = (gaps(pos, pos) < 2 * self.size) & ~np.eye(self.agents, dtype=bool)
        reward = -gaps(marks, pos).min(1).sum() - self.collision * touched.sum(1).mean()
        obs, never = self.observe(pos, vel, marks), jnp.bool_(0)
        return Step((pos, vel, marks), obs, shared(reward, self.agents), never, never)


# ---- foraging --------------------------------------------------------------------------------

STEPS = np.concatenate([[(0, 0)], moves.MOVES[[0, 2, 3, 1]], [(0, 0)]])
LOAD = len(STEPS) - 1
TOP = 2  # level of an agent, from 1
FORAGING = dict(sight=8.0)


@struct.dataclass
class Foraging:
    """The state: the agents' cells (x, y), [A, 2], and levels, those of the food (0: eaten), and
    the sum of its levels at the start. Actions: nothing, north, south, west, east, load.

    Nobody walks out, into food, to where another stays or where another walks to, too; two who
    stand side by side can change places. Food lies inside, so far apart that nobody is beside two.
    What is farther than `sight` in x or in y, or eaten, is seen as (-1, -1, 0). The order is: all
    food, the agent itself, the others; of "privileged" all agents, all food, the sum at the start.
    `coop`: all food needs everybody.
    """

    sight: jax.Array
    name: str = struct.field(pytree_node=False)
    coop: bool = struct.field(pytree_node=False, default=False)
    agents: int = struct.field(pytree_node=False, default=2)
    foods: int = struct.field(pytree_node=False, default=2)
    size: int = struct.field(pytree_node=False, default=8)

    @property
    def observation_space(self) -> dict:
        A, F, far = self.agents, self.foods, self.size - 1.0
        top = (far, far, 1.0 * TOP * A) * F, (far, far, 1.0 * TOP) * A
        low, total = (-1.0, -1.0, 0.0) * (F + A), 1.0 * TOP * A * F
        own, whole = sum(top, ()), (*top[1], *top[0], total)
        return space(A, Box(low, own, (len(own),)), Box((*low, 0.0), whole, (len(whole),)))

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(STEPS))

    @property
    def max_steps(self) -> int:
        return 0

    def reset(self, key):
        key_cells, key_levels, key_food = jax.random.split(key, 3)
        levels = jax.random.randint(key_levels, (self.agents,), 1, TOP + 1)
        most = levels.sum()
        least = most if self.coop else 1
        left = jax.random.randint(key_food, (self.foods,), least, most + 1)
        # the free cells that come first in a random order
        grid = np.stack(np.meshgrid(*[np.arange(self.size)] * 2), -1).reshape(-1, 2)
        grid = jnp.asarray(grid, jnp.int32)
        order = jax.random.uniform(key_cells, (len(grid),))
        cells = grid[jax.lax.top_k(order, self.agents)[1]]
        free = ((grid > 0) & (grid < self.size - 1)).all(-1)
        free &= ~(grid[:, None] == cells).all(-1).any(-1)
        foods = []
        for _ in range(self.foods):
            foods.append(grid[jnp.argmax(jnp.where(free, order, -1.0))])
            free &= jnp.abs(grid - foods[-1]).sum(-1) > 2
        state = cells, levels, jnp.stack(foods), left, left.sum()
        return state, self.observe(*state)

    def observe(self, cells, levels, foods, left, total) -> dict:
        none = jnp.array([-1, -1, 0])
        agents = jnp.concatenate([cells, levels[:, None]], 1)
        foods = jnp.where((left > 0)[:, None], jnp.concatenate([foods, left[:, None]], 1), none)
        things = jnp.concatenate(
            [jnp.broadcast_to(foods, (self.agents, *foods.shape)), agents[in_turn(self.agents)]], 1
        )  # [A, F + A, 3]
        off = jnp.abs(things[..., :2] - cells[:, None]).max(-1)
        obs = jnp.where((off > self.sight)[..., None], none, things).reshape(self.agents, -1)
        whole = jnp.concatenate([agents.ravel(), foods.ravel(), total[None]])
        return seen(jnp.float32(obs), jnp.float32(whole))

    def step(self, key, state, action):
        cells, levels, foods, left, total = state
        to = cells + jnp.asarray(STEPS, jnp.int32)[action]
        food = ((to[:, None] == foods).all(-1) & (left > 0)).any(-1)
        stays = food | ((to < 0) | (to >= self.size)).any(-1)
        to = jnp.where(stays[:, None], cells, to)
        for _ in range(self.agents):  # until nobody who was sent back is in another's way
            several = (to[:, None] == to).all(-1).sum(-1) > 1
            to = jnp.where(several[:, None], cells, to)
        loads = (action == LOAD)[:, None] & (jnp.abs(to[:, None] - foods).sum(-1) == 1)  # [A, F]
        eaten = jnp.where(loads, levels[:, None], 0).sum(0) >= left  # what is eaten has level 0
        reward = jnp.where(eaten, left, 0).sum() / total
        left = jnp.where(eaten, 0, left)
        state = to, levels, foods, left, total
        reward = shared(reward, self.agents)
        return Step(state, self.observe(*state), reward, (left == 0).all(), jnp.bool_(0))


def make(name: str, **params: Any) -> Team:
    match name.removeprefix("agents/"):
        case "spread":
            limit = time_limit(params, 25)
            leaves: Any = physics(name, params, SPREAD)
            env = Spread(**leaves, name=name)
        case "foraging":
            limit, coop = time_limit(params, 50), params.pop("coop", False)
            if not isinstance(coop, bool):
                raise InputError(f"coop: {coop!r} is not true or false")
            leaves: Any = physics(name, params, FORAGING, "coop")
            env = Foraging(**leaves, name=name, coop=coop)
        case game:
            limit = time_limit(params, 1)
            leaves: Any = physics(name, params, dict(k=GAMES[game][2]))
            env = Matrix(**leaves, name=name)
    return Team(AutoReset(TimeLimit(env, limit)))
