"""Robust Markov decision processes on tables: sets of kernels, projections, and the worst of a set.

The return is judged by the worst kernel of a set around the tables' own, p̄ = mdp.P:

    Φ(π) = min_{p in P} J(π, p)

A set is a `Kernels`, and a kernel in it p_ξ. Two are rectangular, their parameter the kernel itself
(p never leaves the support of p̄, so that what cannot happen stays impossible, and an end an end):

    ROWS      ‖p_sa - p̄_sa‖₁ <= κ for each state and action ((s, a)-rectangular)
    STATES    Σ_a ‖p_sa - p̄_sa‖₁ <= κ for each state (s-rectangular)
    TILTED    p̄ tilted, p_ξ(s'|s,a) ∝ p̄(s'|s,a) exp(θ(s') / λ(s,a)), with ‖θ‖₁ <= κ S and
              ‖λ - 1‖₁ <= κ: coupled over states, and without an exact solution here

For the first two `evaluate` and `best` are exact. "Policy Gradient in Robust MDPs with Global
Convergence Guarantee" by Wang, Ho, Petrik 2023 has the sets; "Fast Bellman Updates for Robust MDPs"
by Ho, Petrik, Wiesemann 2018 how the worst of an L1 set is found in the order of gains.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrl.families import exact

FLOOR = 1e-5  # the least λ, as in the released code


# ---- projections: exact, of fixed shape ------------------------------------------------------


def between(x: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
    """Where a rising line through points xs, ys [n] in any order is at x; its ends beyond them.

    A sort of short rows is slow on a CPU: the neighbours are a largest and a least instead.
    """
    under, over = xs <= x, xs >= x
    x0, y0 = jnp.where(under, xs, -jnp.inf).max(), jnp.where(under, ys, -jnp.inf).max()
    x1, y1 = jnp.where(over, xs, jnp.inf).min(), jnp.where(over, ys, jnp.inf).min()
    inside = (x0 < x1) & jnp.isfinite(x1 - x0)
    share = (x - x0) / jnp.where(inside, x1 - x0, 1.0)
    ends = jnp.where(jnp.isfinite(y0), y0, y1)
    return jnp.where(inside, y0 + share * jnp.where(inside, y1 - y0, 0.0), ends)


def level(y: jax.Array, cap: jax.Array, total: Any) -> jax.Array:
    """The b at which Σ_i clip(b - y_i, 0, cap_i) = total: how high water stands. y, cap: [n]."""
    knots = jnp.concatenate([y, y + cap])
    return between(total, jnp.clip(knots[:, None] - y, 0, cap).sum(1), knots)


def simplex(x: jax.Array, allowed: Any = True) -> jax.Array:
    """The nearest distribution [n] to x [n], of those that are 0 where not allowed."""
    cap = jnp.broadcast_to(allowed, x.shape).astype(x.dtype)
    x = jnp.maximum(x - jnp.where(cap > 0, x, -jnp.inf).max(), -1.0)  # lower ones get nothing
    return jnp.clip(x + level(-x, cap, 1.0), 0, cap)


def levels(y: jax.Array, p: jax.Array, moved: Any) -> tuple[jax.Array, jax.Array]:
    """Above the first one p + y - p gains, below the second it loses, each so much in all."""
    return -level(-y, (p > 0).astype(y.dtype), moved), level(y, p, moved)


def near(x: jax.Array, p: jax.Array, radius: Any) -> jax.Array:
    """The nearest q to x [n] with ‖q - p‖₁ <= radius, of the distributions on p's support.

    Where the bound is active, what q gains on p and what it loses are radius / 2 each, and half of
    what is between the two levels is the bound's multiplier. Where it isn't, that is negative.
    """
    y = x - p
    up, down = levels(y, p, jnp.minimum(radius, 2.0) / 2)
    q = p + jnp.clip(y - up, 0, p > 0) - jnp.clip(down - y, 0, p)
    q = jnp.where(up > down, q, simplex(x, p > 0))
    return q / q.sum()


def near_all(x: jax.Array, p: jax.Array, radius: Any) -> jax.Array:
    """The nearest rows to x [A, n] with Σ_a ‖q_a - p_a‖₁ <= radius, as in `near`: each row has the
    share of the radius with which its multiplier is that of all."""

    def corners(y, p):
        """The mass that a row moves falls with the multiplier, linearly between these points."""
        knots = jnp.concatenate([y, y + p])
        gained = jnp.clip(y - y[:, None], 0, p > 0).sum(1)
        moved = jnp.concatenate([gained, jnp.clip(knots[:, None] - y, 0, p).sum(1)])
        moved = jnp.minimum(moved, 1.0)
        up, down = jax.vmap(levels, (None, None, 0))(y, p, moved)
        return (up - down.at[len(y) :].set(knots)) / 2, moved

    mu, moved = jax.vmap(corners)(x - p, p)  # [A, 3 n]
    shares = lambda at: jax.vmap(between, (None, 0, 0))(-at, -mu, moved)

    def halve(_, ends):
        at = (ends[0] + ends[1]) / 2
        more = shares(at).sum() > radius / 2
        return jnp.where(more, at, ends[0]), jnp.where(more, ends[1], at)

    digits = jnp.finfo(x.dtype).nmant + 4
    at = jax.lax.fori_loop(0, digits, halve, (mu.min(), mu.max()))[1]
    return jax.vmap(near)(x, p, 2 * shares(at))


def in_ball(x: jax.Array, radius: Any, least: float = -jnp.inf) -> jax.Array:
    """The nearest point to x with ‖x‖₁ <= radius and no entry below `least`, any shape."""
    size = jnp.abs(x).ravel()
    cap = jnp.where(x.ravel() < 0, jnp.minimum(radius, -least), radius)
    over = jnp.maximum(-level(-size, cap, radius), 0.0)
    return jnp.sign(x) * jnp.clip(size - over, 0, cap).reshape(x.shape)


# ---- the worst of a rectangular set: what gains most moves first -----------------------------


def gains(z: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a mass gains by going from each place [n] to where z is least on p's support, that."""
    to = jnp.where(p > 0, z, jnp.inf).argmin()
    return jnp.where(p > 0, z - z[to], 0.0), to


