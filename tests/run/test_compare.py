"""Comparisons: rows, the picture, the pages; going on after a stop."""

import base64
import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from jaxrl.cli import main
from jaxrl.errors import InputError
from jaxrl.run import compare, document, pages, record
from jaxrl.run import job as jobs
from jaxrl.run.stats import interval, iqm

TINY = "num_envs=4,num_steps=8,minibatches=2,epochs=1,hidden=8"
METHODS = [f"ppo:{TINY}", f"spo:{TINY}", "ecrm_pg"]
ENVS = ["CartPole-v1", "Catch-bsuite"]
RUN = dict(seeds=3, seed=0, steps=320, evals=1)


class Stop(Exception):
    pass


def shown(after=10**9, log=None):
    """A `shown` that counts the runs and stops at one of them."""
    log = [] if log is None else log

    @contextlib.contextmanager
    def show(job):
        log.append((job.paper, job.env))
        if len(log) > after:
            raise Stop
        yield (lambda chunk: None), (lambda line: None)

    return show


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Stopped before its fifth run, and started again."""
    folder = tmp_path_factory.mktemp("compare") / "c"
    with pytest.raises(Stop):
        compare.compare(METHODS, ENVS, RUN, folder, shown(4))
    before = {p: p.stat().st_mtime_ns for p in folder.glob("**/metrics.npz")}
    out = compare.compare(METHODS, ENVS, RUN, folder, shown())
    return folder, out, before


def test_every_method_has_a_row_and_one_that_cannot_run_its_error(compared):
    folder, out, before = compared
    rows = out["rows"]
    assert [(r["env"], r["paper"]) for r in rows] == [(e, m) for e in ENVS for m in METHODS]
    for r in rows:
        assert bool(r["error"]) == (r["paper"] == "ecrm_pg")
        if r["error"]:
            assert "has no tables" in r["error"]
            continue
        summary = record.load_summary(Path(r["folder"]))
        assert r["final_return"] == summary["final_return"]
        assert len(r["final_return"]["per_seed"]) == 3
        assert (r["against"] is None) == (r["paper"] == METHODS[0])
    assert json.loads((folder / "comparison.json").read_text())["rows"] == rows
    assert before and all(p.stat().st_mtime_ns == t for p, t in before.items())  # not run again


def test_against_the_first_is_mann_and_whitneys_u(compared):
    rows = compared[1]["rows"]
    x, y = (np.array(rows[i]["final_return"]["per_seed"]) for i in (1, 0))
    wins = np.mean([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
    assert rows[1]["against"]["paper"] == METHODS[0]
    np.testing.assert_allclose(rows[1]["against"]["probability_of_improvement"], wins)
    np.testing.assert_allclose(rows[1]["against"]["difference"], iqm(x) - iqm(y))


def test_another_comparison_is_refused(compared, tmp_path):
    folder, *_ = compared
    with pytest.raises(InputError, match="holds a comparison of run .*'seeds': 3.*'seeds': 4"):
        compare.compare(METHODS, ENVS, RUN | dict(seeds=4), folder, shown())
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        compare.compare(METHODS, ENVS, RUN, tmp_path, shown())


def test_the_scale_of_several_environments_is_stated(compared):
    rows = compared[1]["rows"]
    s = compare.scale(rows)
    assert s.ranges["CartPole-v1"] == (22.8, 500.0) and "random policy" in s.words
    own = [r | dict(env=r["env"].replace("Catch-bsuite", "mine:make")) for r in rows]
    s = compare.scale(own)
    x = [x for r in own if not r["error"] and ":" in r["env"] for x in compare.per_seed(r)]
    assert s.ranges["mine:make"] == (min(x), max(x)) and "worst seed" in s.words
    bars = compare.overall(own, s)
    assert set(bars) == set(METHODS[:2])  # not the one that failed
    low, high = np.array([s.ranges[e] for e in s.ranges]).T[:, :, None]
    x = np.stack([compare.per_seed(r) for r in own if r["paper"] == METHODS[0]])
    np.testing.assert_allclose(bars[METHODS[0]][0], iqm(((x - low) / (high - low)).ravel()))
    alone = [r for r in rows if r["env"] == ENVS[0]]
    bars = compare.overall(alone, compare.scale(alone))
    x = compare.per_seed(alone[0])
    assert bars[METHODS[0]] == (float(iqm(x)), interval(x))


def test_the_page_is_whole_by_itself(compared):
    folder, out, _ = compared
    text = Path(out["files"]["report"]).read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "data:image/png;base64," in text and "has no tables" in text
    words = Path(out["files"]["markdown"]).read_text()
    assert "(comparison.png)" in words and "spo" in words
    assert Path(out["files"]["picture"]).stat().st_size > 20_000


def test_a_report_skips_what_it_cannot_read(compared, tmp_path, capsys):
    folder, out, _ = compared
    one = next(r["folder"] for r in out["rows"] if not r["error"])
    half = tmp_path / "half"
    half.mkdir()
    (half / "summary.json").write_text('{"final_return": ')
    with pytest.raises(SystemExit) as e:
        main(["report", str(half), one, str(tmp_path / "none")])
    said = capsys.readouterr()
    assert e.value.code == 0
    assert said.out.split() == [f"{one}/report.html", f"{one}/report.md"]
    assert said.err.count("skipped: ") == 2 and str(half) in said.err
    assert "acting by its mode" in Path(one, "report.md").read_text()
    with pytest.raises(SystemExit) as e:
        main(["report", str(half)])
    assert e.value.code == 2


def test_a_page_shows_the_policies_at_work(compared, capsys):
    folder, out, _ = compared
    one, other = (Path(r["folder"]) for r in out["rows"] if r["env"] == ENVS[1] and not r["error"])
    for path in folder.glob("**/report.gif"):
        path.unlink()
    with pytest.raises(SystemExit):
        main(["report", "--no-films", str(one)])
    assert not (one / "report.gif").exists()
    assert "image/gif" not in (one / "report.html").read_text()
    config = (other / "config.toml").read_text()
    (other / "config.toml").write_text(config.replace('"spo"', '"./mine.py"'))
    with pytest.raises(SystemExit) as e:
        main(["report", str(one), str(other)])
    said = capsys.readouterr().err
    assert e.value.code == 0 and said.count("no film: ") == 1 and "./mine.py is code" in said
    (other / "config.toml").write_text(config)
    assert (one / "report.gif").exists() and not (other / "report.gif").exists()
    assert "data:image/gif;base64," in (one / "report.html").read_text()
    assert "(report.gif)" in (one / "report.md").read_text()
    files = pages.of(folder)  # what is there, and no other
    assert Path(files["report"]).read_text().count("data:image/gif") == 1
    name = (one / "report.gif").relative_to(folder)
    assert f"]({name})" in Path(files["markdown"]).read_text()


def test_films_are_inside_a_page_and_beside_its_twin(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"film")
    (tmp_path / "b.html").write_text("<script>'x'</script>")
    shots = [document.Picture(tmp_path / name, f"{name}|") for name in ("a.mp4", "b.html")]
    text = document.as_html("x", [document.Row(shots)])
    assert f'src="data:video/mp4;base64,{base64.b64encode(b"film").decode()}"' in text
    assert 'sandbox="allow-scripts" srcdoc="&lt;script&gt;' in text and "<script>" not in text
    words = document.markdown("x", [document.Row(shots)], tmp_path)
    assert "| [a.mp4\\|](a.mp4) | [b.html\\|](b.html) |" in words.replace("\\\\", "\\")


def test_a_method_may_have_settings_of_its_own():
    slug, hyper, network = jobs.method("ppo:eps=0.1,lr=1e-3:0,hidden=64+32,normalise-obs=true")
    assert (slug, hyper["eps"], hyper["normalise_obs"]) == ("ppo", 0.1, True)
    assert (hyper["lr"].start, hyper["lr"].end, network) == (1e-3, 0.0, dict(hidden=(64, 32)))
    job = compare.plan(["ppo:hidden=64+32"], ["CartPole-v1"], RUN | dict(steps=2048), Path("x"))[
        0
    ].job
    assert job.network.hidden == (64, 32)
    for text, said in (
        ("ppo:epz=1", "no 'epz'; did you mean eps"),
        ("ppo:eps", "is not NAME=VALUE"),
    ):
        with pytest.raises(InputError, match=said):
            jobs.method(text)


def test_names_are_escaped_and_cells_stay_cells(tmp_path):
    evil = "<script>alert(1)</script>|\n"
    parts = [document.Table(["a"], [[evil]]), document.Text(evil), document.Code(evil)]
    text = document.as_html(evil, parts)
    assert "<script>" not in text and text.count("&lt;script&gt;") == 5
    table = document.markdown("x", parts[:1], tmp_path).split("\n\n")[1]
    assert len(table.splitlines()) == 3 and "\\|" in table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ppo", "compare: 1 papers; two or more are needed"),
        ("ppo spo", "env: none given"),
        ("ppo sp --env CartPole-v1", "paper: no 'sp'; did you mean"),
        ("ppo spo --env CartPole-v1 Acrobot", "env: no 'Acrobot'; did you mean Acrobot-v1"),
        ("ppo ppo --env CartPole-v1", "paper: ppo is named twice"),
        ("ppo spo --env CartPole-v1 CartPole-v1", "env: CartPole-v1 is named twice"),
        ("ppo ppo:eps=0 --env CartPole-v1", "eps: 0 is outside (0, inf]"),
        ("ppo spo --env CartPole-v1 --seeds 0", "seeds: 0 is outside [1, 65536]"),
        ("ppo spo --env CartPole-v1 --steps 5", "steps: 5 is less than one iteration"),
        ("ppo spo --env CartPole-v1 --on-nan x", "on_nan: x is not one of stop, freeze"),
    ],
)
def test_bad_input(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e:
        main(["compare", *words.split(), "--run", "out"])
    err = capsys.readouterr().err
    assert (e.value.code, err.count("\n")) == (2, 1) and said in err
    assert list(tmp_path.iterdir()) == []


def test_the_table_fits_its_columns():
    from jaxrl.cli.compare import columns

    lines = columns(
        [pages.HEAD, ["a", "b", "1", "2", "3", "", "5", "6"], ["a", "b", "x " * 60, *[""] * 5]]
    )
    assert lines[0].index("95 %") == lines[1].index("2")
    assert lines[2].rstrip().endswith("x")
