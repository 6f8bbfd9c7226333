"""Datasets of what was trained, Minari's, and runs that learn from a file."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import dataset as files
from envs.scores import RANGES
from jaxrl.cli import main
from jaxrl.core import Algo
from jaxrl.errors import InputError, RunError
from jaxrl.run import catalogue, claims, dataset, evaluate, record, stats
from jaxrl.run import job as jobs
from jaxrl.run.train import reopen, resume, train

HYPER = dict(updates=5, batch_size=8, lr=0.03)
POLE = dict(rows=64, max_steps=12)


def job(paper="bc", env="random/CartPole-v1", env_params=POLE, **run):
    run = dict(seeds=2, steps=20, evals=1, eval_episodes=20) | run
    network = dict(hidden=(8,))
    tables = dict(env_params=env_params, network=network, hyper=HYPER)
    return jobs.resolve(run=dict(paper=paper, env=env) | run, **tables)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three clones of CartPole's random policy: by their mode they do better or worse than it."""
    folder = tmp_path_factory.mktemp("runs") / "bc"
    train(job(seeds=3), folder)
    return folder


def fails(call, *args, **kwargs):
    with pytest.raises(InputError) as e:
        call(*args, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)


def whole(data):
    """The returns of the whole episodes, row by row."""
    out, total = [], 0.0
    for i in range(len(data.reward)):
        total += data.reward[i]
        if data.terminated[i] or data.truncated[i]:
            out.append(total)
        if i in data.ends:
            total = 0.0
    return out


# ---- recording -------------------------------------------------------------------------------


def test_rows_are_the_policy_s(run, tmp_path):
    """By its mode every action is what `act` says of the row's observation."""
    about = dataset.make(tmp_path / "a.npz", [run], steps=50)
    data, said = files.read(tmp_path / "a.npz")
    s, state = evaluate.load(run)
    returns = record.load_summary(run)["final_return"]["per_seed"]
    row = int(np.argsort(returns, kind="stable")[1])  # the median of three
    mode = lambda obs: s.algo.act(jax.tree.map(lambda x: x[row], state), obs, (), None, s.hp)[0]
    np.testing.assert_array_equal(data.action, jax.jit(mode)(data.obs))
    made = about["makers"][0]
    assert (
        made
        == said["makers"][0]
        == dict(
            paper="bc",
            seed=row,
            steps=20,
            acts="by its mode",
            final_return=returns[row],
            rows=50,
            returns=about["returns"],
        )
    )
    assert (said["env"], said["env_params"]) == ("CartPole-v1", dict(max_steps=12))
    episodes = whole(data)
    assert about["returns"]["episodes"] == len(episodes) and about["kind"] == "one policy"
    assert about["returns"]["mean"] == pytest.approx(np.mean(episodes))
    assert about["returns"]["min"] == min(episodes) and about["returns"]["max"] == max(episodes)
    world = envs.make(str(tmp_path / "a.npz"))
    assert world.max_steps == 12 and world.data.reward.shape == (50,)


def test_exploring_and_another_seed(run, tmp_path):
    about = dataset.make(tmp_path / "a.npz", [run], steps=400, whose=2, stochastic=True)
    assert about["makers"][0]["acts"] == "as it explores" and about["makers"][0]["seed"] == 2
    s, state = evaluate.load(run)
    one = jax.tree.map(lambda x: x[2], state)
    data, _ = files.read(tmp_path / "a.npz")
    mode = np.asarray(s.algo.act(one, data.obs, (), None, s.hp)[0])
    some = s.algo.act(one, data.obs, (), jax.random.key(0), s.hp)[0]
    rates = [np.mean(x != mode) for x in (data.action, np.asarray(some))]
    assert min(rates) > 0.1 and abs(rates[0] - rates[1]) < 4 * np.sqrt(0.5 / 400)
    assert "seed: 3 is outside [0, 2]" in fails(
        dataset.make, tmp_path / "no.npz", [run], steps=9, whose=3
    )
    assert not (tmp_path / "no.npz").exists()


def test_makers_have_equal_parts(run, tmp_path):
    about = dataset.make(tmp_path / "a.npz", [run], random=True, steps=31)
    assert [m["rows"] for m in about["makers"]] == [16, 15] and about["kind"] == "mixed"
    assert [m["paper"] for m in about["makers"]] == ["bc", "uniform"]
    data, _ = files.read(tmp_path / "a.npz")
    assert {15, 30} <= set(data.ends)
    assert not np.array_equal(data.obs[0], data.obs[16])  # each has chances of its own


def test_a_recording_comes_again(tmp_path):
    made = {}
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        file = tmp_path / f"{name}.npz"
        about = dataset.make(file, random=True, env="CartPole-v1", steps=20, seed=seed)
        made[name] = about, file.read_bytes()
    assert made["a"] == made["b"] != made["c"]


