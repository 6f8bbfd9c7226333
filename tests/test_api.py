"""From Python: what the commands do, in a few calls, and what a notebook shows of it."""

import base64
import contextlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.cli import main, progress
from jaxrl.errors import InputError
from jaxrl.hyper import Linear
from jaxrl.run import compare, evaluate, pages, record, sweep, tune
from jaxrl.run import job as jobs
from jaxrl.run.job import to_tables

SMALL = dict(num_envs=4, num_steps=8, minibatches=2, epochs=1, hidden=(8,))
RUN = dict(seeds=2, steps=64.0, evals=1, eval_episodes=20)
METHOD = "ppo:num-envs=4,num-steps=8,minibatches=2,epochs=1,hidden=8"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def run(shared):
    how = dict(env="CartPole-v1", env_params=dict(max_steps=20), quiet=True)
    return jaxrl.train("ppo", folder=str(shared / "run"), lr="1e-3:0", **how, **SMALL, **RUN)


@pytest.fixture
def displayed(monkeypatch):
    """What a notebook would show, in order."""
    import IPython.display

    out = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **how: out.append(data))
    return out


def test_a_run_from_python_is_the_commands(run, shared):
    said = ["--lr", "1e-3:0", "--hidden", "8", "--env-param", "max_steps=20"]
    for name, value in (SMALL | RUN).items():
        if name != "hidden":
            said += [f"--{name.replace('_', '-')}", str(value)]
    argv = ["train", "ppo", "--env", "CartPole-v1", "--run", str(shared / "command"), *said]
    with pytest.raises(SystemExit, match="0"):
        main([*argv, "--quiet"])
    other = record.load_summary(shared / "command")
    assert run.summary["state_sha256"] == other["state_sha256"]
    assert (run.folder / "config.toml").read_text() == (shared / "command/config.toml").read_text()
    assert run.final_return.tolist() == other["final_return"]["per_seed"]
    assert run.arrays["episode_return"].shape == (2, 2)


def test_what_may_be_asked_of_a_run(run, tmp_path):
    s, state = evaluate.load(run.folder)
    s = evaluate.elsewhere(s, dict(gravity=30))
    there = evaluate.play_here(s, state, episodes=20, seed=3, greedy=False)["per_seed"]
    mine = run.evaluate(20, 3, stochastic=True, env_params={"gravity": 30})
    assert mine.tolist() == there
    act = run.export(tmp_path / "p.npz", seed=1)
    assert act(np.zeros((3, 4), np.float32))[0].shape == (3,)
    film = run.render(seed=1, steps=5)
    assert film.path == run.folder / "render.gif" and "seed 1" in repr(film)
    shown = film._repr_mimebundle_()
    assert base64.b64decode(shown["image/gif"])[:6] == b"GIF89a"
    page = run.render(tmp_path / "film.html", steps=5)._repr_mimebundle_()["text/html"]
    assert page.startswith("<iframe srcdoc=") and "<script>" not in page  # it is escaped
    assert jaxrl.load(run.folder).summary == run.summary
    longer = jaxrl.resume(run.folder, steps=96.0, quiet=True)
    assert longer.arrays["steps"].tolist() == [32, 64, 96]
    longer.report()
    anew = f"jaxrl train ppo --env CartPole-v1 --config {run.folder}/config.toml\n```"
    assert anew in (run.folder / "report.md").read_text()


def test_every_command_that_made_a_run_is_on_its_page(run, monkeypatch):
    meta = record.load_json(run.folder / "meta.json")
    resumed = dict(argv=["/bin/jaxrl", "resume", "x", "--steps", "96"])
    meta |= dict(argv=["/bin/jaxrl", "train", "ppo", "--lr", "0.1"], resumed=[resumed])
    code = pages.again(meta, ["else"])[1]
    assert code.text == "jaxrl train ppo --lr 0.1\njaxrl resume x --steps 96"


