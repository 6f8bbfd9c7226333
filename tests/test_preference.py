"""The preference family: tables, exact losses, sets, and what is known exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
from jaxrl import core, hyper, preferences
from jaxrl.completions import counted, decode, everything, judge, model, task
from jaxrl.errors import InputError
from jaxrl.families.preference import Preference, nash, preference
from jaxrl.papers.preference import dpo
from jaxrl.rewards import drawn
from jaxrl.run import catalogue
from tests.programs import at_once

SMALL = dict(prompts=2, size=3, length=2)
WORLD = envs.make("preference/gibbs", **SMALL)
TABLE = Preference.network_for("preference")
GAME, NET = task(WORLD), model(WORLD, TABLE)


@pytest.fixture(scope="module")
def params():
    table = jax.random.normal(jax.random.key(1), (2, 9))
    value = jax.random.normal(jax.random.key(2), (2, 4))
    return dict(params=dict(table=table, value=value))


# ---- tables


def test_a_table_is_a_softmax_over_whole_responses(params):
    log_p, R = at_once(everything)(NET, params, GAME)
    np.testing.assert_allclose(log_p, jax.nn.log_softmax(params["params"]["table"]), atol=1e-5)
    np.testing.assert_allclose(R, GAME.rewards[0], rtol=1e-6)


def test_a_table_writes_what_it_says(params):
    """Frequencies of what is decoded, its log-probabilities, and the same from the window."""
    numbers = jnp.repeat(jnp.arange(2), 4000)
    x = at_once(decode)(NET, params, GAME, numbers, jax.random.key(0))
    y = at_once(decode)(NET, params, GAME, numbers, jax.random.key(0), cached=False)
    np.testing.assert_array_equal(x.state.tokens, y.state.tokens)
    at = GAME.number(x.state.tokens[:, 1:])
    p = jnp.exp(at_once(everything)(NET, params, GAME)[0])
    for i in range(2):
        share = jnp.bincount(at[numbers == i], length=9) / 4000
        np.testing.assert_allclose(share, p[i], atol=0.03)
    np.testing.assert_allclose(x.log_prob.sum(-1), jnp.log(p)[numbers, at], atol=1e-4)


def test_tables_are_for_what_can_be_counted():
    with pytest.raises(InputError, match="completions of tokens/add are too many to count"):
        model(envs.make("tokens/add"), TABLE)


# ---- what is known exactly


def test_gibbs_policy_gets_most():
    ref, r = GAME.reference, GAME.rewards[0]
    best = preferences.gibbs(ref, r, 0.5)
    most = preferences.objective(best, ref, r, 0.5)
    Z = (jnp.exp(ref) * jnp.exp(r / 0.5)).sum(-1)
    np.testing.assert_allclose(most, 0.5 * jnp.log(Z), rtol=1e-5)
    for key in jax.random.split(jax.random.key(0), 20):
        other = jax.nn.log_softmax(best + 0.3 * jax.random.normal(key, best.shape))
        assert (preferences.objective(other, ref, r, 0.5) < most).all()


@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_nash_is_its_own_best_answer_and_its_gap_is_zero(beta):
    game = task(envs.make("preference/game", **SMALL))
    P, ref = game.preferences, game.reference
    star = preferences.nash(P, ref, beta)
    answer = preferences.gibbs(ref, preferences.win_rate(P, star), beta)
    np.testing.assert_allclose(star, answer, atol=1e-4)
    np.testing.assert_allclose(preferences.duality_gap(star, P, ref, beta), 0.0, atol=1e-5)
    assert (preferences.duality_gap(ref, P, ref, beta) > 0.01).all()


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_the_duality_gap_by_trying_all_answers(beta):
    """Against many random answers: none is better than the closed form says, and one is near."""
    game = task(envs.make("preference/cycle"))
    P, ref = np.asarray(game.preferences[0], float), np.asarray(game.reference[0], float)
    p = np.array([0.5, 0.2, 0.3])
    kl = lambda q: (q * (np.log(q) - ref)).sum()
    rng = np.random.default_rng(0)
    tried = rng.dirichlet(0.5 * np.ones(3), 20_000) + 1e-9
    J = [q @ P @ p - beta * kl(q) + beta * kl(p) for q in tried]
    want = preferences.duality_gap(jnp.log(p), game.preferences[0], game.reference[0], beta)
    assert max(J) <= (float(want) + 1) / 2 + 1e-5
    assert max(J) == pytest.approx((float(want) + 1) / 2, abs=0.01)


# ---- sets


def after_one(hp, draw=()):
    """The state and the metrics of DPO after an iteration."""
    algo, hp = preference(WORLD, TABLE, dpo.loss, draw=draw), hyper.cast(hp)
    run = lambda key: algo.step(algo.init(key, hp, WORLD), jnp.int32(0), hp, WORLD)
    return jax.jit(run)(jax.random.key(0))


def test_the_preferred_one_is_first_as_often_as_the_oracle_has_it():
    hp = Preference(sets=4000, minibatch=4000, updates=1)
    s, _ = after_one(hp)
    at = GAME.number(s.sets.tokens[..., 1:])
    P = np.asarray(GAME.preferences)
    won = np.zeros((2, 9, 9))
    np.add.at(won, (s.sets.number, at[:, 0], at[:, 1]), 1)
    total = won + won.swapaxes(1, 2)
    share = won / np.maximum(total, 1)
    off = np.abs(share - P) * np.sqrt(np.maximum(total, 1))
    assert off[total > 20].max() < 4 * 0.5
    np.testing.assert_array_equal(s.sets.win, np.tile([1.0, 0.0], (4000, 1)))


def test_answers_of_a_pair_agree():
    chance = jnp.full((1000, 3, 3), 0.7)
    won = drawn(chance, jax.random.key(0))
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_array_equal((won + won.swapaxes(1, 2))[:, off], 1.0)
    assert won[:, 0, 1].mean() == pytest.approx(0.7, abs=0.05)
    assert (won[:, np.eye(3, dtype=bool)] == 0).all()


def test_responses_are_from_who_is_said_to_draw_them():
    """Counts of what each draw gave, a mixture among them."""
    mix = lambda logs, hp: 0.5 * logs.policy + 0.5 * logs.score
    hp = Preference(sets=8000, minibatch=8, updates=1)
    s, _ = after_one(hp, ("data", mix))
    at = GAME.number(s.sets.tokens[..., 1:])
    of = lambda which: at[s.sets.drawn == which]
    want = [GAME.cover, jax.nn.softmax(0.5 * GAME.reference + 0.5 * GAME.rewards[0])]
    for which, p in enumerate(want):
        for x in range(2):
            mine = of(which)[s.sets.number == x]
            np.testing.assert_allclose(jnp.bincount(mine, length=9) / len(mine), p[x], atol=0.03)


def test_the_expected_loss_is_the_mean_of_sampled_ones():
    """The gradients of `sets` = 0 and of many sampled pairs, of a loss that sees all of a set."""

    def loss(w, b, hp):
        first = w.log_ratio[:, 0] * (b.score[:, 0] + b.win[:, 0]) - 0.3 * w.policy[:, 1]
        return dpo.loss(w, b, hp) + first + 0.1 * (b.drawn[:, 0] - b.drawn[:, 1]) * w.ref[:, 0] ** 2

    def grads(sets):
        hp = Preference(sets=sets, minibatch=max(sets, 1), updates=1, lr=1.0)
        sgd = lambda hp, t=0: optax.sgd(1.0)
        draw = ("policy", lambda logs, hp: 0.5 * logs.score)
        algo = preference(WORLD, TABLE, loss, draw=draw, optimiser=sgd, versus="data")
        hp = hyper.cast(hp)
        s = algo.init(jax.random.key(0), hp, WORLD)
        t = jax.jit(lambda s: algo.step(s, jnp.int32(0), hp, WORLD)[0])(s)
        return s.params["params"]["table"] - t.params["params"]["table"]

    exact, sampled = grads(0), grads(60_000)
    assert jnp.abs(exact).max() > 0.05
    np.testing.assert_allclose(sampled, exact, atol=0.02)


def test_what_is_remembered_is_learned_from_and_what_is_not_there_yet_is_not():
    algo = preference(WORLD, TABLE, dpo.loss)
    hp = hyper.cast(Preference(sets=8, minibatch=8, updates=2, remember=3))
    s = algo.init(jax.random.key(0), hp, WORLD)
    step = jax.jit(lambda s, t: algo.step(s, t, hp, WORLD))
    rows = []
    for t in range(4):
        s, m = step(s, jnp.int32(t))
        assert np.isfinite(m["loss"]) and m["loss"] < 5
        rows.append(np.asarray(s.sets.tokens))
    assert (rows[0][8:] == 0).all() and (rows[1][:8] == rows[0][:8]).all()
    assert (rows[3][8:] == rows[2][8:]).all() and (rows[3][:8] != rows[2][:8]).any()
    assert m["labels"] == 32


def test_fixed_sets_stay_and_cost_their_labels_once():
    algo = dpo.make(WORLD, TABLE)
    hp = hyper.cast(dpo.DPO(sets=16, minibatch=8, updates=2))
    s = jax.jit(algo.init)(jax.random.key(0), hp, WORLD)
    t, m = jax.jit(lambda s: algo.step(s, jnp.int32(0), hp, WORLD))(s)
    assert (t.sets.tokens == s.sets.tokens).all() and m["labels"] == 16


def test_the_second_time_begins_where_the_first_did_against_what_it_made():
    """Extragradient: with a loss that pulls the policy to the opponent's win rates."""

    def loss(w, b, hp):
        return -(w.policy * b.win).sum(-1)

    sgd = lambda hp, t=0: optax.sgd(hp.lr)
    game = envs.make("preference/cycle")
    uniform = lambda logs, hp: jnp.zeros_like(logs.policy)
    how = dict(draw=(uniform, uniform), versus="policy", optimiser=sgd, optimum=nash)
    hp = hyper.cast(Preference(sets=0, updates=1, lr=0.3))
    once, twice = (preference(game, TABLE, loss, again=a, **how) for a in (False, True))
    s = jax.jit(once.init)(jax.random.key(0), hp, game)
    theta = lambda s: s.params["params"]["table"][0]
    P, start = task(game).preferences[0], theta(s)

    def moved(theta, opponent):
        w = P @ jax.nn.softmax(opponent)
        of = lambda th: -2 / 3 * (jax.nn.log_softmax(th) * w).sum()
        return theta - 0.3 * jax.grad(of)(theta)

    half = moved(start, start)
    np.testing.assert_allclose(theta(jax.jit(once.step)(s, 0, hp, game)[0]), half, atol=1e-5)
    after = theta(jax.jit(twice.step)(s, 0, hp, game)[0])
    np.testing.assert_allclose(after, moved(start, half), atol=1e-5)


