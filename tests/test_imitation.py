"""The imitation family: no reward is read, terminals are neutral, and rows are drawn as is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.errors import InputError
from jaxrl.families import imitation
from jaxrl.families.imitation import Imitation
from jaxrl.families.off_policy import n_steps, replay
from jaxrl.hyper import cast, check
from jaxrl.papers.imitation import dac
from jaxrl.papers.imitation.dac import DAC
from jaxrl.policies import Network
from jaxrl.run.battery import Rewarded
from jaxrl.types import Batch
from tests.papers.by_hand import KEY, quick, same

TINY = dict(num_envs=2, num_steps=4, updates=2, disc_updates=2, batch_size=8, buffer_size=32)
HP = cast(DAC(**TINY, learning_starts=8))


def rows(M, terminated, n=1):
    """Sequences [M, n] of a buffer."""
    rng, float32 = np.random.default_rng(0), lambda x: jnp.asarray(x, jnp.float32)
    obs, ahead = float32(rng.normal(size=(2, M, n, 3)))
    action = float32(rng.uniform(-1, 1, (M, n, 1)))
    done = jnp.broadcast_to(jnp.asarray(terminated)[:, None], (M, n))
    return Batch(obs, action, (), None, next_value=ahead, terminated=done, done=done)


def test_no_reward_is_read():
    world = envs.make("random/Pendulum-v1", rows=24, max_steps=3)
    algo = dac.make(world, Network(hidden=(4,)))
    assert jax.eval_shape(algo.init, KEY, HP, world).buffer.experience.reward is None

    def run(scale):
        odd = Rewarded(world.replace(data=world.data.replace(reward=scale * world.data.reward)))
        odd = odd.replace(scale=scale)
        s, m = algo.step(algo.init(KEY, HP, odd), 0, HP, odd)
        return s.params, m["episode_return"]

    params, returns = quick(jax.vmap(run))(jnp.array([1.0, -100.0]))
    one, other = (jax.tree.map(lambda x, i=i: x[i], params) for i in (0, 1))
    assert same(one, other)
    np.testing.assert_allclose(returns[1], -100 * returns[0], rtol=1e-4)


@pytest.mark.parametrize("n", [1, 3])
def test_where_the_reward_is_the_same_everywhere_so_is_the_value(n):
    """c / (1 - γ) of a terminal and of what goes on: nothing is gained or lost by an end."""
    hp, c = HP.replace(gamma=0.9), 0.7
    D = lambda x: jnp.full(len(x), c)
    b = n_steps(imitation.rewarded(D, rows(4, [True, False, True, False], n), hp), hp.gamma)
    np.testing.assert_allclose(b.reward + b.discount * c / (1 - 0.9), c / (1 - 0.9), rtol=1e-5)
    np.testing.assert_array_equal(b.discount == 0, [True, False, True, False])


def test_a_terminal_s_reward_has_the_absorbing_state_s_value():
    hp = HP.replace(gamma=0.8)
    D = lambda x: x @ jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])  # 5 of the absorbing state
    b = rows(2, [True, False])
    x = np.concatenate([b.obs[:, 0], b.action[:, 0]], 1) @ np.array([1.0, 2.0, 3.0, 4.0])
    got = imitation.rewarded(D, b, hp).reward[:, 0]
    np.testing.assert_allclose(got, x + np.array([4.0 * 5.0, 0.0]), rtol=1e-5)


def test_the_absorbing_state_is_met_as_often_as_terminals_are():
    b = jax.tree.map(lambda x: x[:, 0], rows(4000, np.arange(4000) % 4 == 0))
    x, weight = imitation.occupied(b, KEY)
    absorbed = np.asarray(x[:, -1] == 1)
    assert not absorbed[np.arange(4000) % 4 > 0].any()
    assert (np.asarray(x)[absorbed, :-1] == 0).all()
    of = lambda flags: float(weight[flags].sum()) / 4000
    assert abs(of(absorbed) - 0.25) < 0.03  # once for each terminal
    assert of(~absorbed & np.asarray(b.terminated)) == pytest.approx(0.25, abs=0.03)
    assert of(~np.asarray(b.terminated)) == 0.75


def test_the_gradient_penalty_is_of_the_norm_between_the_pairs():
    x, y = jax.random.normal(KEY, (2, 6, 3))
    w = jnp.array([1.0, -2.0, 2.0])
    got = imitation.gradient_penalty(lambda z: z @ w, x, y, KEY)
    np.testing.assert_allclose(got, (3.0 - 1.0) ** 2, rtol=1e-5)
    D = lambda z: 0.5 * jnp.square(z).sum(-1)  # of which the gradient is z itself
    u = jax.random.uniform(KEY, (6, 1))
    z = np.linalg.norm(u * x + (1 - u) * y, axis=1)
    got = imitation.gradient_penalty(D, x, y, KEY)
    np.testing.assert_allclose(got, np.square(z - 1).mean(), rtol=1e-5)


def test_rows_are_drawn_by_the_age_of_their_round():
    """Five rounds into a buffer of four: what was overwritten is never drawn."""
    hp = Imitation(**TINY | dict(batch_size=4000), learning_starts=8)
    assert hp.rounds == 4
    buffer = replay(hp).init(dict(round=jnp.int32(0), env=jnp.int32(0), step=jnp.int32(0)))
    for t in range(5):
        row = dict(
            round=jnp.full((2, 4), t), env=jnp.arange(2)[:, None] + 0 * jnp.arange(4)[None], step=0
        )
        row["step"] = jnp.broadcast_to(jnp.arange(4), (2, 4))
        buffer = replay(hp).add(buffer, row)
    p = np.array([0.5, 0.3, 0.15, 0.05])
    drawn = imitation.aged(buffer, jnp.asarray(p, jnp.float32), KEY, 4, hp)
    share = lambda x, n: np.bincount(np.asarray(x), minlength=n) / 4000
    np.testing.assert_allclose(share(drawn["round"], 5), [0.0, *p[::-1]], atol=0.03)
    np.testing.assert_allclose(share(drawn["env"], 2), 0.5, atol=0.03)
    np.testing.assert_allclose(share(drawn["step"], 4), 0.25, atol=0.03)


def test_bad_input_is_said_in_a_line():
    with pytest.raises(InputError, match="buffer_size: 36 is not a multiple of num_envs"):
        check(DAC(**TINY | dict(buffer_size=36), learning_starts=8))
    world = envs.make("Pendulum-v1")
    with pytest.raises(InputError, match="no recorded data"):
        dac.make(world).init(KEY, HP, world)
