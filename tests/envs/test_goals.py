"""Hidden goals: what pays, and what is the most that one without memory is paid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import goals, registry
from envs.check import check
from jaxrl.errors import InputError
from jaxrl.rollout import evaluate

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", registry.OWN["goals"])
def test_it_keeps_the_protocol(name):
    assert check(f"goals/{name}", steps=60) == []


def test_names_and_parameters():
    assert envs.kind("goals/hidden") == "goals"
    assert envs.make("goals/hidden", max_steps=3).max_steps == 3
    with pytest.raises(InputError, match="goals: 0 is outside"):
        envs.make("goals/hidden", goals=0)
    with pytest.raises(InputError, match="did you mean radius"):
        envs.make("goals/hidden", radios=0.1)


def test_only_the_hidden_goal_pays_and_ends_it():
    env = goals.make("goals/hidden").env
    places = np.asarray(env.places())
    np.testing.assert_allclose(places, [[0.7, 0], [0, 0.7], [-0.7, 0], [0, -0.7]], atol=1e-6)
    for at in range(4):
        for shift, inside in ((0.29, True), (0.31, False)):
            s = env.step(KEY, jnp.int32(at), jnp.asarray(places[at] * (1 - shift / 0.7)))
            assert bool(s.terminated) == inside and float(s.reward) == inside
        s = env.step(KEY, jnp.int32(at), jnp.asarray(places[(at + 1) % 4]))
        assert not s.terminated and float(s.reward) == 0


def test_trying_each_goal_as_often_is_paid_what_is_said():
    world, n = envs.make("goals/hidden", goals=3, max_steps=4), 4000
    places = goals.make("goals/hidden", goals=3).env.places()

    def act(obs, memory, key):
        return places[jax.random.randint(key, (len(obs),), 0, 3)], memory

    got = np.asarray(evaluate(act, (), world, KEY, n)["return"])
    best = goals.make("goals/hidden", goals=3).env.best(4)
    assert best == pytest.approx(1 - (2 / 3) ** 4)
    assert got.mean() == pytest.approx(best, abs=float(4 * got.std() / n**0.5))
