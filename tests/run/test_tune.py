"""The search with Optuna: batches of one program, what a kill costs, and what is to be quoted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jaxrl.cli import main
from jaxrl.errors import InputError, RunError
from jaxrl.run import pages, sweep, tune
from jaxrl.run.run import build, set_up
from jaxrl.run.sweep import Range
from tests.run.test_sweep import RUN, TINY

optuna = pytest.importorskip("optuna")

VARY, STATIC = ("lr.start=1e-4..1e-1:log", "eps=0.1,0.2"), ("epochs=1,2",)


def search(folder, trials, vary=VARY, static=STATIC, **run):
    asked = tune.plan(TINY, RUN | run, vary, static)
    return asked, tune.tune(asked, folder, trials, batch=3)


def results(out):
    return [(r["number"], r["point"], r["per_seed"], r["state"]) for r in out["trials"]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder, programs = tmp_path_factory.mktemp("tune") / "t", []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(sweep, "build", lambda s, **k: programs.append(len(s.seeds)) or build(s, **k))
        asked, out = search(folder, 10)
    return asked, folder, out, programs


@pytest.fixture
def pretended(monkeypatch):
    """No training: a return that is best at lr.start 0.01, and a little better with more epochs."""

    def returns(self, these, seeds):
        best = [-((np.log10(j.hyper.lr.start) + 2) ** 2) + 0.1 * j.hyper.epochs for j in these]
        return np.tile(np.array(best)[:, None], len(seeds)) + 0.001 * np.arange(len(seeds))

    monkeypatch.setattr(tune.Programs, "__call__", returns)


# ---- the search ------------------------------------------------------------------------------


def test_a_program_for_each_static_choice(searched):
    *_, out, programs = searched
    assert {r["point"]["epochs"] for r in out["trials"]} == {1, 2}
    assert programs == [6, 6]  # three trials of two seeds; the fresh seeds go through the same


def test_a_batch_has_one_static_choice_and_the_first_trial_the_papers_values(searched):
    *_, out, _ = searched
    epochs = [r["point"]["epochs"] for r in out["trials"]]
    assert all(len(set(epochs[i : i + 3])) == 1 for i in range(0, 10, 3))
    assert out["trials"][0]["point"] == {"epochs": 1, "lr.start": 0.0025, "eps": 0.2}
    assert epochs[:6] == [1, 1, 1, 2, 2, 2]  # each is tried, whatever the sampler likes
    assert len({r["point"]["lr.start"] for r in out["trials"]}) == 10


def test_a_trial_is_bitwise_its_point_trained_by_a_sweep(searched):
    asked, _, out, _ = searched
    for i in (1, 9):  # the last batch has one trial alone
        row = out["trials"][i]
        s = set_up(asked.at(row["point"]))
        x = sweep.train_rows(s, [s.job.hyper] * 6, np.tile([0, 1], 3), 0, lambda line: None)
        assert x[:2].tolist() == row["per_seed"]
        assert row["iqm"] == x[:2].mean()


def test_the_best_is_measured_against_the_defaults_on_fresh_seeds(searched):
    asked, _, out, _ = searched
    best, default = out["best"], out["default"]
    assert best["iqm"] == max(r["iqm"] for r in out["trials"])
    assert default["point"] == {"epochs": 1, "lr.start": 0.0025, "eps": 0.2}
    for job, kept in ((asked.at(best["point"]), best), (asked.job, default)):
        seeds = np.arange(sweep.FRESH, sweep.FRESH + 8)
        s = set_up(job)
        x = sweep.train_rows(s, [job.hyper] * 8, seeds, 6, lambda line: None)
        assert x.tolist() == kept["fresh"]["per_seed"]
    x, y = (np.array(k["fresh"]["per_seed"]) for k in (best, default))
    wins = np.mean([(a > b) + 0.5 * (a == b) for a in x for b in y])
    assert out["against"]["probability_of_improvement"] == pytest.approx(wins)
    gap = sum(sorted(x)[2:6]) / 4 - sum(sorted(y)[2:6]) / 4
    assert out["against"]["difference"] == pytest.approx(gap)


def test_it_searches_upwards(pretended, tmp_path):
    _, out = search(tmp_path / "t", 48)
    away = [abs(np.log10(r["point"]["lr.start"]) + 2) for r in out["trials"]]
    assert np.mean(away[-24:]) < 0.6 * 5 / 6  # 5/6: of numbers drawn evenly over the range
    epochs = [r["point"]["epochs"] for r in out["trials"]]
    assert out["best"]["iqm"] > 0.19 and np.mean(epochs[24:]) > 1.5


def test_another_seed_asks_otherwise(pretended, tmp_path):
    _, one = search(tmp_path / "a", 6)
    _, two = search(tmp_path / "b", 6, seed=7)
    assert [r["point"] for r in one["trials"][1:]] != [r["point"] for r in two["trials"][1:]]


# ---- stopped and gone on -------------------------------------------------------------------------


class Killed(BaseException):
    pass


def killing(monkeypatch, owner, name, when):
    """The call of owner.name after which nothing more is done."""
    real, calls = getattr(owner, name), []

    def call(*args, **rest):
        calls.append(1)
        if len(calls) == when:
            raise Killed
        return real(*args, **rest)

    monkeypatch.setattr(owner, name, call)


def states(folder):
    storage = optuna.storages.journal.JournalFileBackend(str(folder / tune.JOURNAL))
    study = optuna.load_study(
        study_name="tune", storage=optuna.storages.journal.JournalStorage(storage)
    )
    return [t.state.name for t in study.trials]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_killed_search_ends_as_one_that_was_not(batch, searched, tmp_path, monkeypatch):
    """In its second batch, and in its last, which is of one trial."""
    folder, done, lost = tmp_path / "t", 3 * batch, min(3, 10 - 3 * batch)
    with monkeypatch.context() as m:
        killing(m, tune.Programs, "__call__", batch + 1)
        with pytest.raises(Killed):
            search(folder, 10)
    assert states(folder) == ["COMPLETE"] * done + ["RUNNING"] * lost
    with (folder / tune.JOURNAL).open("a") as file:
        file.write('{"op_code":')  # a line in pieces
    rows = []
    monkeypatch.setattr(sweep, "build", lambda s, **k: rows.append(len(s.seeds)) or build(s, **k))
    _, out = search(folder, 10)
    assert set(rows) == {6}  # the last batch too: its bits are those of that shape
    assert states(folder) == ["COMPLETE"] * done + ["FAIL"] * lost + ["COMPLETE"] * (10 - done)
    assert results(out) == results(searched[2])
    for name in ("best", "default", "against"):
        assert out[name] == searched[2][name]


@pytest.mark.parametrize(
    ("name", "when", "left"),
    [
        ("ask", 5, ["COMPLETE"] * 3 + ["RUNNING"]),
        ("tell", 6, ["COMPLETE"] * 5 + ["RUNNING"]),
        ("set_user_attr", 5, ["COMPLETE"] * 3 + ["RUNNING"] * 3),
    ],
)
def test_wherever_it_is_killed(name, when, left, pretended, tmp_path, monkeypatch):
    _, whole = search(tmp_path / "whole", 12)
    with monkeypatch.context() as m:
        owner = optuna.trial.Trial if name == "set_user_attr" else optuna.study.Study
        killing(m, owner, name, when)
        with pytest.raises(Killed):
            search(tmp_path / "t", 12)
    assert states(tmp_path / "t") == left
    _, out = search(tmp_path / "t", 12)
    assert results(out) == results(whole)


def test_more_trials_go_on(pretended, tmp_path, monkeypatch):
    _, few = search(tmp_path / "t", 6)
    _, more = search(tmp_path / "t", 12)
    assert results(more)[:6] == results(few) and len(more["trials"]) == 12
    with monkeypatch.context() as m:
        killing(m, tune.Programs, "__call__", 1)
        assert search(tmp_path / "t", 12)[1]["best"] == more["best"]  # nothing is trained again
    with pytest.raises(InputError, match="holds another search"):
        search(tmp_path / "t", 12, seeds=3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(InputError, match="is not an empty folder"):
        search(tmp_path / "other", 3)


# ---- what fails ----------------------------------------------------------------------------------


def test_a_trial_lost_to_nan_fails_and_is_never_the_best(tmp_path):
    folder = tmp_path / "t"
    _, out = search(folder, 6, ("lr.start=0.0025,1e38,1e37",), ())
    lost = [r for r in out["trials"] if r["state"] == "fail"]
    assert lost and all(r["point"]["lr.start"] > 1 for r in lost)
    assert all(r["why"] == "lost to NaN: seed 0, 1" and r["iqm"] is None for r in lost)
    assert out["best"]["point"]["lr.start"] == 0.0025
    assert states(folder).count("FAIL") == len(lost)
    assert "lost to NaN" in Path(out["files"]["markdown"]).read_text()


def test_values_that_do_not_go_together_fail_a_trial(pretended, tmp_path, monkeypatch):
    real = sweep.Plan.at

    def at(self, point):
        if point.get("lr.start", 0) > 0.01:
            raise InputError("lr: too much for this eps")
        return real(self, point)

    asked = tune.plan(TINY, RUN, VARY, STATIC)
    monkeypatch.setattr(sweep.Plan, "at", at)
    out = tune.tune(asked, tmp_path / "t", 12, batch=3)
    much = [r["point"]["lr.start"] > 0.01 for r in out["trials"]]
    assert 0 < sum(much) < 12 and len(much) == 12
    assert [r.get("why") == "lr: too much for this eps" for r in out["trials"]] == much


def test_all_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tune.Programs, "__call__", lambda self, these, seeds: np.full((len(these), len(seeds)), nan)
    )
    nan = np.nan
    with pytest.raises(RunError, match="all 3 trials failed: lost to NaN: seed 0, 1") as e:
        search(tmp_path / "t", 3)
    assert e.value.code == 4


# ---- what is said --------------------------------------------------------------------------------


def test_the_page_and_the_picture(searched, tmp_path):
    _, folder, out, _ = searched
    text = Path(out["files"]["markdown"]).read_text()
    assert "flatters it" in text and "(tune.png)" in text
    assert f"{out['default']['fresh']['iqm']:.4g}" in text
    assert "jaxrl train ppo --env CartPole-v1 --steps 320 --hidden 8 --lr" in text
    assert not re.search(r"""src="(?!data:)""", Path(out["files"]["report"]).read_text())
    assert all(Path(p).stat().st_size > 1000 for p in out["files"].values())
    assert pages.of(folder) == out["files"]


