"""The exact family: tabular problems whose values, gradients and optima are computed, not sampled.

    algo = exact(improve)

A world of this family has tables (`envs/tabular.py`): P [S, A, S], r [S, A], rho [S]. A policy is a
table too, pi [S, A]. Everything here works in the precision it is given: under `jax.enable_x64`
with float64 tables an identity holds to twelve digits.

    V = (I - γ P_π)⁻¹ r_π,    Q = r + γ P V,    d = (1 - γ) ρ (I - γ P_π)⁻¹,    J = ρ V

See "Reinforcement Learning: Theory and Algorithms" by Agarwal, Jiang, Kakade, Sun, chapter 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxrl.core import Algo
from jaxrl.errors import InputError
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network
from jaxrl.types import Key, Params


class OnTables:
    """What hyperparameters of methods on tables have in common."""

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        return ""

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments: the same for all."""
        return cls()

    @staticmethod
    def network_for(kind: str) -> Network:
        """A table has no architecture."""
        return Network()

    @property
    def steps_per_iteration(self) -> int:
        """One: an improvement, or an episode."""
        return 1


@hyper
class Exact(OnTables):
    """What every exact method needs. An iteration is one improvement, and counts as one step."""

    lr: float = arg(1.0, "step size", "[0, inf)")
    gamma: float = arg(0.9, "discount", "[0, 1)")
    horizon: float = arg(1.0, "iterations of the whole run: set by it, for schedules", "[1, inf)")

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        return dict(run=dict(env="tabular/chain"), env_params={}, network={}, hyper={})


# ---- what the tables tell --------------------------------------------------------------------


def tables(world: Any) -> Any:
    """The P, r, rho of a world. InputError where it has none."""
    if not hasattr(world, "tables"):
        raise InputError(f"env: {world.name} has no tables; an exact method needs tabular/...")
    return world.tables