def test_a_reward_model_answers_in_the_oracles_place():
    hp = Preference(sets=64, minibatch=8, updates=1, reward_pairs=256)
    s, m = after_one(hp)
    assert np.abs(s.sets.score - s.sets.gold).max() > 0.01
    assert m["labels"] == 256 + 64


def test_exact_metrics_are_what_they_say():
    algo = dpo.make(WORLD, TABLE)
    hp = hyper.cast(dpo.DPO(sets=0, updates=3))
    s = algo.init(jax.random.key(0), hp, WORLD)
    step = jax.jit(lambda s, t: algo.step(s, t, hp, WORLD))
    pis = []
    for t in range(3):
        s, m = step(s, jnp.int32(t))
        pis.append(np.asarray(jax.nn.softmax(s.params["params"]["table"]), float))
    p, ref, r = pis[-1], np.asarray(GAME.reference, float), np.asarray(GAME.rewards[0], float)
    kl = (p * (np.log(p) - ref)).sum(-1)
    assert float(m["episode_return"]) == pytest.approx((p * r).sum(-1).mean(), rel=1e-4)
    assert float(m["kl_ref"]) == pytest.approx(kl.mean(), rel=1e-3)
    J = (p * r).sum(-1) - 0.5 * kl
    most = 0.5 * np.log((np.exp(ref) * np.exp(r / 0.5)).sum(-1))
    assert float(m["objective"]) == pytest.approx(J.mean(), rel=1e-3)
    assert float(m["regret"]) == pytest.approx((most - J).mean(), rel=1e-3)
    best = np.exp(ref + r / 0.5) / np.exp(ref + r / 0.5).sum(-1, keepdims=True)
    assert float(m["tv"]) == pytest.approx(np.abs(p - best).sum(-1).max() / 2, rel=1e-3)
    np.testing.assert_allclose(s.average, np.mean(pis, 0), atol=1e-5)
    plain = [2 * (P @ q).max() - 1 for P, q in zip(np.asarray(GAME.preferences), np.mean(pis, 0))]
    assert float(m["gap_average_plain"]) == pytest.approx(np.mean(plain), rel=1e-3)


