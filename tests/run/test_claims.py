"""Claims: what is read, how it is judged, and that a run of one can be broken off."""

import json

import numpy as np
import pytest

from jaxrl.errors import InputError
from jaxrl.run import arms, catalogue, claims, evidence

MINE = '''
"""Mine. Nobody, 2026."""

from jaxrl.papers.on_policy.ppo import PPO, make

PAPER = {
    "slug": "mine", "title": "Mine", "chapter": "on_policy", "hyper": "PPO", "claim": "it learns",
    "check": {
        "on": {"probe/match": 1600, "probe/action": 1600},
        "hyper": {"num_envs": 4, "num_steps": 8, "minibatches": 2, "ent_coef": 0.0},
        "network": {"hidden": [8]},
        "tune": {"lr": [1e-7, 0.03]},
        "by": "mean episode_return",
        "arms": {"still": {"hyper": {"vf_coef": 0.0}, "tune": {"lr": [1e-8, 1e-7]}}},
        "says": ["mean episode_return > still on probe/match", "max grad_norm < 0"],
    },
}
'''


@pytest.fixture
def mine(tmp_path):
    def write(old="", new=""):
        assert old in MINE
        file = tmp_path / "mine.py"
        file.write_text(MINE.lstrip().replace(old, new) if old else MINE.lstrip())
        return str(file)

    return write


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"max grad_norm < 0"', '"grad_norm < 0"', "max, mean, last or final of what?"),
        ('"max grad_norm < 0"', '"max grad_norm is 0"', "is not `METRIC < or > ARM-or-NUMBER`"),
        ('"max grad_norm < 0"', '"final_return > stil"', "did you mean still?"),
        ('"max grad_norm < 0"', '"final_return > still"', "no range for probe/action"),
        ('"max grad_norm < 0"', '"max grad_norm of stil < 0"', "did you mean still?"),
        ("on probe/match", "on probe/mat", "did you mean probe/match or"),
        ('"lr": [1e-8, 1e-7]', '"lr": [1e-8]', "different numbers of points"),
        ('"tune": {"lr": [1e-7', '"tun": {"lr": [1e-7', "did you mean tune"),
        ('"says"', '"by": "grad_norm", "says"', "by: 'grad_norm' is not final_return or"),
        ('"says"', '"say"', "has no check"),
    ],
)
def test_what_is_no_claim_is_said_in_one_line(mine, old, new, words):
    with pytest.raises(InputError) as error:
        claims.read(mine(old, new))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_is_unsaid_is_the_familys():
    claim, own = claims.read("gpg"), claims.read("grpo")
    assert claim.on == {"tokens/add": 51_200} and claim.seeds == 10
    assert claim.by == "last episode_return"
    assert claim.arms["gpg"].tune == claim.arms["grpo"].tune == {"lr": [5e-4, 1e-3, 2e-3]}
    assert own.on == {"tokens/add": 102_400} and claims.read("ppo").seeds == claims.SEEDS


def test_what_a_method_examines_at_the_end_is_a_metric(monkeypatch):
    """All metrics of a run, and the examination's under `final`."""
    job = arms.jobs.resolve(
        run=dict(paper="gpg", env="tokens/tiny", steps=32, seeds=2, evals=1, eval_episodes=20),
        env_params={},
        network=dict(hidden=(8,)),
        hyper=dict(prompts=4, group=4, accumulate=2),
    )
    s = arms.set_up(job)
    program = arms.build(s)
    got = arms.scores(s, program)
    assert set(got) == set(arms.named(s)) and all(len(x) == 2 for x in got.values())
    assert {"final_return", "final pass_at_8", "last entropy", "max grad_norm"} <= set(got)
    assert (got["max entropy"] >= got["mean entropy"]).all()
    assert set(arms.scores(s, program, "last entropy")) == {
        x for x in got if not x.startswith("final")
    }
    with pytest.raises(InputError, match="gpg: metric: no 'pass_at_9'; did you mean pass_at_8"):
        arms.there({"final pass_at_9"}, got, claims.read("gpg").arms["gpg"])


def test_the_point_is_the_one_that_reached_most_or_least():
    tried = [3.0, np.nan, 7.0, 1.0]
    assert arms.choose(tried, "last utility") == 2 and arms.choose(tried, "-last gap") == 3


def test_a_static_field_is_not_tuned(mine):
    claim = claims.read(mine('"tune": {"lr": [1e-7, 0.03]}', '"tune": {"epochs": [1, 2]}'))
    arm = claim.arms["mine"]
    with pytest.raises(InputError, match="epochs is static"):
        arms.measure(arms.Asked(arm, "probe/match", 1600, 2, {"final_return"}))


