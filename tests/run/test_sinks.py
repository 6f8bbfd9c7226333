"""Curves of a run: what they hold, that none holds a point twice, that no sink can end a run."""

import importlib.machinery
import inspect
import json
import os
import shutil
import signal
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from jaxrl.cli import main
from jaxrl.errors import InputError, RunError
from jaxrl.run import job as jobs
from jaxrl.run import record, sinks
from jaxrl.run.run import Chunk, Setting
from jaxrl.run.sinks import Sinks, open_sinks, points
from jaxrl.run.train import resume, train

SMALL = dict(num_envs=4, num_steps=8, minibatches=2, epochs=2, lr=0.003)
EACH, SEEDS = 4 * 8, (3, 4, 5, 6, 7)


def resolve(**run):
    """A job of 12 iterations, each a chunk, that saves after each fourth."""
    own = dict(paper="ppo", env="CartPole-v1", seeds=5, seed=3, steps=12 * EACH, evals=2)
    run = own | dict(eval_episodes=20, checkpoint_every="4", keep=100) | run
    return jobs.resolve(run=run, env_params={}, network=dict(hidden=(8,)), hyper=SMALL)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run's folder, and its chunks."""
    folder, chunks = tmp_path_factory.mktemp("whole") / "run", []
    train(resolve(), folder, see=lambda chunk: chunks.append(chunk._replace(state=None)))
    return folder, chunks


@pytest.fixture(scope="module")
def whole(kept):
    return kept[0]


@pytest.fixture
def again(kept, tmp_path):
    """Show the same chunks to sinks of a folder; what was said."""

    def show(chosen):
        said, s = [], Setting(resolve(), None, None, None, np.array(SEEDS))
        with open_sinks(chosen, s, tmp_path / "run", None, said.append) as write:
            for chunk in kept[1]:
                write(chunk)
        return said

    return show


@pytest.fixture
def cut(whole, tmp_path):
    """The run as it was when it died after its last chunk, saved last after the eighth."""
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "ckpt/12")
    return folder


# A reader of its own: no line of tensorboardX, which writes.


def records(data: bytes):
    """The records of a TFRecord file; nothing may be left over."""
    while data:
        (n,) = struct.unpack_from("<Q", data)
        assert struct.unpack_from("<I", data, 8) == (masked(data[:8]),)
        yield (body := data[12 : 12 + n])
        assert struct.unpack_from("<I", data, 12 + n) == (masked(body),)
        data = data[16 + n :]


def masked(data: bytes) -> int:
    """CRC-32C, bit by bit, rotated and offset as TFRecord has it."""
    c = 0xFFFFFFFF
    for byte in data:
        c ^= byte
        for _ in range(8):
            c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    c ^= 0xFFFFFFFF
    return ((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(data: bytes, i: int) -> tuple[int, int]:
    x = shift = 0
    while True:
        x |= (data[i] & 127) << shift
        shift, i = shift + 7, i + 1
        if data[i - 1] < 128:
            return x, i


def fields(data: bytes):
    """(number, value) of a protobuf message's fields."""
    i = 0
    while i < len(data):
        key, i = varint(data, i)
        if key & 7 == 0:
            x, i = varint(data, i)
        else:
            n, i = varint(data, i) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], i)
            x, i = data[i : i + n], i + n
        yield key >> 3, x


def shown(folder: Path, hidden: list | None = None) -> dict[tuple[str, int], float]:
    """{(tag, step): value} that TensorBoard shows of a folder's own files; a start of a session
    hides what is at its step or later. No point is there twice."""
    out = {}
    for path in sorted(folder.glob("*tfevents*")):
        events = [dict(fields(r)) for r in records(path.read_bytes())]
        assert events[0][3] == b"brain.Event:2" and all(1 in e for e in events)
        for event in events[1:]:
            step = event.get(2, 0)
            if 7 in event:  # session_log {status: START}
                assert dict(fields(event[7])) == {1: 1}
                gone = {k: x for k, x in out.items() if k[1] >= step}
                out = {k: x for k, x in out.items() if k[1] < step}
                (hidden if hidden is not None else []).append(gone)
            for _, value in fields(event.get(5, b"")):
                found = dict(fields(value))
                point = (found[1].decode(), step)
                assert point not in out
                out[point] = struct.unpack("<f", found[2])[0]
    return out


def middle(x: np.ndarray) -> float:
    """The interquartile mean of what is finite, by its definition: a quarter off each end."""
    x = np.sort(x[np.isfinite(x)])
    k = len(x) // 4
    return float(np.mean(x[k : len(x) - k])) if len(x) else np.nan


