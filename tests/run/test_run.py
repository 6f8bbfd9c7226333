"""The host loop: what is promised of a run, bit for bit, and what its folder holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.errors import InputError
from jaxrl.metrics import DIAGNOSTIC, PROGRESS
from jaxrl.run import checkpoint, evaluate, record, run
from jaxrl.run import job as jobs
from jaxrl.run.run import build, execute, mean_returns, set_up
from jaxrl.run.train import train

TABLES = dict(
    run=dict(paper="ppo", env="CartPole-v1", seeds=3, steps=20 * 32, evals=2, eval_episodes=20),
    env_params={},
    network=dict(hidden=(8,)),
    hyper=dict(num_envs=4, num_steps=8, minibatches=2, epochs=2, lr=0.003, normalise_obs=True),
)


def digest(state) -> str:
    """A hash over the bytes of every leaf."""
    return checkpoint.digest(checkpoint.plain(state))


def resolve(**changes):
    """The small job, with other entries in its tables."""
    tables = {k: v | changes.get(k, {}) for k, v in TABLES.items()}
    return jobs.resolve(**tables)


@pytest.fixture(scope="module")
def small():
    s = set_up(resolve())
    return s, build(s)


def test_evaluating_more_often_changes_nothing(small):
    """google-deepmind/mujoco#1259: there the number of evaluations changed the policy;
    mesozoic-labs#157: there they updated the normaliser."""
    s, program = small
    often = s._replace(job=resolve(run=dict(evals=10)))
    assert digest(execute(s, program)) == digest(execute(often, program))


def test_one_poisoned_seed_leaves_the_others_alone(small):
    s, program = small
    state = program.init(s.keys, s.hp, s.world)
    poison = jax.tree.map(lambda x: x.at[1].set(jnp.nan), state.inner.params)

    def after(state):
        for t in range(3):
            state, _ = program.advance(state, jnp.int32(t), jnp.int32(1), s.hp, s.world)
        return state

    healthy = after(jax.tree.map(jnp.copy, state))
    sick = after(state.replace(inner=state.inner.replace(params=poison)))
    assert all(np.isnan(x[1]).any() for x in jax.tree.leaves(sick.inner.params))
    for i in (0, 2):
        a, b = (jax.tree.map(lambda x, i=i: x[i], y) for y in (healthy, sick))
        assert digest(a) == digest(b)


def test_a_run_traces_its_iteration_once(monkeypatch):
    """From the check of whether it fits to the end of the run."""
    count, real = [], run.guarded

    def counted(algo, freeze):
        algo = real(algo, freeze)
        return algo._replace(step=lambda *a: count.append(1) or algo.step(*a))

    monkeypatch.setattr(run, "guarded", counted)
    s = set_up(resolve())
    execute(s, build(s))
    assert len(count) == 1


def test_seeds_too_large_for_the_cache_train_in_turn(monkeypatch):
    """Each is then bitwise its single run; on a CPU only, and not against the user's word."""
    assert not set_up(resolve()).in_turn
    monkeypatch.setattr(run, "CACHED", 2**9)
    assert set_up(resolve()).in_turn
    assert not set_up(resolve(run=dict(seed_mode="vmap"))).in_turn


def test_seeds_are_shared_out_over_devices():
    """As many to each; `map` stays on one, where a seed is bitwise its single run."""
    of = lambda **run: set_up(resolve(run=run)).layout.devices
    assert [of(seeds=n) for n in (1, 2, 3, 4)] == [1, 2, 1, 2]
    assert of(seeds=4, devices=1) == of(seeds=4, seed_mode="map") == 1
    assert of(seeds=4, seed_mode="map", devices=2) == 2
    with pytest.raises(InputError, match="devices: 4 are more than the 2 there are"):
        of(seeds=4, devices=4)


@pytest.mark.parametrize("mode", ["vmap", "map"])
def test_seeds_of_two_devices_are_nearly_those_of_one(mode):
    """What begins is bitwise the same; parameters differ by how kernels add."""

    def at(devices, n):
        s = set_up(resolve(run=dict(seeds=4, devices=devices, seed_mode=mode)))
        program = build(s)
        state = program.init(s.keys, s.hp, s.world)
        state, metrics = program.advance(state, jnp.int32(0), jnp.int32(n), s.hp, s.world)
        assert len(jax.tree.leaves(state)[0].devices()) == devices
        assert mean_returns(program.greedy((state, s.keys), s.hp, s.world)).shape == (4,)
        return state.inner, metrics

    (one, m1), (two, m2) = at(1, 2), at(2, 2)
    assert digest(one.key) == digest(two.key)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, one.params, two.params)
    close(m1["policy_loss"], m2["policy_loss"])


