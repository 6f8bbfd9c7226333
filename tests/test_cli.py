"""What a person sees: one line and exit code 2 for bad input, and nothing left behind."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrl.cli import main
from jaxrl.cli.app import COMMANDS

ROOT = Path(__file__).parents[1]


def call(argv, capsys):
    """(exit code, standard output, standard error) of the command in this process."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


TRAIN = ["train", "ppo", "--env", "CartPole-v1", "--run", "out"]
SMALL = ["--num-envs", 4, "--num-steps", 8, "--minibatches", 2, "--hidden", "8", "--evals", 1]

# arguments, and what the one line must hold: the name, its value, what is allowed
BAD = [
    (["trian"], "command: no 'trian'; did you mean train"),
    (["train", "pppo"], "paper: no 'pppo'; did you mean pdppo or ppo"),
    (["train", "--env", "CartPole-v1"], "paper: none before --env"),
    (["train", "./nothing.py"], "nothing.py: No such file"),
    (["train", "ppo"], "env: none given; jaxrl envs lists them"),
    (["train", "ppo", "--env", "CartPol-v1"], "env: no 'CartPol-v1'; did you mean CartPole-v1"),
    (["train", "ppo", "--env", "brax/swimmer"], "brax/swimmer"),
    (["train", "ppo", "--env", "nowhere:make"], "no module 'nowhere'"),
    ([*TRAIN, "--lrr", 1], "No such option '--lrr'"),
    ([*TRAIN, "--lr", -1], "lr: -1.0 is outside [0, inf)"),
    ([*TRAIN, "--lr", "nan"], "lr: nan"),
    ([*TRAIN, "--lr", "inf"], "lr: inf is outside [0, inf)"),
    ([*TRAIN, "--lr", "fast"], "lr: 'fast' is not a number or a schedule a:b"),
    ([*TRAIN, "--lr", "1e-3:-1"], "lr: -1.0 is outside [0, inf)"),
    ([*TRAIN, "--gamma", 1.1], "gamma: 1.1 is outside [0, 1]"),
    ([*TRAIN, "--gamma", "0.9:1"], "gamma: '0.9:1' is not a number"),
    ([*TRAIN, "--lam", -0.1], "lam: -0.1 is outside [0, 1]"),
    ([*TRAIN, "--eps", 0], "eps: 0.0 is outside (0, inf]"),
    ([*TRAIN, "--vf-clip", 0], "vf_clip: 0.0 is outside (0, inf]"),
    ([*TRAIN, "--max-grad-norm", 0], "max_grad_norm: 0.0 is outside (0, inf]"),
    ([*TRAIN, "--ent-coef", -1], "ent_coef: -1.0 is outside [0, inf)"),
    ([*TRAIN, "--num-envs", 0], "num_envs: 0 is outside [1, inf)"),
    ([*TRAIN, "--num-envs", 1.5], "num_envs: '1.5' is not a whole number"),
    ([*TRAIN, "--num-steps", -4], "num_steps: -4 is outside [1, inf)"),
    ([*TRAIN, "--epochs", 0], "epochs: 0 is outside [1, inf)"),
    ([*TRAIN, "--minibatches", 3], "minibatches: 3 does not divide num_envs * num_steps"),
    ([*TRAIN, "--memory", 8, "--minibatches", 32], "minibatches: 32 does not divide num_envs = 16"),
    ([*TRAIN, "--seeds", 0], "seeds: 0 is outside [1, 65536]"),
    ([*TRAIN, "--seeds", "many"], "seeds: 'many' is not a whole number"),
    ([*TRAIN, "--seed", -1], "seed: -1 is outside [0, 4294967295]"),
    ([*TRAIN, "--seed", 2**32], "seed: 4294967296 is outside [0, 4294967295]"),
    ([*TRAIN, "--seed", 2**32 - 1, "--seeds", 2], "seed: 4294967295 + 2 seeds"),
    ([*TRAIN, "--steps", 0], "steps: 0 is outside [1, "),
    ([*TRAIN, "--steps", 1000], "steps: 1000 is less than one iteration of 1024 steps"),
    ([*TRAIN, "--num-steps", 0], "num_steps: 0 is outside [1, inf)"),
    ([*TRAIN, "--evals", 0], "evals: 0 is outside [1, 10000]"),
    ([*TRAIN, "--eval-episodes", 3], "eval_episodes: 3 is outside [20, 100000]"),
    (
        [*TRAIN, "--seeds", 3, "--devices", 2],
        "devices: 2 neither divides nor is a multiple of seeds = 3",
    ),
    ([*TRAIN, "--devices", "most"], "devices: 'most' is not a whole number or all"),
    ([*TRAIN, "--groups", 3], "groups: 3 does not divide num_envs = "),
    ([*TRAIN, "--seeds", 99, "--devices", 99], "devices: 99 are more than the "),
    ([*TRAIN, "--seed-mode", "pmap"], "seed_mode: pmap is not one of auto, vmap, map"),
    ([*TRAIN, "--activation", "tahn"], "activation: tahn is not one of tanh, relu"),
    ([*TRAIN, "--torso", "rnn"], "torso: rnn is not one of mlp, cnn"),
    ([*TRAIN, "--torso", "cnn"], "of at least 3 x 3; CartPole-v1 has Box(4,)"),
    ([*TRAIN, "--hidden", "64,x"], "hidden: 'x' is not a whole number"),
    ([*TRAIN, "--hidden", "64,0"], "hidden: 0 is outside [1, inf)"),
    ([*TRAIN, "--memory", -1], "memory: -1 is outside [0, inf)"),
    ([*TRAIN, "--head", "squashed"], "head: 'squashed' does not fit Discrete(2) actions"),
    ([*TRAIN, "--env-param", "gravity"], "'gravity' is not NAME=NUMBER"),
    ([*TRAIN, "--env-param", "gravty=3"], "did you mean gravity"),
    ([*TRAIN, "--config", "missing.toml"], "missing.toml: No such file"),
    ([*TRAIN[:-1], ROOT / "tests"], "exists and is not an empty folder"),
    (["train", "ecrm_pg", "--env", "CartPole-v1"], "CartPole-v1 has no tables; an exact method"),
    (["train", "ppo", "--env", "cover/coverage"], "cover/coverage pays 2 rewards a step"),
    (["train", "subpo", "--env", "CartPole-v1"], "env: CartPole-v1 does not suit subpo: Assertion"),
    (["train", "pdppo", "--env", "CartPole-v1"], "CartPole-v1 does not say what is certain"),
    (["train", "ppo", "--env=CartPol-v1"], "env: no 'CartPol-v1'; did you mean CartPole-v1"),
    (["train", "ppo", "--env", "CartPole-v1", "--run", "x" * 300], "File name too long"),
    (["train", "ppo", "--env", "CartPole-v1", "--run", "/dev/null/x"], "/dev/null/x"),
    ([*TRAIN, "--shared", "--memory", 8], "shared: a GRU is one trunk"),
    ([*TRAIN, "--steps", "1e13"], "steps: 10000000000000 is outside [1, 1000000000000]"),
    ([*TRAIN, "--hidden", ""], "hidden: '' is not a whole number"),
    ([*TRAIN, "--lr", "1e-3:"], "lr: '1e-3:' is not a number or a schedule a:b"),
    ([*TRAIN, "--checkpoint-every", "0"], "checkpoint_every: '0' is not a number of iterations"),
    ([*TRAIN, "--checkpoint-every", "5h"], "'5h' is not a number of iterations, or minutes as 5m"),
    ([*TRAIN, "--checkpoint-every", "-1m"], "checkpoint_every: '-1m' is not a number"),
    ([*TRAIN, "--keep", 0], "keep: 0 is outside [1, 10000]"),
    ([*TRAIN, "--on-nan", "ignore"], "on_nan: ignore is not one of stop, freeze"),
    (["resume", "nowhere"], "run: nowhere is not the folder of a run"),
    (["resume", "nowhere", "--steps", "many"], "steps: 'many' is not a whole number"),
    (["check-env", "CartPole-v1", "--steps", "x"], "steps: 'x' is not a whole number"),
    (["evaluate", "nowhere"], "run: nowhere is not the folder of a finished run"),
    (["evaluate", "nowhere", "--episodes", 0], "episodes: 0 is outside [1, 100000]"),
    (["papers", "--chapter", "onpolicy"], "chapter: no 'onpolicy'; did you mean on_policy"),
    (["check-paper", "pp"], "paper: no 'pp'; did you mean ppo"),
    (["claims"], "claims: name papers, or --all"),
    (["claims", "ppo", "--all"], "claims: name papers, or --all"),
    (["claims", "ppo", "sp"], "paper: no 'sp'; did you mean"),
    (["claims", "a2c"], "claim: a2c has no check"),
    (["claims", "./nothing.py"], "nothing.py: No such file"),
    (["worker"], "queue: none given; jaxrl worker --queue DIR"),
    (["worker", "--queue", "nowhere"], "queue: nowhere is no queue; jaxrl compare --queue"),
    (["worker", "--queue", "q", "--lease", 0], "lease: 0.0 is outside [1, 86400]"),
    (["worker", "--queue", "q", "--slurm-param", "a=1"], "slurm_param: a=1 without --slurm N"),
    (["worker", "--queue", "q", "--slurm", 0], "slurm: 0 is outside [1, inf)"),
    (["check-env", "CartPol-v1"], "did you mean CartPole-v1"),
    (["check-env", "CartPole-v1", "--steps", 0], "steps: 0 is outside [1, inf)"),
]


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[" ".join(map(str, b[0][-3:])) for b in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(argv, capsys)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


CONFIGS = [
    ("[hyper]\nlrr = 1.0", "PPO: no 'lrr'; did you mean lr"),
    ("[hyper]\nlr = true", "lr: True is not a"),
    ("[hyper]\nnum_envs = 2.5", "num_envs: 2.5 is not an int"),
    ("[hyper]\nnum_envs = true", "num_envs: True is not an int"),
    ('[hyper]\ngamma = "high"', "gamma: 'high' is not a float"),
    ('[hyper]\nlr = "1:x"', "lr: '1:x' is not a number or a schedule"),
    ("[run]\nstepz = 3", "run: no 'stepz'; did you mean steps"),
    ("[run]\nsteps = 2.5", "steps: 2.5 is not an int"),
    ("[nets]\na = 1", "config: no 'nets'; did you mean network"),
    ("[network]\nhiden = [3]", "Network: no 'hiden'; did you mean hidden"),
    ("[network]\nhidden = 3", "hidden: 3 is not"),
    ("run = 3", "config: run: 3 is not a table"),
    ("[run]\nnetwork = 3", "run: no 'network'"),
    ("[env_params]\nmax_steps = true", "max_steps: True is outside [1, inf)"),
    ("[run", "config:"),
]


@pytest.mark.parametrize(("text", "said"), CONFIGS, ids=[c[0].replace("\n", " ") for c in CONFIGS])
def test_bad_configurations_too(text, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(text)
    code, out, err = call([*TRAIN, "--config", "c.toml"], capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert [p.name for p in tmp_path.iterdir()] == ["c.toml"]


def test_help_and_mistyped_names_need_no_jax():
    script = (
        "import sys, contextlib\nfrom jaxrl.cli import main\n"
        "for argv in (['--help'], ['--version'], ['trian'], ['train', '--help'], ['train', 'pp'],\n"
        "             ['train', 'ppo', '--env', 'CartPol'], ['papers'], ['envs'],\n"
        "             ['check-paper', 'pp'], ['claims', 'pp'], ['worker', '--help'], ['worker']):\n"
        "    with contextlib.suppress(SystemExit): main(argv)\n"
        "    assert not {'jax', 'gymnax', 'brax'} & set(sys.modules), argv"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_hyperparameter_is_a_documented_flag(capsys):
    code, out, _ = call(["train", "ppo", "--help"], capsys)
    assert code == 0
    flags = "--lr --gamma --lam --eps --num-envs --num-steps --minibatches --epochs --ent-coef"
    for (
        name
    ) in f"{flags} --vf-coef --max-grad-norm --vf-clip --steps --seeds --env --hidden".split():
        line = re.search(rf"^  {name}[ /].*\n(?:   .*\n)*", out, re.M)
        assert line, name
        assert "default" in line[0] or name == "--env", name
    _, out, _ = call(["train", "--help"], capsys)
    assert "Progress" in out


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_a_commands_help_fits_a_screen(name, capsys):
    _, out, _ = call([*name.split(), "--help"], capsys)
    assert len(out.splitlines()) <= 40


def test_a_papers_help_fits_a_tall_one(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    _, out, _ = call(["train", "ppo", "--help"], capsys)
    assert len(out.splitlines()) <= 66


def test_train_by_json_prints_the_summary_and_nothing_else(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text("[hyper]\ngamma = 0.5\nlam = 0.5\n[run]\nseeds = 2\n")
    argv = [*TRAIN, *SMALL, "--config", "c.toml", "--gamma", 0.7, "--steps", "1e2", "--json"]
    code, out, err = call(argv, capfd)
    assert code == 0, err
    summary = json.loads(out)
    assert summary == json.loads(Path("out/summary.json").read_text())
    assert summary["steps"] == 96  # whole iterations of 32
    assert summary["seeds"] == 2  # the file's, over the default
    config = Path("out/config.toml").read_text()
    assert "gamma = 0.7" in config  # a flag over the file
    assert "lam = 0.5" in config
    assert "run      out" in err

    code, out, _ = call(["evaluate", "out", "--episodes", 20, "--json"], capfd)
    assert code == 0
    played = json.loads(out)
    assert played["trained"] == summary["final_return"]
    assert len(played["final_return"]["per_seed"]) == 2


def test_a_paper_of_ones_own(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = (ROOT / "jaxrl/papers/on_policy/ppo.py").read_text()
    Path("mine.py").write_text(source.replace('"slug": "ppo"', '"slug": "mine"'))
    argv = [
        "train",
        "./mine.py",
        "--env",
        "CartPole-v1",
        *SMALL,
        "--steps",
        64,
        "--quiet",
        "--eps",
        0.1,
    ]
    code, _, err = call(argv, capfd)
    assert (code, err) == (0, "")
    assert len(list(Path("runs/CartPole-v1/mine").iterdir())) == 1


PAPERS = [
    ("PAPER = 3", "PAPER is not a dictionary"),
    ("PAPER = {[]: 1}", "PAPER is not a literal"),
    ("PAPER: dict = {}", "PAPER has a type"),
    ("x = 1", "has no PAPER"),
    ("def f(:", "mine.py: invalid syntax"),
    ("PAPER = dict(slug='x')", "PAPER is not a literal"),
    ("PAPER = {'slug': 'x'}", "PAPER lacks title, chapter, hyper, claim"),
    ("{paper}\nimport nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    ("{paper}\n1 / 0", "ZeroDivisionError: division by zero"),
    ("{paper}\nclass H: pass", "defines no make"),
    ("{paper}\nclass H: pass\ndef make(w, n): pass", "H has no for_env: extend a family's class"),
]


@pytest.mark.parametrize(("source", "said"), PAPERS, ids=[p[1] for p in PAPERS])
def test_bad_paper_files(source, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paper = dict.fromkeys(("slug", "title", "chapter", "claim"), "x") | {"hyper": "H"}
    Path("mine.py").write_text(source.replace("{paper}", f"PAPER = {paper}"))
    code, out, err = call(["train", "./mine.py", "--env", "CartPole-v1"], capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


OWN = """
import jax.numpy as jnp
from flax import struct
from envs.base import Step
from envs.spaces import Box, Discrete

@struct.dataclass
class Own:
    name = "own"
    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Discrete(2)
    max_steps = 0

    def reset(self, key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, key, state, action):
        {step}

make = Own
"""
OWN_ENVS = [
    ("return 1 / 0", "ZeroDivisionError: division by zero"),
    ("return Step(state, state, jnp.zeros(3), True, False)", "a reward has shape (3,)"),
]


@pytest.mark.parametrize(("step", "said"), OWN_ENVS)
def test_a_faulty_environment_of_ones_own(step, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_env", raising=False)
    Path("own_env.py").write_text(OWN.replace("{step}", step))
    code, out, err = call(["train", "ppo", "--env", "own_env:make"], capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_help_shows_the_defaults_of_the_environments_class(capsys):
    _, out, _ = call(["train", "ppo", "--env", "brax/hopper", "--help"], capsys)
    assert "0.0003" in out and "those of brax environments" in out
    _, out, _ = call(["train", "ppo", "--help"], capsys)
    assert "0.0025" in out and "0.0003" not in out


def test_lists(capfd):
    _, out, _ = call(["papers", "--json"], capfd)
    rows = json.loads(out)
    assert len(rows) == 372
    fields = {"id", "slug", "title", "chapter", "file", "status", "evidence"}
    assert all(fields <= set(r) for r in rows)
    assert all(set(r["evidence"]) == {"equation_tests", "battery", "claim"} for r in rows)
    _, out, _ = call(["papers", "--json", "--chapter", "on_policy"], capfd)
    assert {r["chapter"] for r in json.loads(out)} == {"on_policy"}
    _, out, _ = call(["papers", "--json", "--references"], capfd)
    assert {"a2c", "reinforce", "ppo_kl"} <= {r["slug"] for r in json.loads(out)}
    _, out, _ = call(["envs", "--json"], capfd)
    assert {"name": "CartPole-v1", "kind": "classic"} in json.loads(out)
