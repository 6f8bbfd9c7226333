"""Exported policies: they act as their run does, without what trained them."""

import importlib.util
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from jaxrl.cli import main
from jaxrl.errors import STORAGE, InputError, RunError
from jaxrl.run import evaluate, export, record
from jaxrl.run import job as jobs
from jaxrl.run.checkpoint import as_key, data
from jaxrl.run.train import train

SEED = 5  # the first of a run's seeds


def tiny(folder, env, seeds, **network):
    """A finished run that learned next to nothing."""
    hyper = dict(num_envs=4, num_steps=8, minibatches=2, epochs=1)
    what = dict(paper="ppo", env=env, seeds=seeds, seed=SEED, steps=64, evals=1, eval_episodes=20)
    tables = dict(env_params=dict(max_steps=8), network=network | dict(hidden=(8,)), hyper=hyper)
    train(jobs.resolve(run=what, **tables), folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Actions in a box, observations normalised."""
    return tiny(tmp_path_factory.mktemp("run") / "run", "Pendulum-v1", 2)


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    """Discrete actions, a memory."""
    return tiny(tmp_path_factory.mktemp("run") / "run", "CartPole-v1", 1, memory=8)


def call(argv, capfd):
    """(exit code, standard output, standard error) of the command in this process."""
    with pytest.raises(SystemExit) as stop:
        main(["export", *map(str, argv)])
    out, err = capfd.readouterr()
    return stop.value.code, out, err


def row(folder, index=0):
    """A run's setting, and one seed's state."""
    s, state = evaluate.load(folder)
    return s, jax.tree.map(lambda x: x[index], state)


def observations(s, n, seed=0):
    shape = (n, *s.world.observation_space.shape)
    return 3 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def truth(s, state, batches, keys):
    """What the run's own `act` does with observations one after the other: actions and memory."""
    act, memory, out = jax.jit(s.algo.act), s.algo.memory(len(batches[0])), []
    for obs, key in zip(batches, keys):
        action, memory = act(state, obs, memory, key, s.hp)
        out.append(np.asarray(action))
    return out, memory


KEYS = {"mode": [None] * 3, "explores": list(jax.random.split(jax.random.key(7), 3))}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("which", ["run", "recurrent"])
def test_an_npz_acts_as_its_run_bit_for_bit(which, keys, request, tmp_path, capfd):
    folder = request.getfixturevalue(which)
    code, out, _ = call([folder, "--out", tmp_path / "p.npz", "--seed", SEED], capfd)
    assert code == 0
    scope = {}
    exec(out.splitlines()[-2], scope)  # the line it says
    act = scope["act"]
    s, state = row(folder)
    batches = [observations(s, 6, i) for i in range(3)]
    raw, end = truth(s, state, batches, keys)
    box = which == "run"
    assert not box or keys[0] is None or np.abs(raw).max() > 1  # there is something to clip
    memory = None
    for obs, key, want in zip(batches, keys, raw):
        action, memory = act(obs, memory, key)
        assert action.dtype == (np.float32 if box else np.int32)
        np.testing.assert_array_equal(action, np.clip(want, -1, 1) if box else want)
    jax.tree.map(np.testing.assert_array_equal, memory, end)
    jax.tree.map(np.testing.assert_array_equal, act.memory(6), s.algo.memory(6))


def test_it_holds_the_leaves_that_change_an_action_and_no_others(run, tmp_path, capfd):
    """Each leaf of the state is changed by itself, to see which matter."""
    assert call([run, "--out", tmp_path / "p.npz", "--seed", SEED], capfd)[0] == 0
    with np.load(tmp_path / "p.npz") as file:
        kept = set(file.files) - {"about"}
    s, state = row(run)
    act, obs, keys = jax.jit(s.algo.act), observations(s, 6), [None, jax.random.key(0)]

    def acts(state):
        return [np.asarray(act(state, obs, (), key, s.hp)[0]) for key in keys]

    before, matter = acts(state), set()
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    for i, (path, x) in enumerate(leaves):
        changed = data(x) + 1 if data(x).dtype != bool else ~x
        others = [y for _, y in leaves]
        others[i] = as_key(x, changed)
        after = acts(jax.tree.unflatten(structure, others))
        if any((a != b).any() for a, b in zip(before, after)):
            matter.add(jax.tree_util.keystr(path))
    assert kept == matter
    assert any("obs_moments" in name for name in kept) and len(kept) < len(leaves) / 3
    assert not any("opt" in name or "critic" in name for name in kept)


def test_what_an_npz_says_of_itself(run, tmp_path, capfd, monkeypatch):
    per_seed = record.load_summary(run)["final_return"]["per_seed"]
    median = evaluate.median_seed(per_seed)
    asked = []
    load = evaluate.load

    def spy(folder, best, named, say):
        asked.append((best, named))
        return load(folder, best, named, say)

    monkeypatch.setattr(evaluate, "load", spy)
    files = [tmp_path / f"{name}.npz" for name in ("median", "other", "best")]
    code, out, _ = call([run, "--out", files[0], "--json"], capfd)
    assert code == 0
    assert json.loads(out) == dict(
        run=str(run),
        paper="ppo",
        env="Pendulum-v1",
        seed=SEED + median,
        file=str(files[0]),
        bytes=files[0].stat().st_size,
        inputs=["obs float32[n, 3]"],
        outputs=["action float32[n, 1] in [-1, 1]"],
    )
    other = SEED + 1 - median
    assert call([run, "--out", files[1], "--seed", other, "--paper", "mine.py"], capfd)[0] == 0
    assert call([run, "--out", files[2], "--best"], capfd)[0] == 0
    assert asked == [(False, []), (False, [str(Path("mine.py").resolve())]), (True, [])]
    about, another, best = (export.load(file).about for file in files)
    assert (about["paper"], about["env"], about["seed"]) == ("ppo", "Pendulum-v1", SEED + median)
    assert about["checkpoint"] == "last" and about["final_return"] == per_seed[median]
    assert (another["seed"], another["final_return"]) == (other, per_seed[1 - median])
    assert best["checkpoint"] == "best" and best["final_return"] is None
    box = dict(space="Box", low=-1.0, high=1.0, shape=[1], dtype="float32")
    assert about["action_space"] == box and about["observation_space"]["shape"] == [3]
    assert about["versions"] == record.versions()
    assert about["tables"]["hyper"]["num_envs"] == 4


ALONE = """
import sys
import numpy as np
sys.modules["jaxrl"] = sys.modules["envs"] = None  # whoever imports them fails
from jax import export
given, out = np.load("given.npz"), {}
for name in ("mode", "seeded", "memory"):
    act = export.deserialize(bytearray(open(name + ".stablehlo", "rb").read())).call
    for n in (3, 7):
        obs = given[f"{'recurrent' if name == 'memory' else 'run'}{n}"]
        rest = [np.uint32(11)] if name != "mode" else []
        if name == "memory":
            action, memory = act(obs, np.zeros((n, 8), np.float32), *rest)
            action, out[f"memory {n} after"] = act(obs, memory, *rest)
        else:
            action = act(obs, *rest)
        out[f"{name} {n}"] = action
np.savez("out.npz", **out)
"""


def test_a_program_acts_alike_where_there_is_no_jaxrl(run, recurrent, tmp_path, capfd):
    argv = dict(
        mode=[run, "--seed", SEED],
        seeded=[run, "--seed", SEED, "--stochastic"],
        memory=[recurrent, "--stochastic"],
    )
    said = {}
    for name, x in argv.items():
        code, out, _ = call([*x, "--out", tmp_path / f"{name}.stablehlo"], capfd)
        assert code == 0
        said[name] = out.splitlines()
    assert said["mode"][-1] == "action = act(obs)"
    assert said["seeded"][-1] == "action = act(obs, seed)"
    assert said["memory"][-1].startswith("action, memory = act(obs, memory, seed)  # memory: zeros")
    scope = {}
    exec(said["mode"][-2], scope)
    program = scope["act"].__self__
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert {str(x) for x in program.in_avals} == {"float32[n,3]"}
    settings = dict(run=row(run), recurrent=row(recurrent))
    given = {f"{k}{n}": observations(s, n) for k, (s, _) in settings.items() for n in (3, 7)}
    np.savez(tmp_path / "given.npz", **given)
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True)
    key = jax.random.key(11)
    with np.load(tmp_path / "out.npz") as out:
        for n in (3, 7):
            s, state = settings["run"]
            obs = given[f"run{n}"]
            for name, k in (("mode", None), ("seeded", key)):
                want = np.clip(truth(s, state, [obs], [k])[0][0], -1, 1)
                assert out[f"{name} {n}"].dtype == want.dtype and want.shape == (n, 1)
                np.testing.assert_allclose(out[f"{name} {n}"], want, rtol=1e-6, atol=1e-6)
            s, state = settings["recurrent"]
            obs = given[f"recurrent{n}"]
            want, memory = truth(s, state, [obs, obs], [key, key])
            assert out[f"memory {n}"].dtype == np.int32
            np.testing.assert_array_equal(out[f"memory {n}"], want[1])
            np.testing.assert_allclose(out[f"memory {n} after"], memory, rtol=1e-6, atol=1e-6)