def under(mdp: Any, pi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The chain of a policy: P_π [S, S] and r_π [S]."""
    return jnp.einsum("sa,sap->sp", pi, mdp.P), (pi * mdp.r).sum(-1)


def value(mdp: Any, pi: jax.Array, gamma: Any) -> jax.Array:
    """V [S], of the discounted return."""
    P, r = under(mdp, pi)
    return jnp.linalg.solve(jnp.eye(len(r)) - gamma * P, r)


def action_value(mdp: Any, V: jax.Array, gamma: Any) -> jax.Array:
    """Q [S, A]: one action, then V."""
    return mdp.r + gamma * mdp.P @ V


def occupancy(mdp: Any, pi: jax.Array, gamma: Any) -> jax.Array:
    """d [S], the discounted distribution of the states seen from a start; sums to 1."""
    P, r = under(mdp, pi)
    return (1 - gamma) * jnp.linalg.solve(jnp.eye(len(r)) - gamma * P.T, mdp.rho)


def counted(key: Key, mdp: Any, pi: jax.Array, gamma: Any, episodes: int, steps: int) -> jax.Array:
    """`occupancy` [S] as it is counted in episodes of a policy, but for their ends."""

    def one(s, k):
        k_act, k_move = jax.random.split(k)
        a = jax.random.categorical(k_act, jnp.log(pi[s]))
        return jax.random.categorical(k_move, jnp.log(mdp.P[s, a])), s

    def play(key):
        k, key = jax.random.split(key)
        s = jax.random.categorical(k, jnp.log(mdp.rho))
        s = jax.lax.scan(one, s, jax.random.split(key, steps))[1]
        return jnp.zeros(len(mdp.r)).at[s].add((1 - gamma) * gamma ** jnp.arange(steps))

    return jnp.where(mdp.end, 0.0, jax.vmap(play)(jax.random.split(key, episodes)).mean(0))


def expected_return(mdp: Any, pi: jax.Array, gamma: Any) -> jax.Array:
    """J, discounted."""
    return mdp.rho @ value(mdp, pi, gamma)


def best(mdp: Any, gamma: Any) -> jax.Array:
    """V* [S], by value iteration until nothing changes but the rounding."""

    def going(carry):
        V, last = carry
        return jnp.abs(V - last).max() > 4 * jnp.finfo(V.dtype).eps * jnp.abs(V).max()

    def improve(carry):
        return action_value(mdp, carry[0], gamma).max(1), carry[0]

    V = mdp.r.max(1)
    return jax.lax.while_loop(going, improve, (V, V + jnp.inf))[0]


# ---- the builder -----------------------------------------------------------------------------


class State(struct.PyTreeNode):
    params: Params
    pi: jax.Array  # [S, A], the policy that they mean
    most: jax.Array  # J of the best policy: solved once, since the tables stay
    key: Key


def logits(key: Key, mdp: Any, hp: Any) -> jax.Array:
    """A softmax policy's first parameters [S, A]: uniform, but for a little noise."""
    return 0.1 * jax.random.normal(key, mdp.r.shape)


def softmax(params: jax.Array, mdp: Any) -> jax.Array:
    return jax.nn.softmax(params, -1)


def ascent(policy: Callable) -> Callable:
    """Steps along the exact gradient of J: the oracle of the theory papers."""

    def improve(params, mdp, t, hp):
        J = lambda p: expected_return(mdp, policy(p, mdp), hp.gamma)
        return optax.tree.add_scale(params, hp.lr, jax.grad(J)(params)), {}

    return improve


def natural(params: jax.Array, mdp: Any, t: jax.Array, hp: Any) -> tuple[jax.Array, dict]:
    """A natural step of a softmax: θ <- θ + lr A / (1 - γ). (Agarwal et al. 2021, lemma 15.)"""
    V = value(mdp, softmax(params, mdp), hp.gamma)
    A = action_value(mdp, V, hp.gamma) - V[:, None]
    return params + hp.lr / (1 - hp.gamma) * A, {}


def draw(p: jax.Array, key: Key | None) -> jax.Array:
    """Actions [N] from their probabilities [N, A]; the likeliest where there is no key."""
    return p.argmax(-1) if key is None else jax.random.categorical(key, jnp.log(p))


def play(pi: jax.Array, obs: jax.Array, memory: Any, key: Key | None) -> tuple[jax.Array, Any]:
    """Actions [N] for states seen as rows [N, S], and the memory."""
    return draw(obs @ pi, key), memory


def nominal(mdp: Any, pi: jax.Array, hp: Any) -> jax.Array:
    """What a policy is worth: J."""
    return expected_return(mdp, pi, hp.gamma)


def optimum(mdp: Any, hp: Any) -> jax.Array:
    """What the best policy is worth."""
    return mdp.rho @ best(mdp, hp.gamma)


def exact(
    improve: Callable,
    policy: Callable = softmax,
    *,
    start: Callable = logits,
    problem: Callable = lambda mdp, hp: mdp,
    judge: Callable = nominal,
    most: Callable = optimum,
    play: Callable = play,
    memory: Callable = lambda n: (),
) -> Algo:
    """An algorithm that improves a policy on tables.

    Args:
      improve: (params, mdp, t, hp) -> (params, metrics).
      policy: (params, mdp) -> pi [S, A].
      start: (key, mdp, hp) -> params.
      problem: (mdp, hp) -> the tables to solve, where they are not the world's own.
      judge, most: (mdp, pi, hp) -> what a policy is worth, (mdp, hp) -> the most that one can be.
      play, memory: how the solution acts in the world; as `Algo` has them.

    Metrics: `episode_return`, J of the policy that the iteration ends with (expected, discounted,
    or as `judge` has it), and `gap`, what it lacks of the most.
    """

    def init(key, hp, world):
        key, k = jax.random.split(key)
        mdp = problem(tables(world), hp)
        params = start(k, mdp, hp)
        return State(params, policy(params, mdp), most(mdp, hp), key)

    def step(s, t, hp, world):
        mdp = problem(tables(world), hp)
        params, metrics = improve(s.params, mdp, t, hp)
        s = s.replace(params=params, pi=policy(params, mdp))
        J = judge(mdp, s.pi, hp)
        return s, dict(episode_return=J, gap=s.most - J) | metrics

    return Algo(init, step, lambda s, obs, mem, key, hp: play(s.pi, obs, mem, key), memory)
