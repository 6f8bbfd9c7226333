"""The online family: what is lost while one learns, on tables, counted exactly.

    algo = online(episodes(world), start, policy, learn)
    algo = online(stream(), start, policy, learn)

A learner plays a policy, sees what came of it and changes the policy; what its policies were worth
against the best is linear algebra on the tables (`families/exact.py`, `episodic.py`), of which the
learner may see what its paper allows. A `Protocol` says how one plays and what counts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl import episodic
from jaxrl.core import Algo
from jaxrl.families import exact
from jaxrl.hyper import arg, hyper
from jaxrl.types import Key, Params


@hyper
class Online(exact.OnTables):
    """What every online method needs. An iteration is one round: an episode counts as one step."""

    horizon: float = arg(1.0, "iterations of the whole run: set by it, for schedules", "[1, inf)")

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        return dict(run=dict(env="tabular/steady"), env_params={}, network={}, hyper={})


class Protocol(NamedTuple):
    """How a round goes, and what is counted."""

    begin: Callable  # (key, mdp, hp) -> account: what is counted, and where a stream stands
    # (account, pi, key, mdp, t, hp) -> (account, what the learner sees, metrics)
    play: Callable
    act: Callable  # (pi, obs, memory, key) -> (action, memory)
    memory: Callable = lambda n: ()


class State(struct.PyTreeNode):
    params: Params
    pi: jax.Array  # the policy of the next round
    account: Any
    key: Key


def online(protocol: Protocol, start: Callable, policy: Callable, learn: Callable) -> Algo:
    """An algorithm that plays a round and learns from it.

    Args:
      start: (key, mdp, hp) -> params.
      policy: (params, mdp, hp) -> pi, as the protocol has it.
      learn: (params, seen, pi, mdp, t, hp) -> params.

    Metrics are the protocol's: `regret`, what the best policy would have had more so far,
    `episode_return` and `gap`, of the round's policy; all expected, and computed.
    """

    def init(key, hp, world):
        key, k, k_account = jax.random.split(key, 3)
        mdp = exact.tables(world)
        params = start(k, mdp, hp)
        return State(params, policy(params, mdp, hp), protocol.begin(k_account, mdp, hp), key)

    def step(s, t, hp, world):
        mdp, (key, k) = exact.tables(world), jax.random.split(s.key)
        account, seen, metrics = protocol.play(s.account, s.pi, k, mdp, t, hp)
        params = learn(s.params, seen, s.pi, mdp, t, hp)
        return State(params, policy(params, mdp, hp), account, key), metrics

    def act(s, obs, memory, key, hp):
        return protocol.act(s.pi, obs, memory, key)

    return Algo(init, step, act, protocol.memory)


def unit(mdp: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rewards in [0, 1], [M, S, A] as they take turns; the least of them and their range."""
    r = jnp.stack([mdp.r]) if len(mdp.turns) == 0 else mdp.turns
    low, span = r.min(), r.max() - r.min()
    return (r - low) / jnp.where(span > 0, span, 1.0), low, span


# ---- episodes --------------------------------------------------------------------------------

FIRST, GROWTH = 100, 1.5  # episodes of the first phase, and of each against the one before


def phase(t: jax.Array) -> jax.Array:
    """The number of the phase that episode t is in."""
    return jnp.floor(jnp.log1p(t * (GROWTH - 1) / FIRST) / jnp.log(GROWTH)).astype(int)


class Seen(NamedTuple):
    """What is seen of an episode, [H]; and what one knows who knows P: where it may be, [H, S]."""

    s: jax.Array
    a: jax.Array
    loss: jax.Array  # 0 or 1, with the mean 1 - r of rewards in [0, 1]
    occupancy: jax.Array


def episodes(world: Any) -> Protocol:
    """A round is an episode, of a policy [H, S, A]. Losses are 0 or 1; their means are fixed
    (stochastic), or the world's tables take turns in phases that the learner does not know
    (adversarial). The regret is against the best fixed policy in hindsight; `gap` is against the
    best for this round's means.

    The account is Σ_τ (r_τ - J_τ / H), [H, S, A], J_τ what was played had: since every episode has
    H steps, its best policy has the regret, and no two large sums are subtracted.
    """
    H = episodic.length(world)

    def begin(key, mdp, hp):
        return jnp.zeros((H, *mdp.r.shape))

    def play(account, pi, key, mdp, t, hp):
        (r, low, span), (k, k_loss) = unit(mdp), jax.random.split(key)
        r = r[phase(t) % len(r)]
        s, a = episodic.episode(k, mdp.P, mdp.rho, pi)
        loss = (jax.random.uniform(k_loss, (H,)) >= r[s, a]).astype(r.dtype)
        J = episodic.worth(mdp.replace(r=r), pi)
        account = account + r - J / H
        metrics = dict(
            regret=span * episodic.most(mdp, account),
            episode_return=H * low + span * J,
            gap=span * (episodic.most(mdp, jnp.broadcast_to(r, account.shape)) - J),
        )
        return account, Seen(s, a, loss, episodic.occupancy(mdp.P, mdp.rho, pi)), metrics

    return Protocol(begin, play, episodic.play, episodic.memory)


# ---- a single stream -------------------------------------------------------------------------


def stream() -> Protocol:
    """A round is `hp.num_steps` steps of one stream that goes on, of a policy [S, A], and begins
    anew with probability 1 - γ a step. So it is where the discounted occupancy says, and a step
    under π loses (1 - γ) (J* - J(π)): `regret` is their sum. The learner sees how often each
    (s, a, s') came, [S, A, S]."""

    def begin(key, mdp, hp):
        most = exact.optimum(mdp, hp)
        return dict(s=episodic.chosen(mdp.rho, jax.random.uniform(key)), most=most, regret=0 * most)

    def play(account, pi, key, mdp, t, hp):
        u = jax.random.uniform(key, (hp.num_steps, 4))

        def on(carry, u):
            s, n = carry
            a = episodic.chosen(pi[s], u[0])
            after = episodic.chosen(mdp.P[s, a], u[1])
            n = n.at[s, a, after].add(1.0)
            again = episodic.chosen(mdp.rho, u[3])
            return (jnp.where(u[2] < hp.gamma, after, again), n), None

        (s, n), _ = jax.lax.scan(on, (account["s"], jnp.zeros_like(mdp.P)), u)
        J = exact.expected_return(mdp, pi, hp.gamma)
        gap = account["most"] - J
        regret = account["regret"] + hp.num_steps * (1 - hp.gamma) * gap
        metrics = dict(regret=regret, episode_return=J, gap=gap)
        return account | dict(s=s, regret=regret), n, metrics

    return Protocol(begin, play, exact.play)
