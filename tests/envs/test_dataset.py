"""Datasets: the file, what is wrong with one, and the world around it."""

import json
import pickle
import subprocess
import sys
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import envs
from envs import dataset, recorded, registry
from envs.base import AutoReset, Step
from envs.scores import RANGES
from envs.spaces import Box, Discrete
from jaxrl.errors import InputError
from jaxrl.rollout import evaluate

KEY = jax.random.key(0)
ABOUT = dict(env="CartPole-v1", env_params=dict(max_steps=15))


def fails(call, *args, **kwargs):
    with pytest.raises(InputError) as e:
        call(*args, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.fixture(scope="module")
def poles():
    """60 random steps of CartPole, cut after 15: some episodes fall, some are cut."""
    world = envs.make("CartPole-v1", max_steps=15)
    data = recorded.record(recorded.uniform(world), lambda n: (), world, KEY, 60)
    return data


def pole(s, action):
    """CartPole's next state by Euler's method (Barto, Sutton and Anderson 1983), and whether it is
    the end."""
    x, v, theta, w = np.asarray(s, float)
    force = 10.0 if action else -10.0
    temp = (force + 0.05 * w**2 * np.sin(theta)) / 1.1
    alpha = (9.8 * np.sin(theta) - np.cos(theta) * temp) / (
        0.5 * (4 / 3 - 0.1 * np.cos(theta) ** 2 / 1.1)
    )
    a = temp - 0.05 * alpha * np.cos(theta) / 1.1
    new = np.array([x + 0.02 * v, v + 0.02 * a, theta + 0.02 * w, w + 0.02 * alpha])
    return new, bool(abs(new[0]) > 2.4 or abs(new[2]) > 12 * np.pi / 180)


def test_every_row_leads_where_physics_says(poles):
    """Over cuts too: the next observation is the true one, and the next episode's is elsewhere."""
    rows, age = recorded.rows(poles), 0
    assert poles.terminated.any() and poles.truncated.any()
    for i in range(60):
        after, over = pole(rows.obs[i], rows.action[i])
        np.testing.assert_allclose(rows.next_obs[i], after, rtol=1e-4, atol=1e-5)
        age += 1
        assert rows.terminated[i] == over and poles.truncated[i] == (age == 15 and not over)
        assert rows.cut[i] == (over or age == 15 or i == 59)
        own = rows.cut[i]
        assert rows.next_action[i] == (rows.action[i] if own else rows.action[i + 1])
        if own and i < 59:
            assert not np.allclose(rows.next_obs[i], rows.obs[i + 1], atol=1e-3)
            age = 0
    assert set(np.asarray(poles.action)) == {0, 1} and not rows.cut[:-1].all()


def counted(steps, rows):
    """Copies whose observation tells copy and time, two that stop after so many steps."""
    at = lambda i: (100 * np.arange(2) + i)[None].repeat(steps, 0) + np.arange(steps)[:, None]
    flags = np.zeros((2, steps, 2), bool)
    flags[0, 1, 0] = flags[1, 0, 1] = True  # copy 0 terminates at its 2nd step, 1 is cut at its 1st
    parts = dict(obs=at(0), action=at(0), reward=1.0 * at(0), final_obs=10.0 * at(0))
    return dataset.trajectories(parts | dict(terminated=flags[0], truncated=flags[1]), rows)


def test_copies_follow_each_other_and_are_cut_where_recording_stopped():
    data = counted(3, 5)
    np.testing.assert_array_equal(data.obs, [0, 1, 2, 100, 101])
    np.testing.assert_array_equal(data.ends, [1, 2, 3, 4])
    np.testing.assert_array_equal(data.final_obs, [10, 20, 1000, 1010])
    np.testing.assert_array_equal(data.complete, [True, False, True, False])
    np.testing.assert_array_equal(data.returns, [1, 2, 100, 101])
    both = dataset.joined([data, data])
    assert dataset.wrong(both) == ""
    np.testing.assert_array_equal(both.ends, [1, 2, 3, 4, 6, 7, 8, 9])


def test_a_terminal_that_diverged_is_no_number_less():
    parts = dict(obs=np.zeros((1, 2, 1)), action=np.zeros((1, 2)), reward=np.zeros((1, 2)))
    parts |= dict(final_obs=np.full((1, 2, 1), np.nan), truncated=np.zeros((1, 2), bool))
    data = dataset.trajectories(parts | dict(terminated=np.array([[True, False]])), 2)
    np.testing.assert_array_equal(data.final_obs, [[0], [np.nan]])
    assert dataset.wrong(data) == "final_obs is not finite everywhere"


def test_policies_are_told_where_episodes_begin():
    world = envs.make("CartPole-v1", max_steps=3)

    def act(obs, start, memory, key):  # the age of its episode; right while it is even
        age = jnp.where(start, 0, memory + 1)
        return age % 2, age

    out = jax.jit(lambda: recorded.play(act, jnp.full(2, 7), world, KEY, 2, 9))()
    np.testing.assert_array_equal(out["action"], np.array([0, 1, 0] * 3)[:, None].repeat(2, 1))
    assert (out["truncated"].sum(0) == 3).all()


def test_the_best_episodes_stay_whole():
    data = counted(3, 6)._replace(reward=np.array([5.0, 0.0, 99.0, 7.0, 1.0, 1.0]))
    one, all_ = dataset.best(data, 0.5), dataset.best(data, 1.0)
    np.testing.assert_array_equal(one.obs, [100])  # 7 beats 5 + 0, and 99 is no whole episode
    np.testing.assert_array_equal(all_.obs, [0, 1, 100])
    np.testing.assert_array_equal(all_.ends, [1, 2])
    np.testing.assert_array_equal(all_.final_obs, [10, 1000])
    assert dataset.wrong(all_) == "" and dataset.wrong(one) == ""
    assert "outside (0, 1]" in fails(dataset.best, data, 0.0)
    pieces = data._replace(terminated=data.terminated & False, truncated=data.truncated & False)
    assert "no trajectory" in fails(dataset.best, pieces, 0.5)


# ---- the file --------------------------------------------------------------------------------


def same(a, b):
    assert dataset.flat(a).keys() == dataset.flat(b).keys()
    for k, x in dataset.flat(a).items():
        y = dataset.flat(b)[k]
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_what_is_written_is_read(poles, tmp_path):
    dataset.write(tmp_path / "a.npz", poles, ABOUT)
    data, about = dataset.read(tmp_path / "a.npz")
    same(data, poles)
    assert about == ABOUT
    first = (tmp_path / "a.npz").read_bytes()
    dataset.write(tmp_path / "a.npz", poles, ABOUT)
    assert (tmp_path / "a.npz").read_bytes() == first  # no clock in it


def test_dictionaries_and_several_rewards_are_kept(tmp_path):
    world = envs.make("random/cover/coverage", rows=40, size=3, max_steps=4)
    assert world.data.reward.shape == (40, 2) and set(world.data.obs) == {"cell", "time"}
    plain = envs.make("cover/coverage", size=3, max_steps=4)
    data = recorded.record(recorded.uniform(plain), lambda n: (), plain, KEY, 40)
    file = tmp_path / "cover.npz"
    about = dict(env="cover/coverage", env_params=dict(size=3, max_steps=4))
    dataset.write(file, data, about)
    same(dataset.read(file)[0], data)
    got = envs.make(str(file)).data
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(world.data)):
        np.testing.assert_array_equal(a, b)
    assert got.terminated[3] and got.cut[3] and not got.cut[2]


