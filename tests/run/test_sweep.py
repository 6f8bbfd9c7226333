"""Sweeps: the grid, one program for each static choice, and what is said of the best point."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jaxrl import hyper
from jaxrl.cli import main
from jaxrl.errors import InputError
from jaxrl.hyper import Linear
from jaxrl.run import sweep
from jaxrl.run.run import build, evaluation_keys, execute, mean_returns, set_up
from jaxrl.run.stats import summarise

TINY = "ppo:num-envs=4,num-steps=8,minibatches=2,hidden=8,epochs=1"
RUN = dict(env="CartPole-v1", seeds=2, seed=0, steps=320, evals=1)
VARY, STATIC = ("lr=1e-3..1e-2:log2", "eps=0.1,0.2,0.3"), ("epochs=1,2",)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder, programs = tmp_path_factory.mktemp("sweep") / "s", []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(sweep, "build", lambda s, **k: programs.append(len(s.seeds)) or build(s, **k))
        asked, said = sweep.plan(TINY, RUN, VARY, STATIC), []
        out = sweep.sweep(asked, folder, say=said.append)
    return asked, folder, out, programs, said


def test_a_program_for_each_static_choice_and_one_for_the_best(swept):
    *_, programs, said = swept
    assert programs == [12, 12, 2]
    assert any("12 rows at once" in line for line in said)


def test_the_grid_is_whole(swept):
    asked, folder, out, *_ = swept
    points = [(r["point"]["epochs"], r["point"]["lr"], r["point"]["eps"]) for r in out["rows"]]
    assert points == [
        (e, lr, eps) for e in (1, 2) for lr in (1e-3, 1e-2) for eps in (0.1, 0.2, 0.3)
    ]
    assert all(len(r["per_seed"]) == 2 for r in out["rows"])
    best = max(r["iqm"] for r in out["rows"])
    assert out["best"]["iqm"] == best and len(out["best"]["fresh"]["per_seed"]) == 2


def test_a_point_is_bitwise_itself_trained_alone(swept):
    """In a batch of the same shape, whatever its other rows are."""
    asked, _, out, *_ = swept
    for i in (1, 11):
        row = out["rows"][i]
        job = asked.at(row["point"])
        s = set_up(job)
        alone = s.sweep([job.hyper] * 12, np.tile([0, 1], 6))
        program = build(alone)
        last = (execute(alone, program), evaluation_keys(alone, 1))
        x = mean_returns(program.greedy(last, alone.hp, alone.world))
        at = 2 * (i % 6)
        assert x[at : at + 2].tolist() == row["per_seed"]


def test_batches_hold_every_row(swept, tmp_path):
    asked, _, out, *_ = swept
    said = []
    again = sweep.sweep(asked, tmp_path / "s", 5, said.append)
    assert any("12 rows in 3 batches of 5" in line for line in said)
    x, y = (np.array([r["per_seed"] for r in rows]) for rows in (again["rows"], out["rows"]))
    assert np.isclose(x, y, rtol=0.02).mean() > 0.8  # in batches of another shape, not bitwise


def test_rows_are_as_many_as_there_is_memory_for(monkeypatch):
    asked = sweep.plan(TINY, RUN, VARY, ())
    s = set_up(asked.at(asked.points[0]))
    hps = [asked.at(p).hyper for p in asked.points for _ in range(2)]
    whole = build(s.sweep(hps, np.tile(s.seeds, 6))).bytes
    assert whole > 12 * 1000
    monkeypatch.setattr(sweep, "available", lambda: int(whole / sweep.SHARE / 2))
    said = []
    program, rows = sweep.fitted(s, hps, np.tile(s.seeds, 6), 0, said.append)
    assert 3 <= rows <= 6 and program.bytes < 0.6 * whole
    assert "GiB" in said[0] and f"batches of {rows}" in said[1]


def test_what_is_done_is_not_done_again(swept, monkeypatch):
    asked, folder, out, *_ = swept

    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr(sweep, "train_rows", refuse)
    assert sweep.sweep(asked, folder)["rows"] == out["rows"]
    other = sweep.plan(TINY, RUN | dict(seeds=3), VARY, STATIC)
    with pytest.raises(InputError, match="holds another sweep"):
        sweep.sweep(other, folder)


def test_the_page_says_which_figure_to_quote(swept):
    *_, out, _, _ = swept
    text = Path(out["files"]["markdown"]).read_text()
    assert "flatters it" in text and "(sweep.png)" in text
    fresh = out["best"]["fresh"]["iqm"]
    assert f"{fresh:.1f}" in text
    assert not re.search(r"""src="(?!data:)""", Path(out["files"]["report"]).read_text())
    assert json.loads((Path(out["files"]["report"]).parent / "sweep.json").read_text())["best"]