def test_a_memory_begins_anew_with_each_episode(tmp_path, monkeypatch):
    """A policy that counts its steps, and goes right at even ones."""
    act = lambda state, obs, memory, key, hp: (memory % 2, memory + 1)
    algo = Algo(lambda *_: (), lambda *_: (), act, lambda n: jnp.full(n, 4))
    world = envs.make("CartPole-v1", max_steps=3)
    played = SimpleNamespace(paper="p", env="CartPole-v1", env_params=dict(max_steps=3))
    s: Any = SimpleNamespace(algo=algo, world=world, hp=(), job=played, seeds=np.arange(1))
    found = evaluate.Seed(s, jnp.zeros((1, 1)), 0, "p", 1.0)
    monkeypatch.setattr(evaluate, "one_seed", lambda *_: found)
    monkeypatch.setattr(record, "load_summary", lambda folder: {})
    dataset.make(tmp_path / "a.npz", [Path("run")], steps=9)
    data, _ = files.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.action, [0, 1, 0] * 3)


def test_references(run, tmp_path):
    """Of other physics than envs/scores.py's they are measured, or nobody knows them."""
    about = dataset.make(tmp_path / "a.npz", [run], steps=9)
    assert about["references"]["expert"] is None and 8 < about["references"]["random"] < 12
    about = dataset.make(tmp_path / "b.npz", [run], steps=9, expert=run)
    returns = record.load_summary(run)["final_return"]["per_seed"]
    assert about["references"]["expert"] == sorted(returns)[1]
    about = dataset.make(tmp_path / "c.npz", random=True, env="Pendulum-v1", steps=9, kind="bad")
    assert tuple(about["references"].values()) == RANGES["Pendulum-v1"] and about["kind"] == "bad"


def test_what_cannot_be_recorded(run, tmp_path):
    out = tmp_path / "a.npz"
    bad = [
        (dict(steps=9), "run: none given"),
        (dict(steps=9, random=True), "env: none given; --random needs --env"),
        (dict(steps=0, runs=[run]), "steps: 0 is outside [1, 2**31)"),
        (dict(steps=1, runs=[run], random=True), "steps: 1 is outside [2, 2**31)"),
        (dict(steps=9, runs=[tmp_path]), "is not the folder of a finished run"),
        (dict(steps=9, random=True, env="CartPol-v1"), "did you mean CartPole-v1"),
    ]
    for how, words in bad:
        assert words in fails(dataset.make, out, **how)
    assert "does not end in .npz" in fails(dataset.make, tmp_path / "a.zip", [run], steps=9)
    assert "is not a folder" in fails(dataset.make, tmp_path / "b" / "a.npz", [run], steps=9)
    assert not out.exists()


def test_runs_of_two_environments_are_not_joined(run, tmp_path, monkeypatch):
    first = dataset.of_run(run, None, False, False, (), lambda line: None)
    makers = iter([first, first._replace(env_params=dict(max_steps=9))])
    monkeypatch.setattr(dataset, "of_run", lambda *_: next(makers))
    said = fails(dataset.make, tmp_path / "a.npz", [run, run], steps=9)
    assert said == (
        "run: CartPole-v1 {'max_steps': 9} is another environment than "
        "CartPole-v1 {'max_steps': 12}"
    )


# ---- the command -----------------------------------------------------------------------------