def expected(folder: Path, row: int | None = None) -> dict[tuple[str, int], float]:
    """What is to be shown, from the arrays (a chunk is an iteration); of one seed, or of all."""
    arrays = record.load_arrays(folder)
    steps, eval_steps = arrays.pop("steps"), arrays.pop("eval_steps")
    of = middle if row is None else lambda x: float(x[row])
    out = {}
    for name, x in arrays.items():
        at = eval_steps if name == "eval_return" else steps
        out |= {(name, int(s)): of(x[:, i].astype(float)) for i, s in enumerate(at)}
    if row is None:
        worst = arrays["eval_return"].min(0)
        out |= {("eval_return_worst", int(s)): x for s, x in zip(eval_steps, worst)}
    return {k: x for k, x in out.items() if np.isfinite(x)}


def same(found: dict, wanted: dict) -> None:
    found = {k: x for k, x in found.items() if k[0] != "steps_per_second"}
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose([found[k] for k in wanted], [*wanted.values()], rtol=1e-5, atol=1e-7)


def speeds(found: dict) -> dict[int, float]:
    return {step: x for (tag, step), x in found.items() if tag == "steps_per_second"}


def test_tensorboard_shows_what_the_run_recorded(whole, again, tmp_path):
    found = shown(whole / "tensorboard")
    same(found, expected(whole))
    seconds = [json.loads(line)["seconds"] for line in (whole / "metrics.jsonl").open()]
    assert [*speeds(found)] == [EACH * (i + 1) for i in range(12)]
    spent = sum(5 * EACH / x for x in speeds(found).values())
    assert spent == pytest.approx(seconds[-1], abs=2e-3)
    assert again(Sinks(per_seed=True)) == []
    folder = tmp_path / "run/tensorboard"
    assert {p.name for p in folder.iterdir()} == {f"seed_{n}" for n in SEEDS}
    for row, seed in enumerate(SEEDS):
        found = shown(folder / f"seed_{seed}")
        same(found, expected(whole, row))
        assert {k: 5 * x for k, x in speeds(found).items()} == pytest.approx(
            speeds(shown(whole / "tensorboard"))
        )


def test_a_chunk_with_what_is_not_finite():
    """A chunk of two iterations of eight seeds: means over what is finite, then over seeds."""
    x = np.array([[1, 3], [np.nan, 9], [np.nan, np.inf], *[[i, i + 2.0] for i in range(5)]])
    metrics = dict(x=x, finite=np.ones((8, 2), bool), none=np.full((8, 2), np.nan))
    metrics["vector"] = np.ones((8, 2, 3))  # no scalar
    y = np.array([0, 100, *[5.0] * 6])
    row = points(Chunk(6, None, metrics, y, 0.5), 10, False)
    # means 2 9 - 1 2 3 4 5: of seven, one goes at each end
    wanted = dict(x=np.mean([2, 2, 3, 4, 5]), finite=1, steps_per_second=320)
    assert row == [wanted | dict(eval_return=5, eval_return_worst=0)]
    rows = points(Chunk(6, None, metrics, None, 0.5), 10, True)
    assert [r.get("x") for r in rows] == [2, 9, None, 1, 2, 3, 4, 5]
    assert all(r["steps_per_second"] == 40 and "vector" not in r and "none" not in r for r in rows)
    y[1] = np.nan
    row = points(Chunk(6, None, metrics, y, 0.5), 10, False)
    assert "eval_return_worst" not in row[0]  # nobody knows it
    assert row[0]["eval_return"] == scipy.stats.trim_mean([0, *[5.0] * 6], 0.25)


def test_no_point_is_shown_twice_after_a_resume(cut, whole):
    resume(cut)
    hidden = []
    found = shown(cut / "tensorboard", hidden)
    same(found, expected(whole))
    assert len(hidden) == 1 and {step for _, step in hidden[0]} == {EACH * i for i in range(9, 13)}
    assert len(speeds(found)) == 12


def test_resume_with_a_curve_for_each_seed(cut, whole, fakes):
    with pytest.raises(SystemExit) as e:
        main(["resume", str(cut), "--quiet", "--per-seed", "--sink", "wandb", "--sink=trackio"])
    assert e.value.code == 0
    names = [f"seed_{n}" for n in SEEDS]
    assert sorted(p.name for p in (cut / "tensorboard").iterdir() if p.is_dir()) == names
    for row, name in enumerate(names):
        after = {k: x for k, x in expected(whole, row).items() if k[1] > 8 * EACH}
        same(shown(cut / "tensorboard" / name), after)
    for runs in fakes.values():
        for r, n in zip(runs, names, strict=True):
            assert r.said["name"].startswith(f"ppo-CartPole-v1-run-{n}")
    assert (cut / "config.toml").read_text() == (whole / "config.toml").read_text()