def test_ranges():
    assert sweep.values("ppo", "lr=1e-4..1e-2:log3") == ("lr", [1e-4, 1e-3, 1e-2])
    assert sweep.values("ppo", "ent-coef=0..1:lin5") == ("ent_coef", [0, 0.25, 0.5, 0.75, 1])
    assert sweep.values("ppo", "hidden=64,64+64") == ("hidden", [(64,), (64, 64)])
    assert sweep.values("ppo", "normalise-obs=true,false") == ("normalise_obs", [True, False])


BAD = [
    ("", "vary: nothing is varied"),
    ("--vary lr", "vary: 'lr' is not NAME=VALUES"),
    ("--vary lrr=1,2", "ppo: no 'lrr'; did you mean lr"),
    ("--vary lr=1e-2..1e-4:log8", "is not NAME=LOW..HIGH:logN or :linN with LOW < HIGH"),
    ("--vary lr=0..1:log8", "is not NAME=LOW..HIGH"),
    ("--vary lr=0..1", "is not NAME=LOW..HIGH"),
    ("--vary lr=0..1:log1", "is not NAME=LOW..HIGH"),
    ("--vary lr=-1,1", "lr: -1 is outside [0, inf)"),
    ("--vary lr=a,b", "lr: 'a' is not a"),
    ("--vary epochs=2,4", "vary: epochs is static, a program each: --static epochs=..."),
    ("--static lr=0.1,0.2", "vary: lr is vmapped: --vary lr=..."),
    ("--vary lr=0.1,0.1", "lr: a value is given twice"),
    ("--vary lr=0.1 --vary lr=0.2", "vary: lr is given twice"),
    ("--vary lr=0.1 --static minibatches=3", "minibatches: 3 does not divide"),
    ("--vary lr=0.1 --rows -1", "rows: -1 is outside [0, inf)"),
    ("--vary lr=0.1 --seeds 0", "seeds: 0 is outside"),
    ("--vary horizon=1,2", "no 'horizon'"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[b[0] for b in BAD])
def test_bad_input(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e:
        main(["sweep", "ppo", "--env", "CartPole-v1", *words.split(), "--run", "out"])
    err = capsys.readouterr().err
    assert (e.value.code, err.count("\n")) == (2, 1) and said in err, err
    assert list(tmp_path.iterdir()) == []


def test_of_points_with_equal_middles_the_steadier_is_the_best():
    row = lambda *x: summarise(np.array(x, float))
    steady, shaky, lost = row(5, 5, 5, 5, 5, 5), row(0, 5, 5, 5, 5, 5), row(9, 9, np.nan)
    low = row(4, 4, 4, 4, 4, 9)
    assert steady["iqm"] == shaky["iqm"] == 5
    order = sorted([shaky, lost, steady, low], key=sweep.merit, reverse=True)
    assert [r is x for r, x in zip(order, (steady, shaky, low, lost))] == [True] * 4


def test_a_sweep_shares_what_it_does_not_vary():
    """A `lax.cond` by a shared value stays one; by a row's own both sides are computed for all."""
    s = set_up(sweep.plan(TINY, RUN, ["gamma=0.9"], ()).job)
    points, seeds = [s.job.hyper.replace(gamma=x) for x in (0.9, 0.9, 0.8)], np.arange(2)
    shapes = lambda s, at: {k: x.shape for k, x in hyper.leaves(s.sweep(at, seeds).hp).items()}
    any_, mine = shapes(s, points[:2]), shapes(s.among(points), points[:2])
    assert {k for k, shape in any_.items() if shape == ()} == {"horizon"}
    assert {k for k, shape in mine.items() if shape == (2,)} == {"gamma"}
    flat = [hp.replace(lr=1e-3) for hp in points]  # where the default is a schedule
    assert isinstance(s.job.hyper.lr, Linear)
    assert set(shapes(s.among(flat), flat[:2])) == {k for k in any_ if "lr" not in k} | {"lr"}