def test_a_paper_of_another_family_trains_and_has_its_page(shared):
    how = dict(env="tabular/cliff", seeds=2, folder=str(shared / "exact"), quiet=True)
    exact = jaxrl.train("ecrm_pg", steps=5, **how)
    assert exact.summary["frozen"] == [] and exact.arrays["finite"].all()
    assert exact.arrays["eval_steps"].tolist() == [1, 2, 3, 4, 5]  # of ten, as many as there can be
    assert jaxrl.resume(exact.folder, steps=20, quiet=True).arrays["eval_steps"].size == 5 + 8
    assert "data:image/gif" in Path(exact.report()["html"]).read_text()


def test_a_notebook_shows_a_picture_and_a_table(run, displayed):
    run._ipython_display_()
    picture, table = displayed
    assert base64.b64decode(picture["image/png"])[:4] == b"\x89PNG"
    assert picture["text/plain"] == repr(run) and "over 2 seeds" in repr(run)
    assert "| acting by its mode |" in table._repr_markdown_()


def test_a_comparison_and_a_sweep_from_python(shared, displayed):
    methods = [METHOD, METHOD + ",eps=0.3"]
    fields = dict(seeds=2, steps=64.0, quiet=True)
    c = jaxrl.compare(
        methods, env="CartPole-v1", evals=1, folder=str(shared / "c"), eval_episodes=20, **fields
    )
    assert [r["paper"] for r in c.rows] == methods
    vary = {"lr": [1e-3, 1e-2], "eps": "0.1..0.3:lin2"}
    s = jaxrl.sweep(
        METHOD, env="CartPole-v1", vary=vary, folder=str(shared / "s"), rows=2, **fields
    )
    assert [list(r["point"].values()) for r in s.rows] == [
        [lr, eps] for lr in (1e-3, 1e-2) for eps in (0.1, 0.3)
    ]
    t = jaxrl.tune(METHOD, env="CartPole-v1", trials=2, folder=str(shared / "t"), **fields)
    assert len(t.trials) == 2 and "the defaults, on the same" in repr(t)
    for made in (c, s, t):
        assert repr(jaxrl.load(made.folder)) == repr(made)
        made._ipython_display_()
    assert len(displayed) == 6
    # what a page says to do again is the same question
    asks = {}
    with pytest.MonkeyPatch.context() as m:
        for module in (compare, sweep, tune):
            name = module.__name__.rpartition(".")[2]
            catch = lambda *args, name=name, **more: asks.update({name: args}) or {}
            m.setattr(module, name, catch)
        for made in (c, s, t):
            code = (made.folder / "report.md").read_text().rpartition("To do it again")[2]
            words = shlex.split(code.split("```")[1])
            with contextlib.suppress(KeyError, SystemExit):  # there is nothing to print
                main([*words[1:], "--json", "--run", str(shared / "again")])
    found = [json.loads((shared / k).read_text()) for k in FILES]
    assert list(asks["compare"][:2]) == [methods, ["CartPole-v1"]]
    assert asks["compare"][2] == found[0]["asked"]["run"]
    for name, record_ in zip(("sweep", "tune"), found[1:]):
        asked, before = asks[name][0], record_["asked"]
        tables = json.loads(json.dumps(to_tables(asked.job)))
        assert (asked.method, tables) == (before["method"], before["tables"])
        assert list(asked.vary) == list(before["vary"])
    assert asks["sweep"][0].vary == found[1]["asked"]["vary"]
    assert json.loads((s.folder / "sweep.json").read_text())["asked"]["vary"]["lr"] == [1e-3, 1e-2]