@pytest.mark.slow
def test_the_same_in_another_process(small, tmp_path):
    """luchris429/purejaxrl#19: there one seed gave several results."""
    s, program = small
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.run.test_run import *\n"
        "s = set_up(resolve()); print(digest(execute(s, build(s))))"
    )
    root = str(record.Path(__file__).parents[2])
    fresh = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
    fresh["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # conftest would set the folder again
    call = [sys.executable, "-c", script, root]
    done = subprocess.run(call, capture_output=True, text=True, cwd=root, check=True, env=fresh)
    assert done.stdout.split()[-1] == digest(execute(s, program))


def test_a_vmapped_seed_is_nearly_its_single_run(small):
    """Keys and environments begin bit for bit alike; parameters, and what a first iteration makes
    of them, are as near as batched kernels that add in another order let them be."""
    s, program = small
    one = set_up(resolve(run=dict(seeds=1, seed=2)))
    alone = build(one)

    def at(s, program, n):
        state = program.init(s.keys, s.hp, s.world)
        if n:
            state, _ = program.advance(state, jnp.int32(0), jnp.int32(n), s.hp, s.world)
        return jax.tree.map(lambda x: x[-1], state)

    a, b = (at(*x, 0).inner for x in ((s, program), (one, alone)))
    assert digest((a.key, a.stage)) == digest((b.key, b.stage))
    for n in (0, 1):
        a, b = (at(*x, n).inner.params for x in ((s, program), (one, alone)))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    lines = []
    summary = train(resolve(), folder, say=lines.append)
    return folder, summary, lines


def test_the_run_folder_holds_what_it_says(folder):
    path, summary, lines = folder
    assert summary == json.loads((path / "summary.json").read_text())
    assert set(summary) >= {
        *("paper", "env", "seeds", "steps", "final_return", "final_return_stochastic"),
        *("env_steps_per_second", "compile_seconds", "versions"),
    }
    result = summary["final_return"]
    assert set(result) >= {"iqm", "mean", "min", "ci95", "per_seed"}
    assert len(result["per_seed"]) == 3
    assert result["complete_episodes"] == [20, 20, 20]
    assert summary["steps"] == 640
    assert (path / "curve.png").stat().st_size > 5000
    arrays = record.load_arrays(path)
    assert arrays["episode_return"].shape == (3, 20)
    points = {"steps", "eval_steps"}
    assert set(arrays) - points == set(PROGRESS | DIAGNOSTIC)  # --help explains every metric
    assert arrays["eval_return"].shape == (3, 2)
    np.testing.assert_array_equal(arrays["eval_steps"], [320, 640])
    np.testing.assert_array_equal(arrays["steps"], 32 * np.arange(1, 21))
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["iteration"] == 20
    assert len(rows[-1]["eval_return"]) == 3
    np.testing.assert_allclose(rows[-1]["eval_return"], arrays["eval_return"][:, -1])
    assert "3 seeds" in lines[0]


def test_the_resolved_configuration_is_the_job(folder):
    assert jobs.resolve(**jobs.read(folder[0] / "config.toml")) == resolve()


def test_a_loaded_run_plays_as_it_ended(folder):
    path, summary, _ = folder
    s, state = evaluate.load(path)
    key_free = evaluate.play_here(s, state, episodes=20, seed=3, greedy=True)
    again = evaluate.play_here(s, state, episodes=20, seed=3, greedy=True)
    assert key_free == again
    assert digest(state) == digest(execute(s, build(s)))
    cut = evaluate.elsewhere(s, dict(max_steps=5))
    assert evaluate.play_here(cut, state, episodes=20, seed=3, greedy=True)["mean"] == 5.0
    with pytest.raises(InputError, match="did you mean gravity"):
        evaluate.elsewhere(s, dict(gravty=3.0))
    there = evaluate.play_gymnasium(s, state, "CartPole-v1", episodes=20, seed=0, greedy=True)
    assert len(there["per_seed"]) == 3
    with pytest.raises(InputError, match="Box"):
        evaluate.play_gymnasium(s, state, "Pendulum-v1", episodes=20, seed=0, greedy=True)


@pytest.mark.parametrize(
    ("env", "below"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("data/a.npz", "data/a.npz"),
        ("/elsewhere/data/a.npz", "a.npz"),
        ("../data/a.npz", "a.npz"),
        ("/elsewhere/my_envs.py:make", "my_envs.py/make"),
    ],
)
def test_a_run_lies_under_runs_wherever_its_environment_s_file_is(env, below):
    """Beneath an absolute path there was no room for it, which came out when all was computed."""
    folder = record.new_folder(None, resolve().replace(env=env))
    assert folder.parent == Path("runs") / below / "ppo"
