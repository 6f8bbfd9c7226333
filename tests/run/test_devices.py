"""One run over several devices and several processes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.devices import COUNTS, same, supervised, virtual
from jaxrl import api
from jaxrl.errors import InputError
from jaxrl.families.on_policy import minibatches
from jaxrl.rollout import by_groups, flattened, unflattened
from jaxrl.run import job as jobs
from jaxrl.run import ranks
from jaxrl.run.job import EVERY_DEVICE
from jaxrl.run.run import described, over_rows, places, set_up
from jaxrl.types import Batch

SMALL = dict(num_envs=8, num_steps=8, minibatches=2, epochs=2)


def resolve(hyper=None, **run):
    run = dict(paper="ppo", env="CartPole-v1", steps=128, evals=1) | run
    hyper = SMALL | (hyper or {}) if run["paper"] == "ppo" else hyper or {}
    return jobs.resolve(run=run, env_params={}, network=dict(hidden=(8,)), hyper=hyper)


@pytest.mark.slow
def test_gradients_do_not_depend_on_the_number_of_devices():
    """And nothing but sums moves between devices: no row of a rollout leaves its own."""
    found = virtual(8, "gradients")
    assert sorted(map(int, found)) == list(COUNTS)
    for count, x in found.items():
        assert x["layout"] == [1, int(count)]
        assert x["gradient_norm"] > 0.1 and x["episodes"] > 0
        assert x["apart"] < 1e-5
        assert set(x["moves"]) == (set() if count == "1" else {"all-reduce"})
    sizes = [found[str(n)]["device_bytes"] for n in COUNTS]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[-1]


def test_devices_beyond_seeds_share_environments():
    of = lambda **run: tuple(set_up(resolve(**run)).layout)
    assert of(seeds=1) == (1, 1)  # unless they are asked for
    assert of(seeds=1, devices=2) == of(seeds=1, devices=EVERY_DEVICE) == (1, 2)
    assert of(seeds=2, devices="all") == (2, 1)
    assert set_up(resolve(devices=2)).job.hyper.groups == 2
    assert set_up(resolve(devices=2, hyper=dict(groups=4))).job.hyper.groups == 4
    assert set_up(resolve(devices=1)).job.hyper.groups == 1
    # one that goes on keeps its algorithm
    assert set_up(resolve(devices=2), begun=True).job.hyper.groups == 1


@pytest.mark.parametrize(
    "run, message, of_all",
    [
        (dict(paper="dqn"), "devices: 2 are more than seeds = 1, and devices share no", 1),
        (dict(hyper=dict(num_envs=3, num_steps=4)), "devices: 2 for each seed do not divide", 1),
        (
            dict(hyper=dict(num_envs=2, num_steps=3)),
            "devices: 2 for each seed are not possible: minibatches: 2 does not divide num_envs / ",
            2,  # whose rows move
        ),
    ],
)
def test_devices_that_cannot_be_put_to_use(run, message, of_all):
    with pytest.raises(InputError, match=message):
        set_up(resolve(devices=2, **run))
    assert set_up(resolve(devices="all", **run)).layout.devices == of_all


def test_where_a_state_lies():
    s = set_up(resolve(devices=2))
    at = places(s, jax.eval_shape(over_rows(s.algo.init, s), s.keys, s.hp, s.world))
    assert at.inner.stage.obs.spec == at.inner.stage.start.spec == jax.P("rows", "envs")
    assert at.inner.stage.episodes.ret.spec == jax.P("rows", "envs")
    assert {x.spec for x in jax.tree.leaves(at.inner.params)} == {jax.P("rows")}


@pytest.mark.slow
def test_a_run_whose_environments_are_shared_is_nearly_that_of_one_device(tmp_path):
    """Of as many groups; it may go on on another number, and says how it lies."""
    run = dict(env="CartPole-v1", steps=256, evals=1, groups=2, hidden=(8,), quiet=True, **SMALL)
    lines = []
    two = api.train("ppo", devices=2, folder=str(tmp_path / "two"), **run)
    one = api.train("ppo", devices=1, folder=str(tmp_path / "one"), **run)
    assert (two.summary["devices"], one.summary["devices"]) == (2, 1)
    for name in ("episode_return", "value_loss", "entropy", "grad_norm"):
        np.testing.assert_allclose(two.arrays[name], one.arrays[name], rtol=1e-4, atol=1e-5)
    more = api.resume(two.folder, steps=512, devices=1, quiet=True)
    assert more.summary["devices"] == 1 and more.arrays["steps"][-1] == 512
    s = set_up(resolve(devices=2))
    lines = described(s, type("P", (), dict(each=2048)))
    assert lines == (
        "1 seed on 2 devices, 4 of 8 environments on each: 2 KiB of memory each, 64 B an "
        "environment step of an iteration"
    )


def test_each_group_draws_for_itself():
    """From its own key: what there is of others changes nothing."""
    noise = lambda key, steps, n: jax.random.normal(key, (steps, n, 3))
    x = by_groups(noise, jax.random.key(0), 5, 8, 4)
    keys = jax.random.split(jax.random.key(0), 4)
    np.testing.assert_array_equal(x[:, 2:4], noise(keys[1], 5, 2))
    one = by_groups(noise, jax.random.key(0), 5, 8, 1)
    np.testing.assert_array_equal(one, noise(jax.random.key(0), 5, 8))
    keys = lambda key, steps, n: jax.random.split(key, steps)  # that are nobody's own stay
    assert by_groups(keys, jax.random.key(0), 5, 8, 4).shape == (5,)


def test_rows_by_groups():
    x = jnp.arange(24).reshape(3, 8)
    rows = flattened(x, 4)
    assert rows[:6].tolist() == [0, 1, 8, 9, 16, 17]  # the first two environments'
    np.testing.assert_array_equal(unflattened(rows, 4, 3), x)
    np.testing.assert_array_equal(flattened(x, 1), x.reshape(-1))


@pytest.mark.parametrize("sequences", [False, True])
def test_a_minibatch_has_as_much_of_every_group(sequences):
    T, N, G, m = 6, 8, 4, 2
    env = jnp.broadcast_to(jnp.arange(N), (T, N))
    b = Batch(obs=env, action=env, record=env, start=jnp.zeros((T, N), bool), memory=jnp.arange(N))
    hp = type("HP", (), dict(groups=G, minibatches=m))
    index, take = minibatches(jax.random.key(0), b, hp, sequences)
    assert index.shape[:2] == (m, G)
    parts = [take(i) for i in index]
    for part in parts:
        assert np.bincount(np.ravel(part.obs) // (N // G)).tolist() == [T * N // G // m] * G
        if sequences:
            np.testing.assert_array_equal(part.memory, part.obs[0])
    seen = np.concatenate([np.ravel(part.obs) for part in parts])
    assert np.bincount(seen).tolist() == [T] * N  # each row once


def test_a_field_that_is_newer_than_a_checkpoint_has_its_default():
    now = jobs.to_tables(resolve())
    then = json.loads(json.dumps(now))
    del then["hyper"]["groups"], then["hyper"]["storage"]
    assert jobs.changed(now, then) == ""
    now["hyper"]["groups"] = 2
    assert jobs.changed(now, then) == "groups: 2 in config.toml, but the run began with 1"


def test_pieces_have_as_much_of_every_group():
    """The gradient is the minibatch's; a piece takes no row from its group's device."""
    s = set_up(resolve(hyper=dict(groups=4, accumulate=2, minibatches=1, epochs=1)))
    plain = set_up(resolve(hyper=dict(groups=4, storage="bfloat16", minibatches=1, epochs=1)))
    pieces = plain.algo, s.hp.replace(accumulate=2, storage="bfloat16")
    one = jax.jit(lambda hp: s.algo.init(jax.random.key(0), hp, s.world))(plain.hp)
    step = jax.jit(lambda hp: pieces[0].step(one, jnp.int32(0), hp, s.world)[1])
    whole, cut = step(plain.hp), step(pieces[1])
    for name in ("grad_norm", "policy_loss", "value_loss", "ratio_excursion"):
        np.testing.assert_allclose(whole[name], cut[name], rtol=1e-4, atol=1e-6)
    with pytest.raises(
        InputError, match="accumulate: 8 does not divide a minibatch of 32 / groups"
    ):
        set_up(resolve(hyper=dict(groups=8, accumulate=8, minibatches=2)))


@pytest.mark.parametrize(
    "said, message",
    [
        (dict(JAXRL_PROCESSES="2"), "distributed: JAXRL_PROCESSES without JAXRL_COORDINATOR"),
        (
            dict(JAXRL_COORDINATOR="localhost:1", JAXRL_PROCESSES="2", JAXRL_PROCESS="2"),
            "distributed: JAXRL_PROCESS: '2' is not one of JAXRL_PROCESSES = '2', from 0",
        ),
    ],
)
def test_processes_that_cannot_meet(monkeypatch, said, message):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        ranks.join()


@pytest.mark.slow
def test_a_lost_process_costs_nothing(tmp_path):
    """Two processes share the environments of a run; one is killed, both are started again, and
    the end is bit for bit that of a run left alone."""
    run = "--env CartPole-v1 --steps 20480 --hidden 8 --evals 2 --checkpoint-every 4 --devices all"
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    x, y = supervised(alone, run), supervised(killed, run, kill_at=4)
    assert y["said"] and "process 1 was lost to SIGKILL; it goes on from" in y["said"][0]
    assert x["said"] == [] and x["summary"]["devices"] == y["summary"]["devices"] == 2
    assert x["summary"]["state_sha256"] == y["summary"]["state_sha256"]
    assert same(alone, killed)
    lines = (killed / "metrics.jsonl").read_text().splitlines()
    done = [json.loads(line)["iteration"] for line in lines]
    assert done == sorted(set(done)) and done[-1] == 20  # by one process, and none twice
