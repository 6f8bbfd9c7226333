"""A run that cannot be lost: killed, cut, spoilt or lost to NaN, it goes on or says why not."""

import itertools
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import core
from jaxrl.cli import main
from jaxrl.core import Algo
from jaxrl.errors import InputError, RunError
from jaxrl.hyper import hyper
from jaxrl.run import checkpoint, evaluate, files, guard, record
from jaxrl.run import job as jobs
from jaxrl.run.run import build, execute, set_up
from jaxrl.run.train import reopen, resume, train

SMALL = dict(num_envs=4, num_steps=8, minibatches=2, epochs=2, lr=0.003)
RUN = dict(paper="ppo", env="CartPole-v1", seeds=2, steps=20 * 32, evals=2, eval_episodes=20)


def resolve(run=None, hyper=None, network=None):
    """A job of 20 iterations that saves after each fourth."""
    run = RUN | dict(checkpoint_every="4") | (run or {})
    network = dict(hidden=(8,)) | (network or {})
    return jobs.resolve(run=run, env_params={}, network=network, hyper=SMALL | (hyper or {}))


class Cut(Exception):
    """What a test cuts a run with."""


def cut_at(iteration):
    def see(chunk):
        if chunk.iteration >= iteration:
            raise Cut

    return see


def same(a: Path, b: Path) -> bool:
    """Whether two finished runs ended alike, in the state and in every metric."""
    x, y = record.load_arrays(a), record.load_arrays(b)
    shas = [record.load_summary(f)["state_sha256"] for f in (a, b)]
    return shas[0] == shas[1] and all(
        np.array_equal(x[k], y[k], equal_nan=x[k].dtype.kind == "f") for k in x.keys() | y.keys()
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(resolve(), folder)
    return folder


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """One with all its checkpoints."""
    folder = tmp_path_factory.mktemp("long") / "run"
    train(resolve(run=dict(keep=100)), folder)
    return folder


@pytest.fixture
def cut(long, tmp_path):
    """The same, as it was after its twelfth iteration."""
    folder = shutil.copytree(long, tmp_path / "run")
    for name in ("summary.json", "metrics.npz", "curve.png", "ckpt/16", "ckpt/20"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


RECURRENT = dict(hyper=dict(normalise_obs=True, normalise_reward=True), network=dict(memory=4))


@pytest.mark.parametrize("how", [{}, RECURRENT], ids=["ppo", "recurrent with normalisers"])
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(how, whole, tmp_path):
    """DLR-RM/stable-baselines3#326, #1643: there the environment and its keys begin anew."""
    if how:
        whole = tmp_path / "whole"
        train(resolve(**how), whole)
    with pytest.raises(Cut):
        train(resolve(**how), tmp_path / "cut", see=cut_at(9))
    with pytest.raises(Cut):
        resume(tmp_path / "cut", see=cut_at(17))
    said = []
    resume(tmp_path / "cut", say=said.append)
    assert "resuming ppo on CartPole-v1 after 16 of 20 iterations" in said
    assert same(whole, tmp_path / "cut")
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    iterations = [json.loads(line)["iteration"] for line in lines]
    assert iterations == sorted(set(iterations)) and iterations[-1] == 20
    meta = json.loads((tmp_path / "cut" / "meta.json").read_text())
    assert [r["iteration"] for r in meta["resumed"]] == [8, 16]


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path):
    """Here three times; experiments/kill.py does it twenty times for each of three papers."""
    words = "ppo --env CartPole-v1 --seeds 2 --num-envs 4 --num-steps 8 --minibatches 2 --hidden 8"
    train_it = ["train", *words.split(), "--steps", "1e5", "--evals", "2", "--quiet"]
    command = [sys.executable, "-c", "from jaxrl.cli import main; main()"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def call(*words):
        return subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True, env=env)

    begin = [*train_it, "--checkpoint-every", "50", "--run"]
    assert call(*begin, str(tmp_path / "whole")).wait() == 0
    folder, dice, kills = tmp_path / "killed", np.random.default_rng(0), 0
    words = [*begin, str(folder)]
    while not (folder / "summary.json").exists():
        before = set(folder.glob("ckpt/*/manifest.json"))
        process = call(*words)
        while kills < 3 and process.poll() is None:
            if set(folder.glob("ckpt/*/manifest.json")) - before:
                time.sleep(dice.uniform(0, 0.2))
                process.kill()
                kills += process.wait() == -9
            time.sleep(0.01)
        assert process.wait() in (0, -9), process.stderr.read()
        words = ["resume", str(folder), "--quiet"]
    assert kills == 3
    assert same(tmp_path / "whole", folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(number, code, whole, tmp_path):
    before = signal.getsignal(number)

    def see(chunk):
        if chunk.iteration == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(RunError, match=r"stopped by SIG\w+; jaxrl resume .* goes on from") as e:
        train(resolve(run=dict(checkpoint_every="6")), tmp_path / "run", see=see)
    assert e.value.code == code
    assert signal.getsignal(number) == before
    assert int(checkpoint.points(tmp_path / "run")[0].name) in (6, 7)
    resume(tmp_path / "run")
    assert same(whole, tmp_path / "run")


def test_more_steps_make_a_run_longer(whole, tmp_path):
    train(resolve(run=dict(steps=10 * 32)), tmp_path / "run")
    said = []
    resume(tmp_path / "run", say=said.append)
    assert said == [f"{tmp_path / 'run'} is finished; --steps N makes it longer"]
    summary = resume(tmp_path / "run", reopen(tmp_path / "run", 20 * 32))
    assert summary["iterations"] == 20
    assert summary["state_sha256"] == record.load_summary(whole)["state_sha256"]
    assert record.load_arrays(tmp_path / "run")["entropy"].shape == (2, 20)
    with pytest.raises(InputError, match="steps: 320 is less than the 640 done already"):
        resume(tmp_path / "run", reopen(tmp_path / "run", 320))


@pytest.mark.parametrize(
    ("line", "said"),
    [("lr = 0.003", "lr: 0.004 in config.toml, but the run began with 0.003"), ("seeds = 2", "3")],
)
def test_another_configuration_is_refused(line, said, cut):
    config = cut / "config.toml"
    key, value = line.split(" = ")
    other = f"{key} = {0.004 if key == 'lr' else 3}"
    config.write_text(config.read_text().replace(f"\n{line}\n", f"\n{other}\n"))
    with pytest.raises(InputError, match=said):
        resume(cut)


def test_the_last_few_checkpoints_and_the_best_are_kept(long, whole):
    """Every fourth iteration, and each evaluation that beat those before."""
    scores = {int(p.name): checkpoint.verify(p)["score"] for p in checkpoint.points(long)}
    assert set(scores) == {0, 4, 8, 10, 12, 16, 20}
    best = max((i for i in scores if scores[i] is not None), key=lambda i: scores[i])
    assert {int(p.name) for p in checkpoint.points(whole)} == {12, 16, 20, best}
    assert checkpoint.best(whole)[0].name == str(best)
    assert checkpoint.newest(whole)[0].name == "20"
    s, state = evaluate.load(whole, best=True)
    _, other = evaluate.load(whole)
    differ = checkpoint.digest(checkpoint.plain(state)) != checkpoint.digest(
        checkpoint.plain(other)
    )
    assert differ == (best != 20)


def test_a_run_is_finished_when_all_of_it_is_there(cut, whole, monkeypatch):
    """A process that dies while it draws has not finished."""

    def die(*args):
        raise Cut

    with monkeypatch.context() as m:
        m.setattr("jaxrl.run.report.learning_curve", die)
        with pytest.raises(Cut):
            resume(cut)
    assert checkpoint.points(cut)[0].name == "20"
    assert not (cut / "summary.json").exists()
    resume(cut)
    assert same(whole, cut) and (cut / "curve.png").exists()


def spoil(how: str, file: Path, dice) -> None:
    """Flip a bit of a file, cut it short, or remove it."""
    data = bytearray(file.read_bytes())
    if how == "remove":
        file.unlink()
    elif how == "truncate":
        file.write_bytes(data[: dice.integers(len(data))])
    else:
        data[dice.integers(len(data))] ^= 1 << dice.integers(8)
        file.write_bytes(data)


def test_no_spoilt_byte_is_silent(cut):
    """Each flip, truncation and deletion of any file is named, and the checkpoint before used."""
    newest, before = checkpoint.points(cut)[:2]
    everything = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    dice, count = np.random.default_rng(0), 0
    for file in everything:
        kept = file.read_bytes()
        for how in ["remove", *["truncate"] * 4, *["flip"] * 12]:
            spoil(how, file, dice)
            said = []
            assert checkpoint.newest(cut, said.append)[0] == before, (file, how)
            assert str(newest) in said[0] and (str(file) in said[0] or file.name == "manifest.json")
            assert said[1] == f"using {before} instead"
            file.write_bytes(kept)
            count += 1
    assert count >= 200
    assert checkpoint.newest(cut)[0] == newest  # as it was


def test_a_spoilt_checkpoint_is_set_aside_and_the_one_before_used(whole, cut):
    newest, before = checkpoint.points(cut)[:2]
    spoil("flip", newest / "metrics.npz", np.random.default_rng(0))
    said = []
    resume(cut, say=said.append)
    assert said[:2] == [
        f"checkpoint: {newest / 'metrics.npz'} is not as it was written",
        f"using {before} instead",
    ]
    assert newest.with_name(newest.name + ".refused").is_dir()
    assert same(whole, cut)


def test_without_a_whole_checkpoint_nothing_is_begun(cut, capsys):
    for point in checkpoint.points(cut):
        (point / "manifest.json").unlink()
    before = sorted(p for p in cut.rglob("*"))
    with pytest.raises(SystemExit) as e:
        main(["resume", str(cut)])
    assert e.value.code == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert "none of 5 checkpoints is whole" in line and "starts anew" in line
    assert sorted(p for p in cut.rglob("*")) == sorted([*before])


def test_a_second_writer_is_refused_and_a_dead_one_is_not_waited_for(whole, cut):
    with files.locked(cut), pytest.raises(InputError, match=rf"by process {os.getpid()} on"):
        resume(cut)
    (cut / "lock").write_text("process 1 on another machine")
    resume(cut)
    assert same(whole, cut)


def test_a_run_goes_on_with_another_number_of_devices(whole, cut):
    """As a person says it in config.toml, or on another machine; then not bit for bit."""
    config = cut / "config.toml"
    config.write_text(config.read_text().replace("devices = 0", "devices = 1"))
    assert resume(cut)["devices"] == 1
    assert record.load_summary(whole)["devices"] == 2
    mean = lambda run: np.mean(record.load_summary(run)["final_return"]["per_seed"])
    assert mean(cut) == pytest.approx(mean(whole), rel=0.5)


def test_a_disk_that_is_full(cut):
    """No file may grow over 6 kB: the next checkpoint cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    s = set_up(reopen(cut))
    build(s)  # what jax keeps of its programs is over that size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
        with pytest.raises(RunError, match=rf"jaxrl resume {cut} goes on from 12 iterations") as e:
            resume(cut)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert e.value.code == 5
    assert "\n" not in str(e.value)
    assert checkpoint.newest(cut)[0].name == "12"


def test_a_folder_that_is_gone(tmp_path):
    def see(chunk):
        if chunk.iteration == 9:
            while not (tmp_path / "run/ckpt/0/manifest.json").exists():
                time.sleep(0.01)  # else what is being written comes back
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(RunError, match="the folder is gone; there is no checkpoint") as e:
        train(resolve(run=dict(checkpoint_every="1m")), tmp_path / "run", see=see)
    assert e.value.code == 5


TRAP = """
from functools import partial

import jax, jax.numpy as jnp
from flax import struct
from envs.base import Step
from envs.spaces import Box, Discrete

@struct.dataclass
class Trap:
    obs: float  # what it shows and pays when it is sprung; traced, so that a program holds for all
    reward: float
    name = "trap"
    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Discrete(2)
    max_steps = 10

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(1)

    def step(self, key, t, action):
        sprung = jax.random.uniform(key) < 1 / 700
        obs = jnp.where(sprung, self.obs, jnp.zeros(1))
        reward = jnp.where(sprung, self.reward, 1.0)
        return Step(t + 1, obs, reward, t + 1 >= 10, jnp.zeros((), bool))

make = partial(Trap, {obs}, {reward})
"""


@pytest.fixture(params=[("0.0", "jnp.nan"), ("jnp.nan", "1.0"), ("0.0", "jnp.inf")])
def trap(request, tmp_path, monkeypatch):
    """An environment that is sprung once in 700 steps."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    obs, reward = request.param
    (tmp_path / "trap.py").write_text(TRAP.format(obs=obs, reward=reward))
    return lambda **run: resolve(run=dict(env="trap:make", seeds=6, seed=3) | run)


def test_nan_is_named_by_seed_metric_and_iteration(trap, tmp_path):
    s = set_up(trap())
    chunks = []
    execute(s, build(s), chunks.append)
    value_loss = np.concatenate([c.metrics["value_loss"] for c in chunks], 1)
    hit = {
        3 + i: int(np.argmax(np.isnan(x))) + 1
        for i, x in enumerate(value_loss)
        if np.isnan(x).any()
    }
    assert 0 < len(hit) < 6
    first = min(hit, key=lambda seed: (hit[seed], seed))

    with pytest.raises(RunError) as e:
        train(trap(), tmp_path / "stop")
    assert e.value.code == 4
    assert f"seed {first}: " in str(e.value) and f"is not finite at iteration {hit[first]};" in str(
        e.value
    )
    saved = checkpoint.points(tmp_path / "stop")
    assert max(int(p.name) for p in saved) < hit[first]  # nothing that is lost was saved
    assert str(e.value).count("\n") == 0

    said = []
    summary = train(trap(on_nan="freeze"), tmp_path / "freeze", say=said.append)
    assert {f["seed"]: f["iteration"] for f in summary["frozen"]} == hit
    assert {f["metric"] for f in summary["frozen"]} <= {"value_loss", "policy_loss", "grad_norm"}
    assert sum("frozen as it was before" in line for line in said) == len(hit)
    _, state = evaluate.load(tmp_path / "freeze", named=["trap:make"])
    params = jax.tree.leaves(state.inner.params)
    assert all(np.isfinite(x).all() for x in params)
    assert state.finite.tolist() == [3 + i not in hit for i in range(6)]
    entropy = record.load_arrays(tmp_path / "freeze")["entropy"]
    for i in range(6):
        end = hit.get(3 + i, 20)
        assert np.isfinite(entropy[i, : end - 1]).all() and np.isnan(entropy[i, end:]).all()


def test_what_was_lost_once_stays_lost():
    """NaN at the third iteration alone: a seed does not come back, frozen or not."""
    step = lambda s, t, hp, world: (s + 1.0 + jnp.where(t == 2, jnp.nan, 0.0), dict(x=s))
    algo = Algo(lambda *_: jnp.zeros(()), step, lambda *_: None)
    for freeze, end in ((True, 2.0), (False, np.nan)):
        state, metrics = core.train(guard.guarded(algo, freeze), jax.random.key(0), Hp(), None, 6)
        assert metrics["finite"].tolist() == [True, True, False, False, False, False]
        np.testing.assert_array_equal(state.inner, end)
        lost = [False] * 3 + [True] * 3
        assert not freeze or np.isnan(metrics["x"]).tolist() == lost
    step = lambda s, t, hp, world: (jnp.where(t == 2, jnp.nan, 1.0), {})  # it would come back
    state, metrics = core.train(
        guard.guarded(algo._replace(step=step), False), jax.random.key(0), Hp(), None, 6
    )
    assert state.inner == 1.0 and not state.finite


@hyper
class Hp:
    horizon: float = 1.0


def test_the_best_outlives_the_last_few(tmp_path):
    saver = checkpoint.Saver(tmp_path, 2)
    about = dict(seconds=0.0, tables={}, versions={})
    for i, score in enumerate([1.0, 5.0, None, 2.0, 4.0, None]):
        saver.save(i, dict(x=jnp.ones(2)), {}, about | dict(score=score))
    saver.close()
    assert [int(p.name) for p in checkpoint.points(tmp_path)] == [5, 4, 1]
    assert saver.best == checkpoint.Saver(tmp_path, 2).best == 5.0
    assert checkpoint.best(tmp_path)[0].name == "1"


def test_lines_of_later_iterations_and_half_lines_are_left_out(tmp_path):
    lines = [json.dumps(dict(iteration=i)) + "\n" for i in (2, 4, 6)]
    (tmp_path / "m").write_text("".join(lines) + '{"iterat')
    assert record.lines_until(tmp_path / "m", 4) == "".join(lines[:2])
    assert record.lines_until(tmp_path / "m", 9) == "".join(lines)
    assert record.lines_until(tmp_path / "none", 9) == ""


def test_signals_are_the_persons_again_after_a_run():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with guard.signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_counts_as_lost():
    fine = dict(policy_loss=jnp.float32(1), episode_return=jnp.nan, episodes=jnp.float32(0))
    state = dict(x=jnp.ones(3), n=jnp.int32(0))
    assert guard.is_finite(state, fine)
    assert not guard.is_finite(state, fine | dict(policy_loss=jnp.float32(jnp.inf)))
    assert not guard.is_finite(state, fine | dict(episodes=jnp.float32(2)))
    assert not guard.is_finite(dict(x=jnp.array([1, jnp.inf])), fine)
    assert guard.is_finite(
        state, fine | dict(custom=jnp.float32(jnp.nan))
    )  # a paper's own may have no value


MARKER = "import pathlib; pathlib.Path('MARKER').touch()\n"


@pytest.mark.parametrize(
    ("key", "value"), [("paper", "FOLDER/evil.py"), ("env", "evil:make")], ids=["paper", "env"]
)
def test_a_configuration_cannot_name_code(key, value, cut, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("evil.py").write_text(MARKER)
    value = value.replace("FOLDER", str(tmp_path))
    config = cut / "config.toml"
    old = f'\n{key} = "{RUN[key]}"\n'
    config.write_text(config.read_text().replace(old, f'\n{key} = "{value}"\n'))
    shutil.copy(config, "c.toml")
    runs = [["resume", str(cut)]]
    if key == "env":  # the paper is the command's own
        runs.append(["train", "ppo", "--config", "c.toml", "--run", "out"])
    for argv in runs:
        with pytest.raises(SystemExit) as e:
            main(argv)
        err = capsys.readouterr().err
        assert (e.value.code, err.count("\n")) == (2, 1)
        assert f"{key}: {value} is code that a file names" in err
    assert not Path("MARKER").exists()


class Payload:
    def __reduce__(self):
        return (os.system, ("touch MARKER",))


def signed(folder: Path) -> None:
    """Make a crafted checkpoint's manifest fit its files."""
    (folder / "manifest.json").write_text(checkpoint.as_json(checkpoint.sums(folder)))


def pickled(folder):
    np.savez(folder / "metrics.npz", x=np.array([Payload()], object), allow_pickle=True)


def pickled_state(folder):
    for file in (folder / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(pickle.dumps(Payload()))


def linked(folder):
    (folder / "metrics.npz").unlink()
    (folder / "metrics.npz").symlink_to("/etc/hostname")


def elsewhere(folder):
    listed = checkpoint.sums(folder) | {"../../config.toml": "0"}
    (folder / "manifest.json").write_text(checkpoint.as_json(listed))


def nested(folder):
    (folder / "about.json").write_text("[" * 100_000)


def yaml_like(folder):
    text = (
        '{"iteration": "!!python/object/apply:os.system [touch MARKER]", "_target_": "os.system"}'
    )
    (folder / "about.json").write_text(text)


def mistyped(folder):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(checkpoint.as_json(about | dict(iteration="12")))


CRAFTED = [pickled, pickled_state, linked, elsewhere, nested, yaml_like, mistyped]


@pytest.mark.parametrize("craft", CRAFTED, ids=[f.__name__ for f in CRAFTED])
def test_a_crafted_checkpoint_is_refused_without_running_anything(
    craft, cut, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    s, newest = set_up(reopen(cut)), checkpoint.points(cut)[0]
    craft(newest)
    if craft is not elsewhere:
        signed(newest)
    like = jax.eval_shape(build_state(s), s.keys)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.read(newest, like)
    assert not Path("MARKER").exists()


@pytest.mark.parametrize(
    "metrics",
    [{}, dict(steps=np.ones(2), eval_steps=np.ones(2, int), eval_return=np.ones((2, 3)))],
    ids=["none", "of other lengths"],
)
def test_metrics_that_are_not_the_runs_are_refused(metrics, cut):
    newest = checkpoint.points(cut)[0]
    np.savez(newest / "metrics.npz", allow_pickle=False, **metrics)
    signed(newest)
    with pytest.raises(InputError, match="metrics.npz is not of its run"):
        resume(cut)


def build_state(s):
    return lambda keys: jax.vmap(lambda key: s.algo.init(key, s.hp, s.world))(keys)


def test_any_state_can_be_written_and_read(tmp_path):
    """Typed keys, half precision, empty arrays and slots, integers and bools."""
    key = jax.random.split(jax.random.key(0), 3)
    state = (
        {"a": jnp.arange(3.0), "none": None, "slot": ()},
        [jnp.zeros((0, 4)), jnp.ones(2, jnp.bfloat16), jnp.array(True), key, jnp.uint8(7)],
    )
    about = dict(iteration=3, seconds=0.0, score=None, tables={}, versions={})
    checkpoint.write(tmp_path / "3", checkpoint.plain(state), {"x": np.ones(2)}, about)
    point = checkpoint.read(tmp_path / "3", jax.eval_shape(lambda: state))
    assert point.iteration == 3
    assert jax.tree.structure(point.state) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(point.state), jax.tree.leaves(state)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(checkpoint.data(a), checkpoint.data(b))
    with pytest.raises(checkpoint.CheckpointError, match=r"another state: \[0\]\['a'\] is float32"):
        checkpoint.read(
            tmp_path / "3", ({"a": jnp.arange(4.0), "none": None, "slot": ()}, state[1])
        )


def test_the_digest_is_of_every_leaf():
    state = dict(a=jnp.arange(3.0), b=jnp.zeros(2, int), key=jax.random.key(0))
    digests = [checkpoint.digest(checkpoint.plain(state))]
    for change in (
        dict(a=state["a"].at[1].add(1e-6)),
        dict(b=jnp.zeros(2)),
        dict(b=jnp.zeros((2, 1), int)),
        dict(key=jax.random.key(1)),
    ):
        digests.append(checkpoint.digest(checkpoint.plain(state | change)))
    assert all(a != b for a, b in itertools.combinations(digests, 2))


def test_an_evaluation_that_is_not_finite_ends_a_run_too(tmp_path, monkeypatch):
    """Where only the evaluation comes upon it."""
    from jaxrl.run import run

    real = run.mean_returns
    monkeypatch.setattr(run, "mean_returns", lambda r: real(r) + np.array([0, np.nan]))
    job = resolve(run=dict(seed=3))
    with pytest.raises(RunError, match="seed 4: eval_return is not finite at iteration 10"):
        train(job, tmp_path / "run")