@pytest.mark.parametrize("call", ["train", "compare", "compare again"])
def test_the_commands_hand_them_on(call, cut, tmp_path, fakes, monkeypatch):
    def stop(*args, **kwargs):
        given.append(inspect.signature(real).bind(*args, **kwargs).arguments["sinks"])
        raise RunError("stopped", 143)

    given, place, real = [], "run.train.train", train
    argv = ["--env", "CartPole-v1", "--run", str(tmp_path / "new")]
    if call == "compare again":
        folder = tmp_path / "new/CartPole-v1/ppo"
        shutil.copytree(cut, folder)
        place, real = "run.compare.resume", resume
        monkeypatch.setattr("jaxrl.run.compare.opened", lambda *args: None)
    elif call == "compare":
        place = "run.compare.train"
    monkeypatch.setattr(f"jaxrl.{place}", stop)
    words = ["train", "ppo"] if call == "train" else ["compare", "ppo", "spo"]
    with pytest.raises(SystemExit) as e:
        main([*words, *argv, "--quiet", "--per-seed", "--sink", "wandb", "--sink", "trackio"])
    assert e.value.code == 143
    assert given == [Sinks(BOTH, per_seed=True)]


class Fake:
    """A run of a fake wandb or trackio: what it was told."""

    def __init__(self, said, runs):
        self.said, self.logged, self.finished, self.starting_step = said, [], 0, 0
        runs.append(self)

    def log(self, data, step=None):
        assert not self.finished
        self.logged.append((step, data))

    def finish(self):
        self.finished += 1


def wandb_init(
    entity=None, project=None, dir=None, id=None, name=None, config=None, group=None, mode=None,
    reinit=None, resume=None, settings=None, **more
):  # fmt: skip
    """wandb.init's arguments, of 0.20 to 0.31."""


def trackio_init(
    project, name=None, group=None, space_id=None, config=None, resume="never", **more
):  # fmt: skip
    """trackio.init's arguments, of 0.43."""


@pytest.fixture
def fakes(monkeypatch):
    """{name: the runs that were begun} of packages that are not installed."""
    out = {}
    for name, like in (("wandb", wandb_init), ("trackio", trackio_init)):
        module, runs = types.ModuleType(name), out.setdefault(name, [])
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="a test")

        def init(*args, runs=runs, like=like, **kwargs):
            said = inspect.signature(like).bind(*args, **kwargs).arguments
            assert "more" not in said
            return Fake(said, runs)

        monkeypatch.setattr(module, "init", init, raising=False)
        monkeypatch.setitem(sys.modules, name, module)
    return out


BOTH = ("wandb", "trackio")


def test_wandb_and_trackio_hear_what_tensorboard_shows(whole, again, tmp_path, fakes):
    assert again(Sinks(BOTH)) == []
    about = dict(group=None, config=jobs.to_tables(resolve()))
    assert fakes["wandb"][0].said["name"] == "ppo-CartPole-v1-run"
    key = fakes["wandb"][0].said["id"][:6]  # trackio knows a run by its name
    assert fakes["trackio"][0].said["name"] == f"ppo-CartPole-v1-run-{key}"
    for (run,) in fakes.values():
        same({(k, s): x for s, row in run.logged for k, x in row.items()}, expected(whole))
        assert all(type(x) is float for _, row in run.logged for x in row.values())
        assert run.said.items() >= (about | dict(project="jaxrl")).items()
        assert run.finished == 1
    wandb = fakes["wandb"][0].said
    assert (wandb["resume"], wandb["reinit"]) == ("allow", "create_new")
    assert Path(wandb["dir"]) == tmp_path / "run" and "mode" not in wandb
    assert fakes["trackio"][0].said["resume"] == "never"


def test_of_each_seed_a_run_in_one_group(whole, again, fakes):
    assert again(Sinks(BOTH, per_seed=True)) == []
    for runs in fakes.values():
        assert {run.said["group"] for run in runs} == {"ppo-CartPole-v1-run"}
        for row, (seed, run) in enumerate(zip(SEEDS, runs, strict=True)):
            assert run.said["name"].startswith(f"ppo-CartPole-v1-run-seed_{seed}")
            assert run.finished == 1
            same({(k, s): x for s, d in run.logged for k, x in d.items()}, expected(whole, row))
    assert len({run.said["id"] for run in fakes["wandb"]}) == 5


def test_a_resumed_run_goes_on_with_the_same_curve(tmp_path, fakes):
    job, folder = resolve(checkpoint_every="6"), tmp_path / "run"

    def see(chunk):
        if chunk.iteration == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunError, match="stopped by SIGTERM"):
        train(job, folder, see=see, sinks=Sinks(BOTH))
    assert all(run.finished for runs in fakes.values() for run in runs)  # though it was stopped
    assert max(step for _, step in shown(folder / "tensorboard")) == 8 * EACH
    shutil.rmtree(folder / "ckpt/8")  # as if it had been killed
    resume(folder, sinks=Sinks(BOTH))
    for runs in fakes.values():
        assert [step for step, _ in runs[0].logged] == [EACH * i for i in range(1, 9)]
        assert [step for step, _ in runs[1].logged] == [EACH * i for i in range(7, 13)]
    first, second = (run.said for run in fakes["wandb"])
    assert first["id"] == second["id"]
    assert fakes["trackio"][1].said["resume"] == "allow"

    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | dict(started=1.0)))
    sinks.wandb(sinks.Curve("", "", folder, {}, None))
    assert fakes["wandb"][2].said["id"] != first["id"]  # a folder used again is another run