def call(capfd, *argv):
    """(exit code, standard output, standard error)."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in argv])
    return stop.value.code, *capfd.readouterr()


def test_the_command(tmp_path, capfd):
    out = tmp_path / "a.npz"
    make = ["dataset", "make", out, "--random", "--env", "Pendulum-v1", "--steps", "4e2"]
    code, said, _ = call(capfd, *make)
    assert code == 0 and "400 in 2 trajectories" in said and "random -1195.0" in said
    code, said, _ = call(capfd, "dataset", "info", out, "--json")
    told = json.loads(said)
    assert code == 0 and told["rows"] == 400 and told["arrays"]["obs"] == "float32[400, 3]"
    data, _ = files.read(out)
    assert told["returns"]["mean"] == pytest.approx(np.mean(whole(data)))
    before = out.read_bytes()
    code, said, error = call(capfd, *make, "--seed", 1)
    assert (code, said, error) == (2, "", f"jaxrl: out: {out} exists\n")
    assert out.read_bytes() == before
    code, said, _ = call(capfd, *make, "--seed", 1, "--overwrite", "--json")
    assert code == 0 and json.loads(said)["seed"] == 1 and out.read_bytes() != before
    code, said, _ = call(capfd, *make[:2], tmp_path / "b.npz", *make[3:], "--env-param", "g=5")
    assert code == 0 and "Pendulum-v1, g=5" in said
    assert files.read(tmp_path / "b.npz")[1]["env_params"] == {"g": 5}


BAD = [
    (["dataset", "mak"], "No such command 'mak'"),
    (["dataset", "make", "a.npz", "--steps", "9"], "run: none given"),
    (["dataset", "make", "a.npz", "--random"], "Missing option '--steps'"),
    (["dataset", "make", "a.npz", "--run", "nowhere", "--steps", "9"], "not the folder of a"),
    (["dataset", "make", "a.npz", "--random", "--steps", "9", "--seed", "-1"], "seed: -1 is out"),
    (["dataset", "info", "a.npz"], "dataset: a.npz: no such file"),
    (["dataset", "import", "D/a-v0", "a.txt"], "out: a.txt does not end in .npz"),
    (["train", "bc", "--env", "a.npz"], "dataset: a.npz: no such file"),
    (["train", "bc", "--env", "CartPole-v1", "--steps", "200"], "has no recorded data"),
    (["train", "iql", "--env", "random/CartPole-v1", "--env-param", "rows=9"], "allowed is a Box"),
]


@pytest.mark.parametrize(("argv", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_is_one_line(argv, words, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, error = call(capfd, *argv)
    assert code == 2 and out == "" and error.count("\n") == 1 and words in error
    assert not list(tmp_path.iterdir())


# ---- Minari ----------------------------------------------------------------------------------


def minari(space, episodes, id="D4RL/pendulum/x-v0", env="Pendulum-v1"):
    """What is read of Minari's dataset, by its documented names."""
    spec = SimpleNamespace(id=env) if env else None
    of = lambda e: SimpleNamespace(**e)
    iterate = lambda: (of(e) for e in episodes)
    return SimpleNamespace(id=id, action_space=space, env_spec=spec, iterate_episodes=iterate)


def pendulums():
    """Two episodes of 3 and 2 steps; the second was left."""
    rng = np.random.default_rng(0)
    episode = lambda T, cut: dict(
        observations=rng.normal(size=(T + 1, 3)),
        actions=rng.uniform(-2, 2, (T, 1)).astype(np.float32),
        rewards=-rng.random(T),
        terminations=np.zeros(T, bool),
        truncations=np.arange(T) == (T - 1 if cut else T),
    )
    return [episode(3, True), episode(2, False)]


TORQUE = SimpleNamespace(low=np.array([-2.0]), high=np.array([2.0]))


def test_minari_s_episodes_become_rows(tmp_path, monkeypatch):
    found, (a, b) = minari(TORQUE, e := pendulums()), e
    monkeypatch.setattr(dataset, "minari_dataset", lambda name: found)
    about = dataset.bring(found.id, tmp_path / "a.npz")
    world = envs.make(str(tmp_path / "a.npz"))
    rows = world.data
    obs = np.concatenate([a["observations"][:3], b["observations"][:2]])
    ahead = np.concatenate([a["observations"][1:], b["observations"][1:]])
    np.testing.assert_allclose(rows.obs, obs, rtol=1e-6)
    np.testing.assert_allclose(rows.next_obs, ahead, rtol=1e-6)
    np.testing.assert_allclose(rows.action[:3], a["actions"] / 2, rtol=1e-6)
    np.testing.assert_allclose(rows.reward[3:], b["rewards"], rtol=1e-6)
    np.testing.assert_array_equal(rows.cut, [False, False, True, False, True])
    assert about["returns"]["episodes"] == 1 and not rows.terminated.any()
    assert about["returns"]["mean"] == pytest.approx(a["rewards"].sum(), rel=1e-5)
    assert tuple(world.references.values()) == RANGES["Pendulum-v1"]
    assert about["kind"] == found.id


def test_discrete_actions_and_dictionaries_of_minari():
    e = dict(
        observations=dict(x=np.arange(3.0), n=np.arange(3)),
        actions=np.array([5, 6]),
        rewards=np.ones(2),
        terminations=np.array([False, True]),
        truncations=np.array([False, True]),
    )
    found = minari(SimpleNamespace(n=2, start=5), [e], env="CartPole-v1")
    data, about = dataset.of_minari(found)
    np.testing.assert_array_equal(data.action, [0, 1])
    assert data.action.dtype == np.int32 and data.obs["x"].dtype == np.float32
    np.testing.assert_array_equal(data.final_obs["n"], [2])
    assert data.terminated[1] and not data.truncated[1]  # where both are set, terminated wins
    assert about["env"] == "CartPole-v1"