def test_transformers_and_tasks_that_are_not_counted():
    """The same methods: pairs of a task's own, and per-token mixtures of two models."""
    world = envs.make("tokens/sort", length=5)
    net = Preference.network_for("tokens").replace(hidden=(8,))
    mix = lambda logs, hp: 0.5 * logs.policy + 0.5 * logs.ref
    algo = preference(world, net, dpo.loss, draw=(mix, "ref"))
    hp = hyper.cast(Preference(sets=16, minibatch=8, updates=2))
    run = jax.jit(lambda k: core.train(algo, k, hp, world, 2))
    s, m = run(jax.random.key(0))
    assert "tv" not in m and np.isfinite(m["loss"]).all() and m["episodes"][0] == 32
    fixed = dpo.make(world, net)
    _, m = jax.jit(lambda k: core.train(fixed, k, hp, world, 2))(jax.random.key(0))
    assert np.isnan(m["episode_return"]).all() and (m["episodes"] == 0).all()
    with pytest.raises(InputError, match="sets: 0 takes all pairs"):
        jax.jit(algo.init)(jax.random.key(0), hp.replace(sets=0), world)


def test_impossible_hyperparameters_are_said():
    for changes, says in (
        (dict(sets=0, responses=3), "sets: 0"),
        (dict(responses=4, candidates=3), "candidates: 3"),
    ):
        assert says in Preference(**changes).problem()