def test_steps_that_a_service_has_are_not_sent_again(fakes):
    run = Fake({}, [])
    service = sinks.Service(run, 64)
    for step in (32, 63, 64, 96):
        service.write(step, dict(x=1.0))
    assert [step for step, _ in run.logged] == [64, 96]


def broken(*args, **kwargs):
    raise ConnectionError("the net\nis gone")


def failing(where, fakes, monkeypatch):
    if where == "tensorboard":  # the disk is full after its third event
        real, count = sinks.TensorBoard.add, []

        def add(self, **event):
            count.append(1)
            if len(count) > 3:
                raise ConnectionError("the net\nis gone")
            real(self, **event)

        monkeypatch.setattr(sinks.TensorBoard, "add", add)
    elif where == "init":
        monkeypatch.setattr(sys.modules["wandb"], "init", broken)
    else:
        monkeypatch.setattr(Fake, where, broken)


@pytest.mark.parametrize(
    ("where", "names"),
    [("init", ["wandb"]), ("log", BOTH), ("finish", BOTH), ("tensorboard", ["tensorboard"])],
)
@pytest.mark.parametrize("per_seed", [False, True])
def test_a_sink_that_fails_is_named_once_and_dropped(
    where, names, per_seed, whole, again, tmp_path, fakes, monkeypatch
):
    failing(where, fakes, monkeypatch)
    lost = [f"sink {name}: ConnectionError: the net; the run goes on without it" for name in names]
    assert again(Sinks(BOTH, per_seed)) == lost
    if where != "tensorboard" and not per_seed:
        same(shown(tmp_path / "run/tensorboard"), expected(whole))
    for run in [run for name in {*BOTH} - {*names} for run in fakes[name]]:
        assert len(run.logged) == 12
    if where != "finish":  # one that is dropped is closed too
        assert all(run.finished == 1 for runs in fakes.values() for run in runs)


def test_no_sink_ends_a_run(whole, cut, fakes, monkeypatch):
    monkeypatch.setattr(Fake, "log", broken)
    shutil.rmtree(cut / "tensorboard")
    (cut / "tensorboard").write_text("a file")
    said = []
    summary = resume(cut, say=said.append, sinks=Sinks(BOTH))
    lost = [line.split(":")[:2] for line in said if line.startswith("sink")]
    assert lost == [
        ["sink tensorboard", " FileExistsError"],
        ["sink wandb", " ConnectionError"],
        ["sink trackio", " ConnectionError"],
    ]
    assert summary["state_sha256"] == record.load_summary(whole)["state_sha256"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("wnadb", "sink: no 'wnadb'; did you mean wandb?"),
        ("mlflow", "sink: no 'mlflow'; allowed are wandb and trackio; "),
        ("wandb", "sink: wandb is not installed; pip install 'jaxrl[wandb]'"),
        ("trackio", "sink: trackio is not installed; pip install 'jaxrl[trackio]'"),
    ],
)
@pytest.mark.parametrize("call", ["train", "resume", "compare"])
def test_a_bad_name_is_said_before_anything_is_computed(
    call, name, line, cut, tmp_path, monkeypatch, capsys
):
    for package in BOTH:
        monkeypatch.delitem(sys.modules, package, raising=False)
    (tmp_path / "wandb").mkdir()  # what an offline run leaves is no package
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("jaxrl.run.run.set_up", broken)
    monkeypatch.setattr("jaxrl.run.sinks.importlib.util.find_spec", spec_without(BOTH))
    argv = {
        "train": ["train", "ppo", "--env", "CartPole-v1", "--run", "new"],
        "resume": ["resume", str(cut)],
        "compare": ["compare", "ppo", "spo", "--env", "CartPole-v1", "--run", "new"],
    }[call]
    with pytest.raises(SystemExit) as e:
        main([*argv, "--sink", name])
    err = capsys.readouterr().err
    assert (e.value.code, err.count("\n")) == (2, 1) and err.startswith(f"jaxrl: {line}")
    assert not Path("new").exists()
    with pytest.raises(InputError):
        Sinks((name,))


def spec_without(names):
    """find_spec where these are not installed, though a folder of wandb's may be about."""
    real = importlib.util.find_spec

    def find(name):
        spec = real(name)
        return None if spec and spec.origin and name in names else spec

    return find
