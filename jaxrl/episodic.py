"""Episodes of H steps on tables, where policies know the step: pi [H, S, A].

    Q_h = r_h + γ P V_{h+1},  V_H = 0,    d_0 = ρ,  d_{h+1} = d_h P_{π_h}

Rewards are [H, S, A], or anything that broadcasts to it. Nothing here samples but `episode`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.errors import InputError
from jaxrl.families import exact
from jaxrl.types import Key


def length(world: Any) -> int:
    """H, a world's time limit. InputError where it has none."""
    if not world.max_steps:
        raise InputError(f"env: {world.name} has no time limit, which the length of an episode is")
    return world.max_steps


def backward(P: jax.Array, r: jax.Array, settle: Callable, each: Any, gamma: Any = 1.0):
    """Q [H, S, A] and V [H, S], from the last step to the first: V_h = settle(Q_h, each_h)."""

    def back(V, now):
        Q = now[0] + gamma * P @ V
        V = settle(Q, now[1])
        return V, (Q, V)

    return jax.lax.scan(back, jnp.zeros_like(P[0, 0]), (r, each), reverse=True)[1]


def values(P: jax.Array, r: jax.Array, pi: jax.Array, gamma: Any = 1.0):
    """Q [H, S, A] and V [H, S] of a policy."""
    return backward(P, jnp.broadcast_to(r, pi.shape), lambda Q, p: (p * Q).sum(-1), pi, gamma)


def best(P: jax.Array, r: jax.Array, gamma: Any = 1.0):
    """Q* [H, S, A] and V* [H, S]; rewards are [H, S, A]."""
    return backward(P, r, lambda Q, _: Q.max(-1), None, gamma)


def worth(mdp: Any, pi: jax.Array, gamma: Any = 1.0) -> jax.Array:
    """J, of an episode from the starts."""
    return mdp.rho @ values(mdp.P, mdp.r, pi, gamma)[1][0]


def most(mdp: Any, r: jax.Array, gamma: Any = 1.0) -> jax.Array:
    """J of the best policy for rewards [H, S, A]."""
    return mdp.rho @ best(mdp.P, r, gamma)[1][0]


def occupancy(P: jax.Array, rho: jax.Array, pi: jax.Array) -> jax.Array:
    """d [H, S]: where an episode is at each step."""

    def on(d, p):
        return jnp.einsum("s,sa,sap->p", d, p, P), d

    return jax.lax.scan(on, rho, pi)[1]


def chosen(p: jax.Array, u: jax.Array) -> jax.Array:
    """The index that u in [0, 1) falls to, of probabilities [..., n]: none of probability 0."""
    below = jnp.cumsum(p, -1)
    return (below <= u[..., None] * below[..., -1:]).sum(-1)


def episode(key: Key, P: jax.Array, rho: jax.Array, pi: jax.Array, first: Any = 0):
    """States [H] and actions [H] of one episode that begins, drawn from rho, at step `first`; what
    stands before that is of no meaning."""
    u = jax.random.uniform(key, (len(pi), 2))
    start = chosen(rho, jax.random.uniform(jax.random.fold_in(key, 1)))

    def on(s, now):
        h, p, u = now
        s = jnp.where(h == first, start, s)
        a = chosen(p[s], u[0])
        return chosen(P[s, a], u[1]), (s, a)

    return jax.lax.scan(on, start, (jnp.arange(len(pi)), pi, u))[1]


def play(pi: jax.Array, obs: jax.Array, step: jax.Array, key: Key | None):
    """Actions [N] for states seen as rows [N, S]; the memory counts an episode's steps."""
    now = pi[jnp.minimum(step, len(pi) - 1)]
    return exact.draw(jnp.einsum("ns,nsa->na", obs, now), key), step + 1


def memory(n: int) -> jax.Array:
    """Of `play`, at the start of n episodes."""
    return jnp.zeros(n, jnp.int32)
