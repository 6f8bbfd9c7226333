"""Preferences whose answers are known."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.registry import OWN
from jaxrl.completions import counted, task
from jaxrl.errors import InputError
from jaxrl.rewards import states

NAMES = OWN["preference"]
SMALL = dict(prompts=3, size=3, length=2)


def made(name, **params):
    own = {} if name in ("cycle", "sure", "gap") else SMALL
    return task(envs.make(f"preference/{name}", **own | params))


@pytest.mark.parametrize("name", NAMES)
def test_preferences_are_probabilities_of_two_that_sum_to_one(name):
    game = made(name)
    P = np.asarray(game.preferences)
    np.testing.assert_allclose(P + P.swapaxes(1, 2), 1.0, atol=1e-6)
    assert P.min() >= 0 and P.max() <= 1
    np.testing.assert_allclose(jnp.exp(game.reference).sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(game.cover.sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_preferences_by_hand(name):
    """The formula, annotator by annotator, and the oracle of two states."""
    game = made(name)
    r, u = np.asarray(game.rewards, float), np.asarray(game.features, float)
    rows = counted(game)
    N = r.shape[2]
    state = states(game, rows.number, rows.tokens)
    for x, i, j in itertools.product(range(r.shape[1]), range(0, N, 2), range(1, N, 2)):
        turn = sum(
            u[x, i, k] * u[x, j, k + 1] - u[x, i, k + 1] * u[x, j, k]
            for k in range(0, u.shape[2], 2)
        )
        more = [float(game.sharp) * (r[m, x, i] - r[m, x, j] + turn) for m in range(len(r))]
        want = np.mean([1 / (1 + math.exp(-min(max(d, -500), 500))) for d in more])
        assert float(game.preferences[x, i, j]) == pytest.approx(want, abs=1e-5)
        one, two = (jax.tree.map(lambda y, k=x * N + k: y[k], state) for k in (i, j))
        assert float(game.beats(one, two)) == pytest.approx(want, abs=1e-5)
        assert float(game.score(one)) == pytest.approx(r[:, x, i].mean(), abs=1e-5)


def test_noise_is_a_coin_for_some_answers():
    sure, noisy = made("gibbs"), made("gibbs", noise=0.4)
    want = 0.6 * sure.preferences + 0.2
    np.testing.assert_allclose(noisy.preferences, want, atol=1e-6)


def test_a_cycle_and_an_order():
    P = made("cycle").preferences[0]
    assert P[0, 1] > 0.8 and P[1, 2] > 0.8 and P[2, 0] > 0.8
    P = made("sure").preferences[0]
    assert P[0, 1] == P[1, 2] == P[0, 2] == 1.0
    assert made("gap").cover[0, 2] == 0.0


def test_coverage_is_a_share_of_the_responses_and_tilt_turns_the_reference():
    some = made("gibbs", coverage=0.5)
    assert ((some.cover > 0).sum(-1) == 4).all()
    plain, tilted = made("gibbs"), made("gibbs", tilt=2.0)
    np.testing.assert_allclose(
        jax.nn.log_softmax(plain.reference - 2.0 * plain.rewards[0]), tilted.reference, atol=1e-5
    )


def test_a_crowd_has_no_reward_that_says_what_it_prefers():
    """Bradley and Terry's log-odds add up along any path; a mean of three such does not."""
    odds = lambda P: np.log(P / (1 - P))
    for name, adds in dict(gibbs=True, crowd=False).items():
        P = np.asarray(made(name).preferences, float)[0]
        off = odds(P[0, 1]) + odds(P[1, 2]) - odds(P[0, 2])
        assert (abs(off) < 1e-3) == adds


def test_another_seed_draws_another_problem_of_the_same_shape():
    one, two = made("gold", seed=1), made("gold", seed=2)
    assert one.rewards.shape == two.rewards.shape and (one.rewards != two.rewards).any()
    assert jax.tree.structure(one) == jax.tree.structure(two)


def test_more_prompts_than_tokens_take_several_of_them():
    game = task(envs.make("preference/gibbs", prompts=10, size=3, length=1))
    assert game.P == 3
    prompts = counted(game).tokens[::3, :3]
    assert len({tuple(np.asarray(p)) for p in prompts}) == 10


@pytest.mark.parametrize(
    "name, params, says",
    [
        ("gibbs", dict(size=10, length=8), "size ** length = 100000000 responses, 65536 at most"),
        ("gibbs", dict(coverage=2.0), "coverage: 2 is outside [0, 1]"),
        ("gibbs", dict(prompts=0), "prompts"),
        ("cycle", dict(scale=1.0), "scale"),
        ("sure", dict(sharp=-1.0), "sharp: -1 is outside"),
    ],
)
def test_bad_parameters_are_said_in_a_line(name, params, says):
    with pytest.raises(InputError) as e:
        envs.make(f"preference/{name}", **params)
    assert says in str(e.value) and "\n" not in str(e.value)