def test_a_program_is_for_the_platforms_it_can_be_lowered_for(run):
    s, state = evaluate.load(run)
    leaves = export.policy(s, state, 0)

    def only(**platforms):
        def act(state, obs, memory, key, hp):
            return jax.lax.platform_dependent(obs[:, :1], **platforms), memory

        return s._replace(algo=s.algo._replace(act=act))

    said = []
    some = export.program(only(cpu=jnp.sin, cuda=jnp.cos), leaves, False, said.append)
    assert jax_export.deserialize(bytearray(some)).platforms == ("cpu", "cuda")
    assert len(said) == 1 and said[0].startswith("not for tpu: ")
    with pytest.raises(InputError, match="^out: ppo cannot be made a program: "):
        export.program(only(rocm=jnp.sin), leaves, False, said.append)
    odd = s._replace(algo=s.algo._replace(memory=lambda n: jnp.ones((n, 1))))
    with pytest.raises(InputError, match="the memory of ppo begins as more than zeros"):
        export.program(odd, leaves, False, said.append)


BAD = [
    (["--out", "p.onnx"], "out: p.onnx does not end in .npz or .stablehlo"),
    (["--out", "p", "--stochastic"], "stochastic: an .npz acts either way"),
    (["--out", "there.npz"], "out: there.npz exists"),
    (["--out", "no/p.npz"], "out: no is not a folder to write to"),
    (["--out", "x" * 300 + ".npz"], "out: xxx"),
    (["--out", "p.npz", "--stochastic"], "stochastic: an .npz acts either way"),
    (["--out", "p.npz", "--seed", "x"], "seed: 'x' is not a whole number"),
    ([], "Missing option '--out'"),
]


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[" ".join(b[0])[:30] for b in BAD])
def test_bad_input_is_one_line_before_anything_is_loaded(
    argv, said, run, capfd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "load", None)
    Path("there.npz").touch()
    code, out, err = call([run, *argv], capfd)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert [(p.name, p.stat().st_size) for p in tmp_path.iterdir()] == [("there.npz", 0)]