FILES = ("c/comparison.json", "s/sweep.json", "t/tune.json")
WRONG = [
    (dict(paper="pppo"), "paper: no 'pppo'"),
    (dict(env="Cart"), "env: no 'Cart'"),
    (dict(lrr=3), "ppo: no 'lrr'; did you mean lr?"),
    (dict(lr=-1), "lr: -1 is outside"),
    (dict(num_envs=0), "num_envs: 0 is outside [1, inf)"),
    (dict(sinks="wandbb"), "sink: no 'wandbb'; did you mean wandb?"),
    (dict([("lr.begin", 1)]), "ppo: no 'lr.begin'; lr is 0.0025:0.0"),
    (dict(seeds=2.5), "seeds: 2.5 is not an int"),
    (dict(steps=1), "steps: 1 is less than one iteration"),
    (dict(hidden=3), "hidden: 3 is not a tuple"),
    (dict(env_params=dict(gravty=1)), "parameter: no 'gravty'; did you mean gravity?"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=[next(iter(w)) for w, _ in WRONG])
def test_what_is_not_allowed_is_one_line(wrong, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        jaxrl.train(**(dict(paper="ppo", env="CartPole-v1") | wrong))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_other_calls_that_are_not_allowed_are_one_line(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = dict(env="CartPole-v1")
    for call, said in (
        (lambda: jaxrl.compare("ppo", **env), "compare: 1 papers; two or more are needed"),
        (lambda: jaxrl.compare([], **env), "compare: 0 papers; two or more are needed"),
        (
            lambda: jaxrl.sweep("ppo", **env, vary={"lr": 1e-3}, seed=999_999),
            "seed: 1000006 is one",
        ),
        (lambda: jaxrl.sweep("ppo", **env, vary={"lr": "1..1e999:log3"}), "vary: 'lr=1..1e999"),
        (lambda: jaxrl.sweep("ppo", **env, vary={"lr": "1..2:log99999999"}), "vary: 'lr=1..2:log"),
        (lambda: jaxrl.tune("ppo", **env, trials=0), "trials: 0 is not a whole number"),
        (lambda: jaxrl.tune("ppo", **env, trials=2.5), "trials: 2.5 is not a whole number"),
        (lambda: run.evaluate(0), "episodes: 0 is outside"),
        (lambda: run.evaluate(gymnasium="X", env_params={"g": 1}), "env_param: Gymnasium's"),
        (lambda: run.evaluate(gymnasium="", env_params={"g": 1}), "env_param: Gymnasium's"),
        (lambda: run.export("p.onnx"), "out: p.onnx does not end in .npz or .stablehlo"),
        (lambda: run.export("p.npz", stochastic=True), "stochastic: an .npz acts either way"),
        (lambda: run.export("no/p.npz"), "out: no is not a folder to write to"),
        (lambda: run.render("p.png"), "out: p.png does not end in .gif, .mp4 or .html"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value).startswith(said), said
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"]


def test_values_may_be_arrays_and_schedules_ends():
    said = jobs.said("ppo", {"lr": np.float32(0.5), "eps": jnp.float32(0.25), "seeds": np.int64(3)})
    assert said["hyper"] == dict(lr=0.5, eps=0.25) and said["run"]["seeds"] == 3
    assert all(type(x) is float for x in said["hyper"].values())
    said = jobs.said("ppo", {"lr.start": 0.5, "env": "CartPole-v1"})
    assert said["hyper"]["lr"] == Linear(0.5, 0.0)  # its end is the default's
    assert jobs.text(np.array([0.1, 0.2])) == "0.1,0.2" and jobs.text(3) == "3"


def test_a_name_it_does_not_have():
    with pytest.raises(AttributeError, match="module 'jaxrl' has no attribute 'trian'"):
        jaxrl.trian  # noqa: B018
    code = "import sys, jaxrl; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class Handle:
    """What a notebook's display gives, to be renewed."""

    def __init__(self):
        self.texts = []

    def update(self, data, **how):
        self.texts.append(data["text/plain"])


def test_a_notebooks_bar_is_one_display(shared, monkeypatch):
    import IPython.display

    handles = []

    def display(data, **how):
        assert how["display_id"] is True
        handles.append(Handle())
        handles[-1].update(data)
        return handles[-1]

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    how = dict(env="CartPole-v1", folder=str(shared / "bar"), seeds=2, steps=320.0, evals=2)
    jaxrl.train("ppo", eval_episodes=20, **how, **SMALL)
    (handle,) = handles  # one display, whatever was said
    assert handle.texts[0] == "compiling ppo on CartPole-v1: 2 seeds, 10 iterations"
    assert "\n2 seeds on 2 devices, 1 on each: " in handle.texts[1]
    first, last = handle.texts[2], handle.texts[-1]
    assert first.splitlines()[0] == last.splitlines()[0] == handle.texts[0]
    assert "32 of 320 steps" in first and last.splitlines()[2].startswith("█" * 30 + "  320 of 320")
    assert len(handle.texts) == 2 + 10 and "s left" in handle.texts[6] and "in all" in last
    assert Path(how["folder"], "summary.json").exists()