def test_counted_rows_are_in_the_order_of_their_numbers():
    rows = counted(GAME)
    for x, y in itertools.product(range(2), range(9)):
        assert GAME.number(rows.tokens[x * 9 + y, 1:]) == y and rows.number[x * 9 + y] == x
    w = judge(NET, dict(params=dict(table=jnp.zeros((2, 9)), value=jnp.zeros((2, 4)))), rows, 1.0)
    np.testing.assert_allclose(w.log_prob, -np.log(3), rtol=1e-5)


@pytest.mark.parametrize("slug", ["sft", "psipo", "online_ipo", "egpo", "best_of_n"])
def test_methods_play_where_pairs_cannot_be_counted(slug):
    """What an optimum is made of may not be known: then there is no `tv`."""
    module, cls = catalogue.load(slug)
    world = envs.make("preference/gold", prompts=1, size=7, length=3)  # 343 responses
    algo = module.make(world, cls.network_for("preference"))
    hp = hyper.cast(cls.for_env("preference").replace(sets=8, minibatch=4, updates=1))
    step = lambda key: algo.step(algo.init(key, hp, world), jnp.int32(0), hp, world)[1]
    metrics = jax.eval_shape(step, jax.random.key(0))
    assert ("tv" in metrics) == (slug == "best_of_n") and "gap" not in metrics