def test_the_command_prints_its_json(pretended, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["tune", TINY, "--env", "CartPole-v1", "--trials", "5", "--batch", "3", "--json"]
    with pytest.raises(SystemExit) as e:
        main([*words, "--seeds", "2", "--steps", "320", "--run", "t"])
    assert e.value.code == 0
    printed, said = capfd.readouterr()
    out = json.loads(printed)
    assert set(out) == {"trials", "best", "default", "against", "files"}
    assert [r["number"] for r in out["trials"]] == list(range(5))
    row = {"number", "point", "iqm", "mean", "min", "ci95", "per_seed", "state"}
    assert all(set(r) == row for r in out["trials"]) and set(out["best"]) == row | {"fresh"}
    assert set(out["against"]) == {"probability_of_improvement", "difference", "ci95"}
    assert set(out["files"]) == {"picture", "report", "markdown", "journal"}
    assert "searching lr.start=0.00025..0.025:log, eps=0.0666667..0.6:log" in said


SPACES = [
    ("ppo", "CartPole-v1", "lr.start=0.00025..0.025:log, eps=0.0666667..0.6:log"),
    ("ppo:lr=1e-3", "CartPole-v1", "eps=0.0666667..0.6:log"),
    ("ppo", "Pendulum-v1", "lr=3e-05..0.003:log, eps=0.0666667..0.6:log"),
    ("n_vr_pg", "CartPole-v1", "lr=0.001..0.1:log, eta=0.0333333..0.3:log"),
    ("ppo_kl", "CartPole-v1", "d_targ=0.00333333..0.03:log, beta=0.333333..3:log"),
    ("a2c", "CartPole-v1", "lr.start=0.00025..0.025:log"),
]


@pytest.mark.parametrize(("method", "env", "space"), SPACES)
def test_the_space_where_none_is_said(method, env, space):
    assert space in tune.described(tune.plan(method, RUN | dict(env=env, steps=10**5)))


def test_ends_stay_within_bounds():
    assert tune.inside(3.0, 1.0, "(0, 1]") == 1.0
    assert tune.inside(2.4, 0.8, "[0, 1)") == 0.998
    assert tune.inside(0.5, 1.5, "(1, inf)") == 1.005
    assert tune.inside(0.6, 0.2, "(0, inf]") == 0.6


def test_ranges():
    assert sweep.values("ppo", "lr=1e-4..1e-2:log", True) == ("lr", Range(1e-4, 1e-2, True))
    assert sweep.values("ppo", "gamma=0.9..1:lin", True) == ("gamma", Range(0.9, 1.0, False))
    assert sweep.values("ppo", "lr=1e-4..1e-2:log3", True) == ("lr", [1e-4, 1e-3, 1e-2])


BAD = [
    ("--vary lr", "vary: 'lr' is not NAME=VALUES"),
    ("--vary lr=0..1:log", "is not NAME=LOW..HIGH:log, :lin, :logN or :linN with LOW < HIGH"),
    ("--vary lr=1..0:lin", "with LOW < HIGH"),
    ("--vary lr=-1..1:lin", "lr: -1.0 is outside [0, inf)"),
    ("--vary eps=0..1:lin", "eps: 0.0 is outside (0, inf]"),
    ("--vary lr.end=-1..1:lin", "lr: -1.0 is outside [0, inf)"),
    ("--vary gamma=0.5..2:log", "gamma: 2.0 is outside [0, 1]"),
    ("--vary gamma.start=0.1,0.2", "ppo: no 'gamma.start'"),
    ("--vary lr=0.1,0.2 --vary lr.start=0.1,0.2", "vary: lr is given twice"),
    ("--vary lr=0.1,1e-3:0", "lr: a number and a schedule do not go in one program"),
    ("--vary epochs=1..8:log", "vary: epochs is static, a program each: --static epochs=..."),
    ("--static epochs=1..8:log", "vary: epochs is static: epochs=V,V,... and no range"),
    ("--static lr=0.1,0.2", "vary: lr is vmapped: --vary lr=..."),
    ("--static minibatches=3", "minibatches: 3 does not divide"),
    ("--trials 0", "trials: 0 is not a whole number in [1, inf)"),
    ("--batch 0", "batch: 0 is not a whole number in [1, inf)"),
    ("--rows -1", "rows: -1 is not a whole number in [0, inf)"),
    ("--seeds 0", "seeds: 0 is outside"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[b[0] for b in BAD])
def test_bad_input(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e:
        main(["tune", "ppo", "--env", "CartPole-v1", *words.split(), "--run", "out"])
    err = capsys.readouterr().err
    assert (e.value.code, err.count("\n")) == (2, 1) and said in err, err
    assert list(tmp_path.iterdir()) == []


def test_without_optuna(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as e:
        main(["tune", "ppo", "--env", "CartPole-v1"])
    err = capsys.readouterr().err
    assert (e.value.code, err.count("\n")) == (2, 1) and "pip install 'jaxrl[tune]'" in err
    assert list(tmp_path.iterdir()) == []


def test_its_help_fits_a_screen(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