def test_what_minari_has_not(tmp_path, monkeypatch):
    out = tmp_path / "a.npz"
    monkeypatch.setitem(sys.modules, "minari", None)
    assert fails(dataset.bring, "x", out) == "minari: not installed; pip install 'jaxrl[data]'"

    def load(name):
        raise FileNotFoundError(f"Dataset {name} not found\nat all")

    monkeypatch.setitem(sys.modules, "minari", SimpleNamespace(load_dataset=load))
    assert "Dataset x not found; minari download x" in fails(dataset.bring, "x", out)
    for found, words in (
        (minari(TORQUE, pendulums(), env="Hopper-v5"), "env: no 'Hopper-v5'"),
        (minari(TORQUE, pendulums(), env=""), "names no environment; --env says it"),
        (minari(TORQUE, []), "has no episodes"),
        (minari(TORQUE, pendulums(), env="CartPole-v1"), "action is float32[1] a row"),
    ):
        monkeypatch.setattr(dataset, "minari_dataset", lambda name, found=found: found)
        assert words in fails(dataset.bring, "x", out)
    assert not out.exists()


# ---- runs that learn from a file -------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A file, and a run that learned from it by a relative name."""
    folder = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as m:
        m.chdir(folder)
        dataset.make(Path("a.npz"), random=True, env="CartPole-v1", steps=80)
        summary = train(job(env="a.npz", env_params={}, checkpoint_every="2"), Path("run"))
    return folder, summary


def test_a_summary_has_the_normalised_score(learned, monkeypatch):
    folder, summary = learned
    monkeypatch.chdir(folder)
    low, high = RANGES["CartPole-v1"]
    for name in ("final_return", "final_return_stochastic"):
        r = summary[name]
        want = [100 * (x - low) / (high - low) for x in r["per_seed"]]
        np.testing.assert_allclose(r["score"]["per_seed"], want, rtol=1e-9)
        assert f"; score {r['score']['iqm']:.1f} (95 %" in stats.describe(r)
    played = evaluate.play(*evaluate.load(Path("run")), {}, None, episodes=20, seed=3, greedy=True)
    want = [100 * (x - low) / (high - low) for x in played["per_seed"]]
    np.testing.assert_allclose(played["score"]["per_seed"], want, rtol=1e-9)
    s, state = evaluate.load(Path("run"))
    how = dict(episodes=20, seed=3, greedy=True)
    assert "score" not in evaluate.play(s, state, {"gravity": 5.0}, None, **how)
    assert "score" not in stats.describe(stats.summarise([1.0, 2.0]))


def test_a_run_from_a_file_goes_on_bit_for_bit_and_only_from_that_file(
    learned, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(learned[0] / "run", tmp_path / "run")
    assert "a.npz: no such file" in fails(resume, Path("run"))
    shutil.copy(learned[0] / "a.npz", tmp_path)
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "run", cut)
    for name in ("summary.json", "metrics.npz", "ckpt/4"):
        path = cut / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert resume(cut)["state_sha256"] == learned[1]["state_sha256"]
    longer = reopen(Path("run"), 30)
    assert resume(Path("run"), longer)["iterations"] == 6
    dataset.make(Path("b.npz"), random=True, env="CartPole-v1", steps=80, seed=1)
    shutil.move("b.npz", "a.npz")
    said = fails(resume, Path("run"), reopen(Path("run"), 40))
    assert said.startswith("dataset: a.npz is ") and "but the run began with" in said
    assert said == fails(evaluate.load, Path("run"))


def test_a_disk_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "a.npz"
    dataset.make(out, random=True, env="CartPole-v1", steps=8)
    before = out.read_bytes()

    def full(path, *_):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(RunError, match="No space left"):
        dataset.make(out, random=True, env="CartPole-v1", steps=9)
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


# ---- claims ----------------------------------------------------------------------------------


def test_claims_take_the_range_of_a_dataset_s_environment(tmp_path):
    dataset.make(tmp_path / "a.npz", random=True, env="Pendulum-v1", steps=8)
    assert claims.span(str(tmp_path / "a.npz")) == RANGES["Pendulum-v1"]
    assert claims.span("random/CartPole-v1") == RANGES["CartPole-v1"]
    assert "no such file" in fails(claims.span, str(tmp_path / "b.npz"))
    assert "has no range for tabular/chain" in fails(claims.span, "random/tabular/chain")


def test_claims_name_datasets_that_the_recipe_makes():
    """And are readable before it did."""
    path = catalogue.ROOT / "experiments" / "datasets.py"
    spec = importlib.util.spec_from_file_location("recipe", path)
    assert spec and spec.loader
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    made = {f"experiments/datasets/pendulum-{kind}.npz" for kind in recipe.SETS}
    assert recipe.HOME == catalogue.ROOT / "experiments" / "datasets"
    for slug in ("bc", "td3_bc", "iql", "cql"):
        assert set(claims.read(slug).on) <= made