def without(name):
    return lambda found: found.pop(name)


def put(name, f):
    return lambda found: found.update({name: f(found[name])})


def said(**more):
    return put("about", lambda x: np.array(json.dumps(ABOUT | more)))


WRONG = [  # what is done to the arrays of a file, and the words of the one line
    (without("obs"), "it has no obs"),
    (without("final_obs"), "it has no final_obs"),
    (without("about"), "about does not name an environment"),
    (put("reward", lambda x: x[:-1]), "obs has shape (60, 4), expected (59, ...)"),
    (put("action", lambda x: x[:-1]), "action has shape (59,), expected (60, ...)"),
    (put("final_obs", lambda x: x[:-1]), "final_obs has shape"),
    (put("terminated", lambda x: x.astype(float)), "terminated has type float64"),
    (put("reward", lambda x: x.astype(int)), "reward has type int64"),
    (put("reward", lambda x: x.astype(str)), "reward has type <U"),
    (put("obs", lambda x: x + np.nan), "obs is not finite everywhere"),
    (put("terminated", lambda x: x[:, None]), "are not rows of numbers"),
    (put("ends", lambda x: x[::-1]), "ends do not split 60 rows"),
    (put("ends", lambda x: np.append(x[:-1], 58)), "ends do not split 60 rows"),
    (put("ends", lambda x: np.append(x[[1, 0]], x[2:])), "ends do not split 60 rows"),
    (put("terminated", lambda x: ~x), "ends do not split 60 rows"),
    (put("reward", lambda x: x[:0]), "it has no rows"),
    (put("reward", lambda x: np.array([{}] * 60)), "an array cannot be read"),
    (put("about", lambda x: np.array("no json")), "about does not name an environment"),
    (put("about", lambda x: np.array("[]")), "about does not name an environment"),
    (put("about", lambda x: np.array('{"env": 3, "env_params": {}}')), "about does not name"),
    (put("about", lambda x: np.array('{"env": "a.npz", "env_params": {}}')), "about does not name"),
    (put("about", lambda x: np.array('{"env": "A", "env_params": {"g": "1"}}')), "does not name"),
    (put("about", lambda x: np.array('{"env": "my:make", "env_params": {}}')), "my:make is code"),
    (put("about", lambda x: np.array('{"env": "CartPole-v2", "env_params": {}}')), "CartPole-v1"),
    (put("about", lambda x: np.array('{"env": "CartPole-v1", "env_params": {"g": 1}}')), "no 'g'"),
    (put("obs", lambda x: x[:, :3]), "obs is float32[3] a row, CartPole-v1 has float32[4]"),
    (put("obs", lambda x: x.astype(int)), "obs is int64[4] a row, CartPole-v1 has float32[4]"),
    (put("action", lambda x: x[:, None]), "action is int32[1] a row, CartPole-v1 has int32[]"),
    (put("action", lambda x: x * 1.0), "action is float64[] a row, CartPole-v1 has int32[]"),
    (put("action", lambda x: x + 1), "an action is outside CartPole-v1's Discrete(2)"),
    (put("reward", lambda x: x[:, None]), "a reward has shape (1,), CartPole-v1 pays one number"),
    (put("ends", lambda x: x[:0]), "it has no trajectory"),
    (lambda found: found.update({"obs/x": found["obs"]}), "it has obs/x, which nothing is read as"),
    (lambda found: found.update({"terminated/x": found["ends"]}), "it has terminated/x, which"),
    (said(references=[1, 2]), "the references in about are not numbers"),
    (said(references=dict(random="a", expert="b")), "the references in about are not numbers"),
    (said(makers=["x"]), "about does not say who made it"),
    (said(makers=[dict(paper="x")]), "about does not say who made it"),
]