def test_a_metric_that_is_not_there_is_said_before_anything_compiles(mine):
    claim = claims.read(mine("max grad_norm", "max grad_nrm"))
    with pytest.raises(InputError, match="mine: metric: no 'grad_nrm'; did you mean grad_norm"):
        asked = arms.Asked(claim.arms["mine"], "probe/match", 1600, 2, {"max grad_nrm"})
        arms.measure(asked)


def test_every_check_of_the_kit_is_readable():
    for slug, paper in catalogue.papers().items():
        if "check" in paper:
            claim = claims.read(slug)
            assert next(iter(claim.arms)) == slug
            for arm in claim.arms.values():
                arms.points(
                    arms.jobs.resolve(
                        run=dict(paper=arm.paper, env=next(iter(claim.on))),
                        env_params={},
                        network=arm.network,
                        hyper=arm.hyper,
                    ),
                    arm.tune,
                )


def judged(text, method, other, envs=("CartPole-v1",)):
    arms = {"a": None, "b": None}
    says = claims.statement("a", text, envs, arms)
    scores = lambda x: dict(scores={says.metric: list(x)})
    done = {e: dict(a=scores(m), b=scores(o)) for e, m, o in zip(envs, method, other)}
    return claims.judge(says, done)


def test_a_statement_holds_only_if_its_whole_interval_does():
    rng = np.random.default_rng(0)
    x, y = rng.normal(100, 10, (2, 16))
    assert judged("final_return > b", [x], [y - 40])["verdict"] == "reproduced"
    assert judged("final_return > b", [x], [y])["verdict"] == "not reproduced"
    assert judged("final_return > b", [x], [y + 40])["verdict"] == "not reproduced"
    assert judged("final_return < b", [x], [y + 40])["verdict"] == "reproduced"
    assert judged("final_return > b - 30", [x], [y])["verdict"] == "reproduced"
    assert judged("final_return > b + 60", [x], [y - 40])["verdict"] == "not reproduced"
    assert judged("final_return of b > a", [x], [y + 40])["verdict"] == "reproduced"
    assert judged("max kl < 130", [x], [y])["verdict"] == "reproduced"
    assert judged("max kl < 100", [x], [y])["verdict"] == "not reproduced"


def test_a_diverged_seed_does_not_reproduce_anything():
    x = np.full(16, 400.0)
    x[3] = np.nan
    got = judged("final_return > b", [x], [np.zeros(16)])
    assert got["verdict"] == "not reproduced" and got["difference"] is None
    json.dumps(got, allow_nan=False)


def test_returns_over_environments_are_put_on_one_scale():
    """CartPole's 477 points and Pendulum's 1046 count alike: (261.4 - 22.8) / 477.2 = 0.5."""
    envs = ("CartPole-v1", "Pendulum-v1")
    half, low = [np.full(16, 261.4), np.full(16, -672.0)], [np.full(16, 22.8), np.full(16, -1195.0)]
    got = judged("final_return > b", half, low, envs)
    assert got["difference"] == pytest.approx(0.5)
    assert got["metric"] == "normalised final_return"
    assert judged("final_return > b on CartPole-v1", half, low, envs)[
        "difference"
    ] == pytest.approx(238.6)


@pytest.mark.slow
def test_a_claim_is_tuned_run_recorded_and_can_be_broken_off(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "SEEDS", 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    slug, lines = mine(), []
    real = arms.measure

    def broken(x):
        if x.env == "probe/action":
            raise KeyboardInterrupt
        return real(x)

    monkeypatch.setattr(arms, "measure", broken)
    with pytest.raises(KeyboardInterrupt):
        claims.run(slug, say=lines.append)
    assert sum(line.startswith("probe/match") for line in lines) == 2
    measured = []
    watched = lambda x: measured.append(x.env) or real(x)
    monkeypatch.setattr(arms, "measure", watched)
    lines.clear()
    got = claims.run(slug, say=lines.append)
    assert measured == ["probe/action"] * 2  # the others were kept
    assert got == json.loads((catalogue.Path(slug).with_suffix(".claim.json")).read_text())
    own = got["arms"]["probe/match"]["mine"]
    assert own["tuned"] == {"lr": 0.03}  # of the two, the one that learns
    assert [set(p) for p in own["tuning"]] == [{"lr", "mean episode_return"}] * 2
    assert [p["lr"] for p in own["tuning"]] == [1e-7, 0.03]
    assert [s["verdict"] for s in got["statements"]] == ["reproduced", "not reproduced"]
    assert got["verdict"] == "not reproduced"
    assert got["n"] == 8 and got["file_sha256"] == evidence.sha256(catalogue.find(slug))