def test_flatbuffers_is_asked_for_before_anything_is_loaded(run, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(evaluate, "load", None)
    code, _, err = call([run, "--out", tmp_path / "p.stablehlo"], capfd)
    assert (code, err.count("\n")) == (2, 1) and "pip install 'jaxrl[export]'" in err


@pytest.mark.parametrize("seed", [SEED - 1, SEED + 2])
def test_a_seed_that_is_not_the_runs_is_one_line(seed, run, tmp_path, capfd):
    code, _, err = call([run, "--out", tmp_path / "p.npz", "--seed", seed], capfd)
    assert (code, err) == (2, f"jaxrl: seed: {seed} is outside [5, 6], the run's seeds\n")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_leaves_no_half_of_it(run, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left on device") as error:
        export.export(run, tmp_path / "p.npz")
    assert error.value.code == STORAGE and not list(tmp_path.iterdir())


def test_a_folder_is_for_a_language_model(run, tmp_path, capfd):
    code, _, err = call([run, "--out", tmp_path / "model"], capfd)
    assert (code, err.count("\n")) == (2, 1) and "which this run did not begin with" in err
    assert not list(tmp_path.iterdir())


class Trap:
    """What a pickle of it does when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


OWN = """
from pathlib import Path

from jaxrl.papers.on_policy.ppo import PPO, make

Path("sprung").touch()
PAPER = {"slug": "mine", "title": "Mine", "chapter": "own", "hyper": "PPO", "claim": ""}
"""


@pytest.fixture
def saved(run, tmp_path, monkeypatch):
    """What an .npz holds, and how to write it as something else: the path of that."""
    monkeypatch.chdir(tmp_path)
    s, state = evaluate.load(run)
    leaves = export.policy(s, state, 0)
    about = export.describe(s, 0, False, 1.0)

    def save(leaves=leaves, **changes):
        tables = about["tables"] | {"run": about["tables"]["run"] | changes}
        Path("p.npz").write_bytes(export.arrays(leaves, about | dict(tables=tables)))
        return Path("p.npz")

    return leaves, save


def refused(path, **how):
    """The one line that a file is refused with."""
    with pytest.raises(InputError) as error:
        export.load(path, **how)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_a_spoilt_file_is_one_line(saved):
    leaves, save = saved
    path = save()
    whole = path.read_bytes()
    assert export.load(path).about["paper"] == "ppo"
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 1
    for content in (spoilt, whole[:-100], b"", b"hello", pickle.dumps(Trap())):
        path.write_bytes(content)
        assert refused(path).startswith("policy: p.npz is not one that jaxrl exported: ")
    np.save("array.npy", np.zeros(3))
    assert refused("array.npy").endswith("ValueError: it is no .npz")
    assert refused("no.npz").endswith("exported: No such file or directory")
    assert not Path("sprung").exists()


def test_a_crafted_file_is_one_line_and_nothing_in_it_runs(saved):
    leaves, save = saved
    name, bias = next((k, x) for k, x in leaves.items() if "bias" in k)
    missing = {k: x for k, x in leaves.items() if k != name}
    size = bias.size
    assert refused(save(missing)).endswith(f"{name} is missing, expected float32[{size}]")
    more = leaves | {"more": np.zeros(2)}
    assert refused(save(more)).endswith("network: more is float64[2], expected none")
    longer = leaves | {name: np.zeros(size + 1, np.float32)}
    assert f"{name} is float32[{size + 1}], expected" in refused(save(longer))
    np.savez(file := io.BytesIO(), about=np.array(Trap(), object))
    Path("p.npz").write_bytes(file.getvalue())
    assert "Object arrays cannot be loaded" in refused("p.npz")
    for about in ("{", "[" * 100_000, "[]", "{}", '{"tables": {"run": 3}}'):
        np.savez("p.npz", allow_pickle=False, about=np.array(about), **leaves)
        assert refused("p.npz").startswith("policy: p.npz is not one that jaxrl exported: ")
    assert refused(save(env="Nowhere-v0")).startswith("env: no 'Nowhere-v0'")
    assert refused(save(seeds="many")).startswith("seeds: 'many' is not an int")
    assert not Path("sprung").exists()


def test_code_that_a_file_names_runs_only_if_a_person_names_it_too(saved):
    own = str(Path("mine.py").resolve())
    Path(own).write_text(OWN)
    leaves, save = saved
    path = save(paper=own)
    assert refused(path).startswith(f"paper: {own} is code that a file names")
    assert refused(path, named=["other.py"]).startswith(f"paper: {own} is code that a file names")
    path = save(env="mine:make")
    assert refused(path, named=[own]).startswith("env: mine:make is code that a file names")
    assert not Path("sprung").exists()
    act = export.load(save(paper=own), named=[own])
    assert Path("sprung").exists()
    assert act(np.zeros((2, 3), np.float32))[0].shape == (2, 1)