@pytest.mark.parametrize(("do", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_is_wrong_with_a_file_is_one_line(do, words, poles, tmp_path):
    file = tmp_path / "a.npz"
    dataset.write(file, poles, ABOUT)
    with np.load(file) as found:
        arrays = dict(found)
    do(arrays)
    np.savez(file, **arrays)
    assert words in fails(envs.make, str(file))


def test_other_files_are_none(poles, tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    assert "no such file" in fails(envs.make, str(file))
    assert "no such file" in fails(envs.kind, str(file))
    with file.open("wb") as out:
        pickle.dump(poles._asdict(), out)
    assert "not an .npz" in fails(envs.make, str(file))
    file.write_bytes(b"")
    assert "not an .npz" in fails(envs.make, str(file))
    with file.open("wb") as out:
        np.save(out, poles.reward)
    assert "not an .npz" in fails(envs.make, str(file))
    dataset.write(file, poles, ABOUT)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "not an .npz" in fails(envs.make, str(file))
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("about.npy", "text")
    assert fails(envs.make, str(file)).startswith(f"dataset: {file}: ")


def test_a_flipped_byte_is_refused_or_harmless(poles, tmp_path):
    """Some are of the archive's own: its comments, or the time of a file."""
    file = tmp_path / "a.npz"
    dataset.write(file, poles, ABOUT)
    whole, refused = file.read_bytes(), 0
    for i in range(0, len(whole), 23):
        spoilt = bytearray(whole)
        spoilt[i] ^= 255
        file.write_bytes(spoilt)
        try:
            same(dataset.read(file)[0], poles)
        except InputError:
            refused += 1
    assert refused > len(whole) / 23 / 2


def test_a_relative_file_may_lie_in_the_checkout(poles, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "ROOT", tmp_path / "checkout")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkout" / "data").mkdir(parents=True)
    dataset.write(tmp_path / "checkout" / "data" / "a.npz", poles, ABOUT)
    assert envs.kind("data/a.npz") == "classic"
    (tmp_path / "data").mkdir()  # one's own comes first
    dataset.write(tmp_path / "data" / "a.npz", poles, ABOUT | dict(env="brax/ant"))
    assert envs.kind("data/a.npz") == "brax" and registry.environment("data/a.npz") == "brax/ant"


def test_names_of_datasets_need_no_jax(poles, tmp_path):
    dataset.write(tmp_path / "a.npz", poles, ABOUT)
    code = "import sys, envs; print(envs.kind('a.npz'), envs.kind('random/Pendulum-v1'))"
    code += "; assert 'jax' not in sys.modules"
    how: dict[str, Any] = dict(capture_output=True, text=True, check=True, cwd=tmp_path)
    out = subprocess.run([sys.executable, "-c", code], **how).stdout
    assert out == "classic control\n"


# ---- the world -------------------------------------------------------------------------------


def test_it_plays_as_its_environment(poles, tmp_path):
    file = tmp_path / "a.npz"
    dataset.write(file, poles, ABOUT)
    world, plain = recorded.load(file), envs.make("CartPole-v1", max_steps=15)
    right = lambda obs, memory, key: (jnp.ones(len(obs), jnp.int32), memory)
    play = lambda world: jax.jit(lambda w: evaluate(right, (), w, KEY, 3))(world)
    for a, b in zip(jax.tree.leaves(play(world)), jax.tree.leaves(play(plain))):
        np.testing.assert_array_equal(a, b)
    assert isinstance(world, AutoReset) and world.max_steps == 15
    assert world.name == "CartPole-v1" and world.objectives == ()
    assert jax.tree.structure(world) == jax.tree.structure(envs.make(str(file)))
    assert world.sha256 == dataset.sha256(file)
    other = envs.make(str(file), length=1.0, max_steps=7)
    assert other.max_steps == 7 and json.loads(other.about)["env_params"] == dict(
        max_steps=7, length=1.0
    )
    np.testing.assert_array_equal(other.data.obs, world.data.obs)


def test_references_are_of_the_environment_that_was_recorded(poles, tmp_path):
    file = tmp_path / "a.npz"
    refs = dict(random=20.0, expert=500.0)
    dataset.write(file, poles, ABOUT | dict(references=refs))
    assert envs.make(str(file)).references == refs
    assert envs.make(str(file), length=1.0).references == {}
    dataset.write(file, poles, ABOUT | dict(references=dict(random=20.0, expert=None)))
    assert envs.make(str(file)).references == {}
    low, high = RANGES["Pendulum-v1"]
    assert envs.make("random/Pendulum-v1", rows=3).references == dict(random=low, expert=high)
    assert envs.make("random/Pendulum-v1", rows=3, g=9.0).references == {}
    assert envs.make("random/tabular/chain", rows=3).references == {}


def test_a_share_of_the_best(poles, tmp_path):
    file = tmp_path / "a.npz"
    dataset.write(file, poles, ABOUT)
    lengths = np.diff(np.concatenate([[-1], poles.ends]))[poles.complete]
    got = envs.make(str(file), best=0.25)
    assert got.data.reward.size == np.sort(lengths)[-int(np.ceil(len(lengths) / 4)) :].sum()
    assert "best: 2 is outside (0, 1]" in fails(envs.make, str(file), best=2)


def test_one_s_own_environment_is_given_not_named(poles, tmp_path):
    file = tmp_path / "a.npz"
    dataset.write(file, poles, dict(env="mine:make", env_params={}))
    assert "mine:make is code that a file names" in fails(envs.kind, str(file))
    own = envs.make_env("CartPole-v1", max_steps=9)
    assert recorded.load(file, own).max_steps == 9


def test_the_random_policy_s_rows():
    world = envs.make("random/CartPole-v1", rows=400, max_steps=20)
    again = envs.make("random/CartPole-v1", rows=400, max_steps=20)
    for a, b in zip(jax.tree.leaves(world), jax.tree.leaves(again)):
        np.testing.assert_array_equal(a, b)
    assert world.data.reward.shape == (400,) and world.max_steps == 20
    assert abs(float(world.data.action.mean()) - 0.5) < 4 * 0.5 / 20
    assert envs.kind("random/CartPole-v1") == "classic"
    assert "rows: 0 is outside [1, inf)" in fails(envs.make, "random/CartPole-v1", rows=0)
    assert "did you mean CartPole-v1" in fails(envs.make, "random/CartPol-v1")
    assert "is a dataset already" in fails(envs.kind, "random/random/CartPole-v1")


@struct.dataclass
class Masked:
    """One step, of whose three actions the last is ruled out."""

    name = "masked"
    max_steps = 1
    action_space = Discrete(3)
    observation_space = dict(action_mask=Box(0, 1, (3,), "bool"), obs=Box(0.0, 1.0, (1,)))

    def reset(self, key):
        obs = dict(action_mask=jnp.array([True, True, False]), obs=jnp.zeros(1))
        return jnp.zeros(()), obs

    def step(self, key, state, action):
        no = jnp.zeros((), bool)
        return Step(state, self.reset(key)[1], jnp.zeros(()), no, ~no)


def test_chance_keeps_to_what_is_allowed():
    world: Any = AutoReset(Masked())
    data = recorded.record(recorded.uniform(world), lambda n: (), world, KEY, 60)
    assert set(data.action) == {0, 1} and data.action.dtype == np.int32