def before(gain: jax.Array) -> jax.Array:
    """[n, n]: whether j goes before i, which gains less, or as much and comes later."""
    i = jnp.arange(len(gain))
    return (gain > gain[:, None]) | ((gain == gain[:, None]) & (i < i[:, None]))


def least(z: jax.Array, p: jax.Array, radius: Any) -> jax.Array:
    """The rows q [A, n] with Σ_a ‖q_a - p_a‖₁ <= radius that make Σ_a q_a z_a least."""
    gain, to = jax.vmap(gains)(z, p)
    moved = radius / 2 - before(gain.ravel()) @ p.ravel()
    moved = jnp.clip(moved, 0, p.ravel()).reshape(p.shape)
    return p - moved + jax.nn.one_hot(to, p.shape[1], dtype=p.dtype) * moved.sum(1, keepdims=True)


def falls(z: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How the least q z falls with the mass that is moved, while it does, linearly between points:
    the masses and the values, [n + 1] each, in any order."""
    gain, _ = gains(z, p)
    first = before(gain) | jnp.eye(len(p), dtype=bool)
    mass, fall = first @ jnp.where(gain > 0, p, 0), first @ (p * gain)
    return jnp.pad(mass, (1, 0)), p @ z - jnp.pad(fall, (1, 0))


def each_row(f: Callable) -> Callable:
    """f(x [n], p [n], radius) for every state and action."""
    return jax.vmap(jax.vmap(f, (0, 0, None)), (0, 0, None))


# ---- the sets --------------------------------------------------------------------------------


class Kernels(NamedTuple):
    """A set of kernels p_ξ around the tables' own."""

    centre: Callable[[Any], Any]  # (mdp) -> the ξ of p̄
    kernel: Callable[..., jax.Array]  # (ξ, mdp) -> p_ξ [S, A, S]
    project: Callable[..., Any]  # (ξ, mdp, κ) -> the nearest ξ of the set
    least: Callable[..., Any]  # (g, mdp, κ) -> the ξ of the set with the least <g, ξ>
    backup: Any = None  # (V, mdp, γ, κ) -> max_π min_p r_π + γ p_π V, of a rectangular set


def furthest(kernels: Kernels, g: Any, xi: Any, mdp: Any, radius: Any) -> Any:
    """How far a linear function falls from ξ within the set: max_ξ' <g, ξ - ξ'>."""
    apart = optax.tree.sub(xi, kernels.least(g, mdp, radius))
    return optax.tree.vdot(g, apart)


def best_row(V: jax.Array, mdp: Any, gamma: Any, radius: Any) -> jax.Array:
    """The action whose worst is best."""
    p = ROWS.least(jnp.broadcast_to(V, mdp.P.shape), mdp, radius)
    return (mdp.r + gamma * p @ V).max(1)


def best_mixture(V: jax.Array, mdp: Any, gamma: Any, radius: Any) -> jax.Array:
    """The mixture whose worst is best. It equals the least u to which every action can be pressed
    with the mass that there is: min over the shares of max_a, as max and min may change places."""

    def state(p, r):
        mass, value = jax.vmap(falls, (None, 0))(V, p)
        q = r[:, None] + gamma * value  # [A, S + 1]
        u = jnp.maximum(q, q.min(1).max()).ravel()
        need = lambda u: jax.vmap(between, (None, 0, 0))(-u, -q, mass).sum()
        return -between(radius / 2, jax.vmap(need)(u), -u)

    return jax.vmap(state)(mdp.P, mdp.r)


def tilt(xi: dict, mdp: Any) -> jax.Array:
    """p_ξ(s'|s,a) ∝ p̄(s'|s,a) exp(θ(s') / λ(s,a))."""
    x = xi["theta"] / xi["lam"][..., None] + jnp.log(mdp.P)
    return jax.nn.softmax(x, -1)


def lower(g: jax.Array, radius: Any) -> jax.Array:
    """The x with ‖x‖₁ <= radius and the least <g, x>."""
    i = jnp.abs(g).argmax()
    return jnp.zeros(g.size, g.dtype).at[i].set(-radius * jnp.sign(g.ravel()[i])).reshape(g.shape)


ROWS = Kernels(
    centre=lambda mdp: mdp.P,
    kernel=lambda p, mdp: p,
    project=lambda p, mdp, radius: each_row(near)(p, mdp.P, radius),
    least=lambda g, mdp, radius: each_row(lambda *x: least(x[0][None], x[1][None], x[2])[0])(
        g, mdp.P, radius
    ),
    backup=best_row,
)
STATES = ROWS._replace(
    project=lambda p, mdp, radius: jax.vmap(near_all, (0, 0, None))(p, mdp.P, radius),
    least=lambda g, mdp, radius: jax.vmap(least, (0, 0, None))(g, mdp.P, radius),
    backup=best_mixture,
)
TILTED = Kernels(
    centre=lambda mdp: dict(theta=jnp.zeros_like(mdp.rho), lam=jnp.ones_like(mdp.r)),
    kernel=tilt,
    project=lambda xi, mdp, radius: dict(
        theta=in_ball(xi["theta"], radius * len(mdp.rho)),
        lam=1 + in_ball(xi["lam"] - 1, radius, FLOOR - 1),
    ),
    least=lambda g, mdp, radius: dict(
        theta=lower(g["theta"], radius * len(mdp.rho)), lam=1 + lower(g["lam"], radius)
    ),
)
SETS = {"rows": ROWS, "states": STATES, "tilted": TILTED}


# ---- what a policy, and the best one, are worth ----------------------------------------------


def evaluate(kernels: Kernels, mdp: Any, pi: jax.Array, gamma: Any, radius: Any) -> jax.Array:
    """V [S] of a policy under the worst kernel of a rectangular set: the worst against V, then its
    own V, until V falls no more. That is policy iteration of the adversary, and as exact."""

    def going(carry):
        V, last, n = carry
        return ((last - V).max() > 64 * jnp.finfo(V.dtype).eps * jnp.abs(V).max()) & (n < 100)

    def worsen(carry):
        p = kernels.least(pi[..., None] * carry[0], mdp, radius)
        return exact.value(mdp.replace(P=p), pi, gamma), carry[0], carry[2] + 1

    V = exact.value(mdp, pi, gamma)
    return jax.lax.while_loop(going, worsen, (V, V + jnp.inf, 0))[0]


def best(kernels: Kernels, mdp: Any, gamma: Any, radius: Any) -> jax.Array:
    """V* [S] of the best policy under the worst kernel of a rectangular set: robust value iteration
    until nothing changes but the rounding. (Iyengar 2005; Wiesemann, Kuhn, Rustem 2013.)"""

    def going(carry):
        V, last, n = carry
        settled = jnp.abs(V - last).max() <= 4 * jnp.finfo(V.dtype).eps * jnp.abs(V).max()
        return ~settled & (n < 10_000)

    def improve(carry):
        return kernels.backup(carry[0], mdp, gamma, radius), carry[0], carry[2] + 1

    V = mdp.r.max(1)
    return jax.lax.while_loop(going, improve, (V, V + jnp.inf, 0))[0]
