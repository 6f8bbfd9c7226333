"""The online family's accounts against slow sums, and its environments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import episodic
from jaxrl.core import Algo
from jaxrl.errors import InputError
from jaxrl.families import exact, online
from jaxrl.hyper import cast
from jaxrl.papers.theory.ravi_ucb import RaviUCB

H = 2


def drawn(n=1, seed=0, steps=H):
    pi = np.random.default_rng(seed).dirichlet(np.ones(3), (n, steps, 4))
    return jnp.asarray(pi, jnp.float32)


def worth(mdp, r, pi):
    """J by a sum over every path."""
    P, rho, total = np.asarray(mdp.P), np.asarray(mdp.rho), 0.0
    for path in itertools.product(range(4), range(3), repeat=len(pi)):
        s, a = path[::2], path[1::2]
        p = rho[s[0]] * np.prod([pi[h, s[h], a[h]] for h in range(len(pi))])
        p *= np.prod([P[s[h], a[h], s[h + 1]] for h in range(len(pi) - 1)])
        total += p * sum(r[s[h], a[h]] for h in range(len(pi)))
    return total


@pytest.mark.parametrize("name", ["steady", "switching"])
def test_regret_is_what_the_best_fixed_policy_of_all_would_have_had_more(name):
    """Over 130 rounds of three policies in turn: every deterministic policy's sum, one by one."""
    world = envs.make(f"tabular/{name}", max_steps=H, gap=0.4)
    mdp, turns, rounds = world.tables, drawn(3), 130
    protocol = online.episodes(world)
    policy = lambda t, mdp, hp: turns[t % 3]
    algo: Algo = online.online(
        protocol, lambda key, mdp, hp: 0, policy, lambda t, seen, pi, mdp, now, hp: now + 1
    )
    hp = cast(online.Online())
    run = jax.jit(
        lambda s: jax.lax.scan(lambda s, t: algo.step(s, t, hp, world), s, jnp.arange(rounds))
    )
    m = run(algo.init(jax.random.key(0), hp, world))[1]
    tables = [np.asarray(mdp.r)] * 2 if name == "steady" else list(np.asarray(mdp.turns))
    second = 100  # the first episode of the second phase
    J = [worth(mdp, tables[int(t >= second)], np.asarray(turns[t % 3])) for t in range(6)]
    J += [worth(mdp, tables[1], np.asarray(turns[t % 3])) for t in range(second, second + 3)]
    had = np.array([J[t % 3] if t < second else J[6 + (t - second) % 3] for t in range(rounds)])
    np.testing.assert_allclose(m["episode_return"], had, rtol=1e-5)

    def value(r):  # [policies]: each picks one action a state in either step
        V = np.zeros((1, 4))
        for _ in range(H):
            Q = r + np.einsum("sap,np->nsa", np.asarray(mdp.P), V)
            V = np.stack([Q[:, range(4), a] for a in itertools.product(range(3), repeat=4)], 1)
            V = V.reshape(-1, 4)
        return V @ np.asarray(mdp.rho)

    each = [value(r) for r in tables]
    for t in (0, 50, 99, 100, 129):
        n = min(t + 1, second), max(t + 1 - second, 0)
        want = (n[0] * each[0] + n[1] * each[1]).max() - had[: t + 1].sum()
        np.testing.assert_allclose(m["regret"][t], want, rtol=1e-4, atol=1e-4)
        now = each[int(t >= second)].max() - had[t]
        np.testing.assert_allclose(m["gap"][t], now, atol=1e-5)


def test_phases_grow_by_half():
    """Of 100, 150, 225 episodes."""
    at = jnp.array([0, 99, 101, 249, 251, 474, 476, 811, 813])
    np.testing.assert_array_equal(online.phase(at), [0, 0, 1, 1, 2, 2, 3, 3, 4])


def test_an_episode_has_the_occupancy_that_is_said():
    mdp, pi, n = envs.make("tabular/steady").tables, drawn(1, 1, 3)[0], 60_000
    play = jax.vmap(lambda k: episodic.episode(k, mdp.P, mdp.rho, pi))
    s, a = jax.jit(play)(jax.random.split(jax.random.key(0), n))
    seen = np.stack([np.bincount(3 * s[:, h] + a[:, h], minlength=12) / n for h in range(3)])
    d, rows = np.asarray(mdp.rho, float), []
    for h in range(3):
        rows.append(d[:, None] * np.asarray(pi[h]))
        d = np.einsum("sa,sap->p", rows[-1], np.asarray(mdp.P))
    np.testing.assert_allclose(seen.reshape(3, 4, 3), rows, atol=0.008)
    got = episodic.occupancy(mdp.P, mdp.rho, pi)[..., None] * pi
    np.testing.assert_allclose(got, rows, atol=1e-6)


def test_chosen_never_takes_what_has_no_probability():
    p = jnp.array([0.0, 0.3, 0.0, 0.7, 0.0])
    u = jnp.array([0.0, 0.29, 0.31, 1 - 2**-24])
    np.testing.assert_array_equal(episodic.chosen(p, u), [1, 1, 3, 3])


def test_a_stream_is_where_the_discounted_occupancy_says_and_loses_what_it_says():
    world, hp = envs.make("tabular/riverswim", length=3), cast(RaviUCB(num_steps=20_000, gamma=0.9))
    mdp, protocol = world.tables, online.stream()
    pi = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(2), 3), jnp.float32)
    account = protocol.begin(jax.random.key(0), mdp, hp)
    play = jax.jit(lambda a, k: protocol.play(a, pi, k, mdp, 0, hp))
    account, n, m = play(account, jax.random.key(1))
    d = exact.occupancy(mdp, pi, 0.9)
    np.testing.assert_allclose(n.sum((1, 2)) / 20_000, d, atol=0.02)
    P = n.sum(1) / n.sum((1, 2), keepdims=True)[..., 0]
    np.testing.assert_allclose(P, exact.under(mdp, pi)[0], atol=0.02)
    loses = 0.1 * exact.optimum(mdp, hp) - (d[:, None] * pi * mdp.r).sum()
    np.testing.assert_allclose(m["regret"], 20_000 * loses, rtol=1e-3)


def test_riverswim_is_the_published_one():
    """Osband, Russo and Van Roy 2013, figure 1; and its best policy swims."""
    mdp = envs.make("tabular/riverswim").tables
    P = np.asarray(mdp.P)
    np.testing.assert_allclose(P[0, 1, :2], [0.4, 0.6])
    np.testing.assert_allclose(P[3, 1, 2:5], [0.05, 0.6, 0.35], atol=1e-6)
    np.testing.assert_allclose(P[5, 1, 4:], [0.4, 0.6], atol=1e-6)
    assert (P[range(1, 6), 0, range(5)] == 1).all() and P[0, 0, 0] == 1
    V = exact.best(mdp, 0.95)
    assert (exact.action_value(mdp, V, 0.95).argmax(1) == 1).all()


def test_a_world_without_a_time_limit_is_refused_in_one_line():
    world = envs.make("tabular/chain").env.env
    with pytest.raises(InputError, match="chain has no time limit"):
        episodic.length(world)
